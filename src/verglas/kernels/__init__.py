"""Pure torch functions on batches of images, volumes and rotations."""
