"""Images in: sources, preparing them, and the one chain of batches."""
