"""Protocols that refine maps."""
