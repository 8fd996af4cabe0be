"""What a metric is shown and returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from midre_exp.metrics.judge import Judge
from midre_exp.numerics import Numerics
from midre_exp.targets.predict import predicted_classes


class Unavailable(Exception):
    """A metric cannot be computed here; the text says why and is stored in the record in place of a
    number.
    """


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Reconstructions as the evaluator classifies them, beside the private training images of the attacked
    identities. All on the CPU.

    An attack that selects is evaluated by what it selected: all n items are of these.
    """

    images: Tensor  # uint8 [n, 3, h, w] or, where floats are judged, float32, nominally in [0, 1]
    labels: Tensor  # int64 [n], the attacked identities
    restarts: Tensor  # int64 [n], 0, 1, .. within each identity
    logits: Tensor  # [n, k] of the evaluator
    features: Tensor  # [n, d] of the evaluator; d is 0 for one that gives logits alone
    private_features: Tensor  # [m, d]
    private_labels: Tensor  # int64 [m]
    #: uint8 [N, 3, H, W], all private training images at the evaluator's resolution: they may lie on disk, so
    #: take them a batch at a time.
    private_images: Tensor
    private_rows: Tensor  # int64 [m], the private images behind private_features
    device: torch.device  # where a metric runs a network of its own
    numerics: Numerics = field(default_factory=Numerics)  # and how
    #: The evaluator's logits [N, k] and the labels [N] of everything the attack found; None if it does not
    #: select.
    unfiltered: tuple[Tensor, Tensor] | None = None
    confidence: Tensor | None = None  # [n], the target's softmax of the label, in [0, 1]
    phases: Tensor | None = None  # uint8 [n, phases, 3, h', w'] after each phase, if the attack keeps them
    #: Bool [n, phases, judges, 2], whether an attack that had its phases judged in passing was recognised
    #: then, top-1 and top-5; of the evaluator and, if that is another, of it rebuilt (``Judge.rebuilt``).
    phase_hits: Tensor | None = None
    judge: Judge | None = None  # the evaluator behind ``logits``, to be asked about other images
    #: What metrics of one evaluation compute for each other, by a name of their own choice.
    shared: dict[object, Tensor] = field(default_factory=dict)

    @property
    def successful(self) -> Tensor:
        """Which reconstructions the evaluator takes for the attacked identity, bool [n]."""
        return predicted_classes(self.logits) == self.labels

    def feature_sets(self) -> tuple[Tensor, Tensor]:
        """The evaluator's features of reconstructions [n, d] and private images [m, d]. Raises Unavailable
        for an evaluator without features.
        """
        if not self.features.shape[1]:
            raise Unavailable("the evaluator gives logits alone and no features")
        return self.features, self.private_features


class Metric(Protocol):
    """A metric is built by ``_target_`` from ``conf/metrics`` and called once per attack."""

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """Named numbers, none where the metric does not apply to the attack; raises Unavailable when they
        cannot be computed.
        """
        ...
