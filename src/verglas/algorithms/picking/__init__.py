"""Find particles in micrographs."""
