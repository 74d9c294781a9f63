"""Protocols that run Topaz."""
