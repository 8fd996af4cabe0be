"""Generators, their training, and their networks by name."""

from midre_exp.priors.networks import build_network

__all__ = ["build_network"]
