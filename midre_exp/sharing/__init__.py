"""Results handed on: bundles of records, and other formats for them. No torch, and nothing is executed."""
