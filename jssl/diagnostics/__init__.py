"""What features are like: measures with and without labels."""
