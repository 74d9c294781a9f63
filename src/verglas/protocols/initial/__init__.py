"""Protocols that find a first map."""
