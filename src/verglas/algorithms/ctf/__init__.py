"""Estimate the contrast transfer function of micrographs."""
