"""What follows a run while it goes: Weights & Biases or nothing."""
