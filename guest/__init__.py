"""The guest image: a small Linux for trying, showing and testing a cloud."""
