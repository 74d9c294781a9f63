"""Protocols on plain numbers."""
