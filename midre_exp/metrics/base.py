"""What a metric sees and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Unavailable(Exception):
    """A metric cannot be computed here; the text says why and is stored in the record in place of a number."""


@dataclass(frozen=True)
class Evaluation:
    """Reconstructions as the evaluator judges them, beside the private training images of the attacked identities. All on the CPU.

    ``images`` uint8 [n, 3, h, w], ``labels`` and ``restarts`` int64 [n], ``logits`` [n, k] and ``features`` [n, d] of the evaluator;
    ``private_features`` [m, d] with ``private_labels`` int64 [m].
    """

    images: Tensor
    labels: Tensor
    restarts: Tensor
    logits: Tensor
    features: Tensor
    private_features: Tensor
    private_labels: Tensor


class Metric(Protocol):
    """A metric is built by ``_target_`` from ``conf/metrics`` and called once per attack."""

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """Named numbers; raises Unavailable when they cannot be computed."""
        ...
