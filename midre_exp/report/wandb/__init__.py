"""Dashboards and records in Weights & Biases."""
