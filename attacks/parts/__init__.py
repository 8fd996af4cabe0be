"""What several attacks share, or one would hide behind."""
