"""How fast images come from JPEGs to the devices."""
