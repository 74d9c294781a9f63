"""Motion of movie frames: likelihood, splines, sums."""
