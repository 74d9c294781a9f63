"""Protocols that sort particles by 2D class averages."""
