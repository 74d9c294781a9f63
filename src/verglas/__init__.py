"""Verglas: cryo-EM and cryo-ET from the detector to the map."""

__version__ = "0.1.0"
