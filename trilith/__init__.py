"""Trilith: a highly available, OpenStack-compatible private cloud as one program."""

__version__ = "0.1.0"
