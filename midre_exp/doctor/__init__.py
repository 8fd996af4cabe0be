"""What can run here, and what is missing."""
