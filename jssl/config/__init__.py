"""Configuration: a `ConfigDict` parsed once into frozen dataclasses."""
