"""What a compiled program says of itself: its HLO text, read."""
