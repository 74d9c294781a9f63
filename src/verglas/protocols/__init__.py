"""The steps of the work, one file each; found by the registry."""
