"""A blinded page of questions for people, and its answers."""
