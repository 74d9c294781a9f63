"""Protocols that make, import, compare and finish maps."""
