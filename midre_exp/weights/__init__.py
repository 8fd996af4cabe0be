"""Foreign weight files, read without executing anything of them, and our own checkpoints."""
