"""What a metric sees and returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Unavailable(Exception):
    """A metric cannot be computed here; the text says why and is stored in the record in place of a number."""


@dataclass(frozen=True)
class Evaluation:
    """Reconstructions as the evaluator judges them, beside the private training images of the attacked identities. All on the CPU.

    ``images`` uint8 [n, 3, h, w], ``labels`` and ``restarts`` int64 [n], ``logits`` [n, k] and ``features`` [n, d] of the evaluator;
    ``private_features`` [m, d] with ``private_labels`` int64 [m]. The pictures behind these are rows ``private_rows`` int64 [m] of
    ``private_images`` uint8 [N, 3, H, W], all private training images at the evaluator's resolution: they may lie on disk, so take
    them a batch at a time. ``device``: where a metric runs a network of its own.
    """

    images: Tensor
    labels: Tensor
    restarts: Tensor
    logits: Tensor
    features: Tensor
    private_features: Tensor
    private_labels: Tensor
    private_images: Tensor
    private_rows: Tensor
    device: torch.device

    @property
    def successful(self) -> Tensor:
        """Which reconstructions the evaluator takes for the attacked identity, bool [n]."""
        return self.logits.argmax(1) == self.labels


class Metric(Protocol):
    """A metric is built by ``_target_`` from ``conf/metrics`` and called once per attack."""

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """Named numbers; raises Unavailable when they cannot be computed."""
        ...
