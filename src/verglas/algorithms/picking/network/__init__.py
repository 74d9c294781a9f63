"""Find particles with a small fully convolutional network."""
