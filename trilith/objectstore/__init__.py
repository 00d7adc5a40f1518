"""Object storage: accounts, containers and objects."""
