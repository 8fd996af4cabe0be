"""What a run costs before it is run: arithmetic, memory traffic, kernels and memory of every stage."""
