"""The kernel regime on a data set: views, kernel, optima, classifiers."""
