"""Protocols on micrographs."""
