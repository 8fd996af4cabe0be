"""StyleGAN networks, their files and their training."""
