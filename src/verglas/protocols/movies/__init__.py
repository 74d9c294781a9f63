"""Protocols for movies."""
