"""What follows a run while it goes, Weights & Biases or nothing, and where its numbers come from."""
