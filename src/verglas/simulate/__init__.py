"""Ground truth for tests and demonstrations: specimens, particles, micrographs, noise."""
