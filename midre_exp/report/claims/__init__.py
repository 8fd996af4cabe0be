"""What records say to the paper's claims."""
