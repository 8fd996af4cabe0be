"""The fault campaign: runs killed, raced, ended and damaged at random, then compared with undisturbed ones
(docs/faults.md).
"""

from __future__ import annotations


class Violation(Exception):
    """A guarantee is broken; the text says which and what differed."""
