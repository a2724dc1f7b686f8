"""What a run needs on devices that are not there, before they are rented."""
