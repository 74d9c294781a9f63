"""Protocols on particle images."""
