"""Synthetic faces, rendered on the fly."""
