"""Likelihood classification and refinement, 2D and 3D, one code for both."""
