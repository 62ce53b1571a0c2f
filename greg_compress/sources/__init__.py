"""What the user brings: network architectures and data sets."""
