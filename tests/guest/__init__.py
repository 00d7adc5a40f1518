"""The guest image, booted."""
