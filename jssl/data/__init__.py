"""Data sets: sources of images, preparation and the pipeline of batches."""
