"""Artifacts on disk, built once by one of many processes. Nothing here loads torch."""
