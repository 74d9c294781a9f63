"""Render data sets and projects as pictures, panels and pages; arrays in, pictures out."""

__all__: list[str] = []
