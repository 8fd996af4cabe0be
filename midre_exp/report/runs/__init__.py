"""The runs a table shows, planned and recorded, and the paper's numbers."""
