"""Pick particles with the networks of Topaz."""
