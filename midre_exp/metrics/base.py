"""What a metric sees and returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor


class Unavailable(Exception):
    """A metric cannot be computed here; the text says why and is stored in the record in place of a number."""


@dataclass(frozen=True)
class Evaluation:
    """Reconstructions as the evaluator judges them, beside the private training images of the attacked
    identities. All on the CPU.

    ``images`` uint8 [n, 3, h, w], ``labels`` and ``restarts`` int64 [n], ``logits`` [n, k] and ``features``
    [n, d] of the evaluator; ``private_features`` [m, d] with ``private_labels`` int64 [m]. The pictures
    behind these are rows ``private_rows`` int64 [m] of ``private_images`` uint8 [N, 3, H, W], all private
    training images at the evaluator's resolution: they may lie on disk, so take them a batch at a time.
    ``device``: where a metric runs a network of its own.

    An attack that selects is judged by what it selected: all of the above are of these n, with ``restarts``
    0, 1, .. within each identity, and ``unfiltered`` holds the evaluator's logits [N, k] and the labels [N]
    of everything it made; None for an attack that does not. ``confidence`` [n]: the target's softmax of the
    label, in [0, 1]. ``stages`` uint8 [n, stages, 3, h', w']: pictures on the way, of an attack that keeps
    them; ``judge`` gives the evaluator's logits [m, k] of uint8 pictures [m, 3, h', w']. ``shared``: what
    metrics of one evaluation compute for each other, by a name of their own choice.
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
    unfiltered: tuple[Tensor, Tensor] | None = None
    confidence: Tensor | None = None
    stages: Tensor | None = None
    judge: Callable[[Tensor], Tensor] | None = None
    shared: dict[object, Tensor] = field(default_factory=dict)

    @property
    def successful(self) -> Tensor:
        """Which reconstructions the evaluator takes for the attacked identity, bool [n]."""
        return self.logits.argmax(1) == self.labels


class Metric(Protocol):
    """A metric is built by ``_target_`` from ``conf/metrics`` and called once per attack."""

    def __call__(self, seen: Evaluation) -> dict[str, float]:
        """Named numbers, none where the metric does not apply to the attack; raises Unavailable when they
        cannot be computed.
        """
        ...
