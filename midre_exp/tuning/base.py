"""What a tuning is: the best of an identity's reconstructions are taken for pictures of the person, and the
prior is tuned so that pictures near them become more probable. Each identity gets a prior of its own, always
tuned from the one that made its pictures (PPDG-MI, Peng et al., NeurIPS 2024).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.plan.config import Trusted, build
from midre_exp.plan.ranges import Count
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import WhiteBoxVictim

#: The weights and buffers of a prior that a tuning has changed, by their names in its state dict.
State = dict[str, Tensor]


@dataclass(frozen=True)
class Material:
    """What a tuning works with, whomever it is of."""

    prior: Prior  # that of the first round, on the device and frozen; to be copied, never changed
    victim: WhiteBoxVictim
    public: ImageSet | None  # of a tuning that reads them
    seed: int
    work: Path  # a folder of its own
    runtime: Runtime
    loop: Callable[[Path, str], Loop]  # a loop that saves its state there and is called so
    is_trial: bool = False  # whether only the first step of the dearest loop is wanted, to see its price

    def folder(self, labels: Sequence[int]) -> Path:
        """Where the tuning of some identities, together, saves its state."""
        return self.work / f"tuning-{labels[0]}-{labels[-1]}"


@dataclass(frozen=True)
class Best:
    """The best reconstructions of some identities, which pass for pictures of these people."""

    pictures: Tensor  # [i, m, 3, s, s], as the generator draws them: neither clipped nor rounded
    labels: Tensor  # int64 [i]
    rng: ItemRNG  # i rows
    states: Sequence[State] | None  # of the prior of each that drew them; None: all by ``Material.prior``


@dataclass(kw_only=True, eq=False)
class Tuning(ABC):
    """Base of all tunings, built by ``_target_`` from the ``tuning`` node of an attack."""

    #: Whether it shows the generator public images beside the reconstructions.
    reads_public: ClassVar[bool] = False
    #: Names of the priors that it can tune, for a sentence.
    tunes: ClassVar[str]

    base: str  # name of the attack that every round carries out
    rounds: Count  # of the attack; 1: the base attack, nothing is tuned

    def __post_init__(self) -> None:
        if self.rounds < 1:
            raise ConfigError(f"attack.tuning.rounds={self.rounds} must be at least 1")

    @classmethod
    @abstractmethod
    def can_tune(cls, prior: type[Prior]) -> bool:
        """Whether it knows how priors of a class are tuned."""

    @abstractmethod
    def taken(self, restarts: int) -> int:
        """How many of an identity's reconstructions pass for pictures of the person. Raises ConfigError for
        more than there are.
        """

    @property
    @abstractmethod
    def looks(self) -> int:
        """How often the target sees each reconstruction before they are ranked."""

    @abstractmethod
    def scores(self, victim: WhiteBoxVictim, seen: Tensor, labels: Tensor, shared_rng: ItemRNG) -> Tensor:
        """What reconstructions are ranked by, [n], of images [n, 3, h, w] as the target gets them, not
        clipped, and labels int64 [n]; ``looks`` queries each. ``shared_rng``: one stream.
        """

    def ask_before(self, material: Material) -> int:
        """Learn from the target what all identities share, once; returns how many images it classified."""
        return 0

    @abstractmethod
    def tune(self, material: Material, best: Best) -> list[State]:
        """The state of the prior of each identity, tuned on its pictures. Continues from the checkpoints in
        ``material.work`` with the same result as an unbroken run. An identity's state does not depend on the
        others.
        """

    @abstractmethod
    def asked(self, prior: Prior, taken: int) -> int:
        """How many images the target classifies while a prior is tuned on so many pictures."""

    @abstractmethod
    def changed(self, prior: Prior) -> list[str]:
        """The names, in its state dict, of what a tuning changes of a prior."""

    def bytes_of(self, prior: Prior) -> int:
        """What these take of each identity."""
        state = prior.state_dict()
        return sum(int(state[name].numel()) * state[name].element_size() for name in self.changed(prior))

    @abstractmethod
    def at_once(self, material: Material, taken: int) -> int:
        """How many identities are tuned together, as far as memory allows it by what is known beforehand."""

    @abstractmethod
    def told(self) -> dict[str, Any]:
        """What a record says of it."""


def build_tuning(node: Mapping[str, Any], trusted: Trusted = ()) -> Tuning:
    """The tuning that a config node describes. Raises ConfigError for values that it cannot work with."""
    made: Tuning = build(node, kind=Tuning, trusted=trusted)
    return made


def confidences(victim: WhiteBoxVictim, images: Tensor, labels: Tensor) -> Tensor:
    """The target's probability of each label, [n]; a query each."""
    return victim(images).logits.softmax(1).gather(1, labels[:, None]).squeeze(1)


@torch.no_grad()
def best_rows(scores: Tensor, count: int) -> Tensor:
    """The places int64 [i, count] of the largest of ``scores`` [i, n], largest first, of equals the first."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]
