"""From a command line to the key of every stage. Nothing here loads torch."""
