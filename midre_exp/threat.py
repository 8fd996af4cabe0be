"""What an attacker may see of a target. An attack is handed a victim, never a model.

A victim keeps its network inside a closure: a score victim has no attribute that leads to features or
gradients, a label victim none that leads to scores. Every victim counts queries (images classified).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import Protocol

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier, Output


class Threat(str, Enum):
    """The three threat models of the model inversion literature."""

    WHITE_BOX = "white_box"  # logits, features, gradients
    SCORES = "scores"  # class probabilities
    LABELS = "labels"  # the predicted class


class Victim(Protocol):
    """What all victims share."""

    num_classes: int
    queries: int

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """How strongly the target agrees, as far as the threat model shows: [n] in [0, 1]."""
        ...


class _Counting:
    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.queries = 0


class WhiteBoxVictim(_Counting):
    """Gives logits, features and gradients with respect to the images. Weights are frozen."""

    def __init__(self, query: Callable[[Tensor, Sequence[str]], Output], num_classes: int):
        super().__init__(num_classes)
        self._query = query

    def __call__(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """Classify float images [n, 3, h, w] in [0, 1]; differentiable in ``images``."""
        self.queries += len(images)
        return self._query(images, taps)

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Softmax probability of each label, [n]."""
        with torch.no_grad():
            return self(images).logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


class ScoreVictim(_Counting):
    """Gives class probabilities without a graph."""

    def __init__(self, query: Callable[[Tensor], Tensor], num_classes: int):
        super().__init__(num_classes)
        self._query = query

    def scores(self, images: Tensor) -> Tensor:
        """Class probabilities [n, k] of float images [n, 3, h, w] in [0, 1]."""
        self.queries += len(images)
        return self._query(images)

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Probability of each label, [n]."""
        return self.scores(images).gather(1, labels[:, None]).squeeze(1)


class LabelVictim(_Counting):
    """Gives the predicted class alone."""

    def __init__(self, query: Callable[[Tensor], Tensor], num_classes: int):
        super().__init__(num_classes)
        self._query = query

    def labels(self, images: Tensor) -> Tensor:
        """Predicted classes int64 [n] of float images [n, 3, h, w] in [0, 1]."""
        self.queries += len(images)
        return self._query(images)

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """1 where the target predicts the label, else 0, [n]."""
        return (self.labels(images) == labels).float()


AnyVictim = WhiteBoxVictim | ScoreVictim | LabelVictim


def make_victim(model: Classifier, num_classes: int, threat: Threat) -> AnyVictim:
    """Wrap a trained classifier for one threat model. The model is put in eval mode and its weights are
    frozen in place.

    Raises ConfigError for a threat model that is not one of ``Threat``.
    """
    model.eval().requires_grad_(False)

    def white_box(images: Tensor, taps: Sequence[str]) -> Output:
        output: Output = model(images, taps)
        return output

    @torch.no_grad()
    def scores(images: Tensor) -> Tensor:
        logits: Tensor = model(images).logits
        return logits.softmax(1)

    @torch.no_grad()
    def labels(images: Tensor) -> Tensor:
        logits: Tensor = model(images).logits
        return logits.argmax(1)

    if threat is Threat.WHITE_BOX:
        return WhiteBoxVictim(white_box, num_classes)
    if threat is Threat.SCORES:
        return ScoreVictim(scores, num_classes)
    if threat is Threat.LABELS:
        return LabelVictim(labels, num_classes)
    raise ConfigError(f"threat model {threat!r} is unknown; use one of {', '.join(t.value for t in Threat)}")
