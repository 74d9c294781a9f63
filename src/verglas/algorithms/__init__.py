"""Procedures on tensors: they know nothing of projects, tables or files."""
