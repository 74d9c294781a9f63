"""Protocols that make data with known truth."""
