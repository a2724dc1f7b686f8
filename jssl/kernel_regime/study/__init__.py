"""Kernel regime on an image data set: `python -m jssl.study kernels|bridge`."""
