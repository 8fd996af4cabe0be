"""What a report is about: planned runs and their records, and the paper's numbers."""
