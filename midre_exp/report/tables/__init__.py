"""Tables from records."""
