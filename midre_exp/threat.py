"""What an attacker may see of a target. An attack is handed a victim, never a model.

A victim keeps its network inside a closure: a score victim has no attribute that leads to features or
gradients, a label victim none that leads to scores. Every victim counts queries (images classified).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Literal, overload

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError, DivergedError
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.predict import predicted_classes

#: What a deployed target answers in place of its probabilities [n, k] for images float [n, 3, h, w].
Answer = Callable[[Tensor, Tensor], Tensor]
#: A network that can be attacked: float images [n, 3, h, w] in [0, 1] to logits [n, k], or to ``Output``.
Network = Callable[..., Tensor | Output]


class Threat(str, Enum):
    """The three threat models of the model inversion literature."""

    WHITE_BOX = "white_box"  # logits, features, gradients
    SCORES = "scores"  # class probabilities
    LABELS = "labels"  # the predicted class


class Victim(ABC):
    """What all victims share; ``Victim.of`` makes one of a network."""

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self.queries = 0  #: images classified so far
        self._largest: Tensor | None = None  # of all answers since they were last checked; NaN wins

    def check_answers(self) -> None:
        """Raise DivergedError if an answer was not finite since this was last asked. Waits for the device,
        which a query that gives numbers never does.
        """
        largest, self._largest = self._largest, None
        if largest is not None and not bool(largest.isfinite()):
            raise DivergedError(
                "the target gave answers that are not finite",
                "check its weights, the prior and the learning rate of what asked it",
            )

    def _remember(self, answers: Tensor) -> None:
        """Note on the device whether all of ``answers`` are numbers."""
        largest = answers.detach().amax()
        self._largest = largest if self._largest is None else torch.maximum(self._largest, largest)

    @abstractmethod
    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """How strongly the target agrees, as far as the threat model shows: [n] in [0, 1]."""

    @overload
    @staticmethod
    def of(
        network: Network,
        num_classes: int,
        threat: Literal[Threat.WHITE_BOX] = Threat.WHITE_BOX,
        answer: Answer | None = None,
    ) -> WhiteBoxVictim: ...
    @overload
    @staticmethod
    def of(
        network: Network, num_classes: int, threat: Literal[Threat.SCORES], answer: Answer | None = None
    ) -> ScoreVictim: ...
    @overload
    @staticmethod
    def of(
        network: Network, num_classes: int, threat: Literal[Threat.LABELS], answer: Answer | None = None
    ) -> LabelVictim: ...
    @overload
    @staticmethod
    def of(
        network: Network, num_classes: int, threat: Threat | str, answer: Answer | None = None
    ) -> AnyVictim: ...
    @staticmethod
    def of(
        network: Network,
        num_classes: int,
        threat: Threat | str = Threat.WHITE_BOX,
        answer: Answer | None = None,
    ) -> AnyVictim:
        """A network as one threat model shows it.

        ``network``: a module or any function of float images [n, 3, h, w] in [0, 1], which normalises them
        itself and returns logits [n, ``num_classes``] or ``midre_exp.targets.Output``; with logits alone it
        has no features. A module is put in eval mode and its weights are frozen in place. ``answer``: what
        the target, as it is deployed, answers in place of its probabilities; who holds the network (white
        box) goes past it. Raises ConfigError for an unknown threat model and, at the first query, for another
        answer.
        """
        if isinstance(network, nn.Module):
            network.eval().requires_grad_(False)

        def white_box(images: Tensor, taps: Sequence[str]) -> Output:
            if isinstance(network, Classifier):
                return _as_output(network(images, taps), num_classes)
            if taps:
                raise ConfigError(
                    f"hidden activations ({', '.join(taps)}) were asked of a network that cannot give them; "
                    "derive it from midre_exp.targets.Classifier"
                )
            return _as_output(network(images), num_classes)

        @torch.no_grad()
        def scores(images: Tensor) -> Tensor:
            probabilities = white_box(images, ()).logits.softmax(1)
            return probabilities if answer is None else _answered(answer, probabilities, images)

        @torch.no_grad()
        def labels(images: Tensor) -> Tensor:
            logits = white_box(images, ()).logits
            if answer is None:
                return predicted_classes(logits)
            probabilities = logits.softmax(1)
            answered = _answered(answer, probabilities, images)
            # where nothing was changed logits, which tell apart what rounds to the same probability
            return predicted_classes(logits if answered is probabilities else answered)

        if threat == Threat.WHITE_BOX:
            return WhiteBoxVictim(white_box, num_classes)
        if threat == Threat.SCORES:
            return ScoreVictim(scores, num_classes)
        if threat == Threat.LABELS:
            return LabelVictim(labels, num_classes)
        raise ConfigError(
            f"threat model {threat!r} is unknown; use one of {', '.join(t.value for t in Threat)}"
        )


class WhiteBoxVictim(Victim):
    """Gives logits, features and gradients with respect to the images. Weights are frozen."""

    def __init__(self, query: Callable[[Tensor, Sequence[str]], Output], num_classes: int):
        super().__init__(num_classes)
        self._query = query

    def __call__(self, images: Tensor, taps: Sequence[str] = ()) -> Output:
        """Classify float images [n, 3, h, w] in [0, 1]; differentiable in ``images``."""
        self.queries += len(images)
        output = self._query(images, taps)
        self._remember(output.logits)
        return output

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Softmax probability of each label, [n]."""
        with torch.no_grad():
            return self(images).logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


class ScoreVictim(Victim):
    """Gives class probabilities without a graph."""

    def __init__(self, query: Callable[[Tensor], Tensor], num_classes: int, copies: int = 1):
        super().__init__(num_classes)
        self._query = query
        self.copies = copies  #: queries that one image costs

    def averaged(self, changes: Sequence[Callable[[Tensor], Tensor]]) -> ScoreVictim:
        """The same as one sees it who asks a copy of every image after each of the ``changes`` and takes the
        mean of the answers.
        """
        query = self._query

        def mean(images: Tensor) -> Tensor:
            return torch.stack([query(change(images)) for change in changes]).mean(0)

        return ScoreVictim(mean, self.num_classes, len(changes))

    def scores(self, images: Tensor) -> Tensor:
        """Class probabilities [n, k] of float images [n, 3, h, w] in [0, 1]."""
        self.queries += len(images) * self.copies
        scores = self._query(images)
        self._remember(scores)
        return scores

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """Probability of each label, [n]."""
        return self.scores(images).gather(1, labels[:, None]).squeeze(1)


class LabelVictim(Victim):
    """Gives the predicted class alone."""

    def __init__(self, query: Callable[[Tensor], Tensor], num_classes: int):
        super().__init__(num_classes)
        self._query = query

    def labels(self, images: Tensor) -> Tensor:
        """Predicted classes int64 [n] of float images [n, 3, h, w] in [0, 1]. Raises DivergedError for an
        image of which the target predicts none, as its answer is not finite.
        """
        self.queries += len(images)
        return self._query(images)

    def confidence(self, images: Tensor, labels: Tensor) -> Tensor:
        """1 where the target predicts the label, else 0, [n]."""
        return (self.labels(images) == labels).float()


AnyVictim = WhiteBoxVictim | ScoreVictim | LabelVictim

#: The victim that shows what a threat model allows, and no more.
VICTIMS: dict[Threat, type[Victim]] = {
    Threat.WHITE_BOX: WhiteBoxVictim,
    Threat.SCORES: ScoreVictim,
    Threat.LABELS: LabelVictim,
}


class _LogitsAlone(Output):
    """The output of a network that returns no features."""

    @property
    def features(self) -> Tensor:
        raise ConfigError(
            "this attack needs the target's features, and the attacked network returns logits alone; "
            "let it return midre_exp.targets.Output(logits, features)"
        )


def _answered(answer: Answer, probabilities: Tensor, images: Tensor) -> Tensor:
    """What a deployed target answers. Raises ConfigError unless it is a number for each class."""
    answered = answer(probabilities, images)
    if not isinstance(answered, Tensor) or answered.shape != probabilities.shape:
        got = list(answered.shape) if isinstance(answered, Tensor) else type(answered).__name__
        raise ConfigError(
            f"the defense's answer is {got}; it must be a tensor {list(probabilities.shape)}, as the "
            "probabilities that it is given"
        )
    return answered


def _as_output(answer: Tensor | Output, num_classes: int) -> Output:
    """What a network returned as an ``Output``. Raises ConfigError unless its logits are [n, num_classes]."""
    logits = answer.logits if isinstance(answer, Output) else answer
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != num_classes:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ConfigError(
            f"the attacked network returned {got}; it must return logits [n, {num_classes}], one per class, "
            "or midre_exp.targets.Output(logits, features)"
        )
    return answer if isinstance(answer, Output) else _LogitsAlone(logits, logits.new_empty(0))
