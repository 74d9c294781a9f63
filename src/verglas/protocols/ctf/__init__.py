"""Compare estimates of the contrast transfer function."""
