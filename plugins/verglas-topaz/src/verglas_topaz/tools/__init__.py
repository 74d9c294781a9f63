"""The program Topaz."""
