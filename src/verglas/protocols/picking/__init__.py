"""Protocols that find particles in micrographs."""
