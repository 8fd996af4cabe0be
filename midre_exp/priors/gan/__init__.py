"""Training of the small GANs."""
