"""Protocols that bring files into a project."""
