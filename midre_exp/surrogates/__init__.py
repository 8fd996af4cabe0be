"""What attacks prepare against one target besides their prior; one file each."""
