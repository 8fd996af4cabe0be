"""What an attack is: a threat model and an ``invert``; ``attack_run`` does the rest around it.

Items (one item = one reconstruction to make, i.e. one identity and restart) are independent by contract: the
reconstruction of an item depends on the victim, the prior, the hyperparameters and the item's own random
numbers, never on the chunk it was computed in. An attack whose items depend on each other says by
``group_size`` which of them are never separated; what concerns all items at once it does before and after
the chunks, in ``initialise`` and ``select``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

import torch
from torch import Tensor

from midre_exp.defense import Informed
from midre_exp.errors import ConfigError
from midre_exp.loop import Loop
from midre_exp.plan.config import Trusted, build, without
from midre_exp.plan.ranges import Count
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.surrogates.base import Surrogates
from midre_exp.threat import AnyVictim, LabelVictim, ScoreVictim, Threat, Victim, WhiteBoxVictim

V = TypeVar("V", bound=Victim)
Transforms = Sequence[Callable[[Tensor], Tensor]]

EightBits = Literal["rounded", "truncated"]

#: Keys of a config node under ``attack`` that are no options of the attack itself: made by others, or read by
#: them (``judged``: by the metrics; ``crop``: by steps of its own yaml).
NOT_OPTIONS = ("prior", "surrogates", "tuning", "name", "shard", "judged", "crop")


@dataclass(frozen=True)
class AttackResult:
    """What ``invert`` returns of n items when latents alone do not tell it."""

    latents: Tensor  #: [n, ...]
    queries: Tensor  #: int64 [n], the victim's count, by item
    labels: Tensor | None = None  #: int64 [n], the identities, by an attack that chooses them itself
    details: dict[str, Tensor] = field(default_factory=dict)  #: more tensors [n, ...], stored by name
    images: Tensor | None = None  #: [n, 3, h, w] in [0, 1], if they are more than the prior's of the latents


@dataclass(frozen=True)
class Reconstructions:
    """What a whole attack leaves, one row per item."""

    images: Tensor  #: uint8 [n, 3, h, w], as the target got them or, with ``picture``, as the evaluator does
    latents: Tensor  #: [n, ...]
    labels: Tensor  #: int64 [n]
    restarts: Tensor  #: int64 [n], from 0 within each identity
    confidence: Tensor  #: [n] in [0, 1], the target's agreement on the 8-bit images
    queries: Tensor  #: int64 [n], images the target classified for each
    details: dict[str, Tensor] = field(default_factory=dict)  #: more of each item by name, [n, ...]

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for the store; details under names of their own."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "details"}
        return {name: value.cpu().contiguous() for name, value in {**self.details, **own}.items()}


@dataclass(kw_only=True, eq=False)
class Attack(ABC, Generic[V]):
    """Base of all attacks on a victim ``V``: a description of hyperparameters without state."""

    threat: ClassVar[Threat]
    #: Whether latents alone give the images again (``generated``).
    latents_suffice: ClassVar[bool] = True
    #: Whether all items share what ``initialise`` asks, so that of several shards that ask it one counts.
    shares_starts: ClassVar[bool] = True
    #: Whether ``inform`` can tell it what it knows of a defense.
    can_be_informed: ClassVar[bool] = False

    identities: Count  # how many private classes are attacked: labels 0 to identities - 1
    restarts: Count  # reconstructions per identity
    image_to_target: Transforms = ()  # between generator and target, e.g. crop and resize
    picture: Transforms | None = None  # between generator and the stored 8-bit image; None: image_to_target
    #: How 8 bits are made of floats: "rounded", or "truncated" as the official evaluations of GMI, KedMI,
    #: LOMMA, BREP-MI and RLB-MI do it (PIL's conversion of 255 x).
    eight_bits: EightBits = "truncated"
    #: Keep the pictures as floats besides (detail ``floats``, float32 [n, 3, h, w], four times their bytes),
    #: for a judge that sees floats: of an attack whose latents alone do not give them again.
    keep_floats: bool = False
    #: Do what the defense says that an attacker does who knows it (``Defense.informed``).
    informed: bool = False
    #: What was prepared against this target besides the prior (``attack.surrogates``), if anything.
    surrogates: Surrogates | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.identities < 1 or self.restarts < 1:
            raise ConfigError(
                f"attack.identities={self.identities} and attack.restarts={self.restarts} must be at least 1"
            )
        if self.eight_bits not in get_args(EightBits):
            raise ConfigError(f"attack.eight_bits={self.eight_bits} is unknown; use rounded or truncated")
        if self.informed and not self.can_be_informed:
            sees = {Threat.LABELS: "sees labels alone"}
            why = sees.get(self.threat, "is no attacks.GradientAttack")
            raise ConfigError(
                "attack.informed=true changes the gradient that an attack follows, or scores it sees, and "
                f"{type(self).__name__} {why}; use attack.informed=false, or an attack such as attack=ppa"
            )
        self.image_to_target = tuple(self.image_to_target)
        self.picture = None if self.picture is None else tuple(self.picture)

    def inform(self, known: Informed) -> None:
        """Know a defense from here on. Raises ConfigError for an attack that can make nothing of it."""
        raise ConfigError(f"{type(self).__name__} cannot use what is known of a defense")

    def asking(self, victim: V) -> V:
        """The victim as an attack asks it that knows a defense: itself, or the mean of several answers."""
        return victim

    def told(self) -> dict[str, Any]:
        """What a record says of what it does by what it knows."""
        return {}

    @property
    def group_size(self) -> int:
        """How many consecutive items are always computed together, counted from item 0; items of one identity
        follow each other.
        """
        return 1

    @property
    def items_per_row(self) -> int:
        """How many consecutive items of a group share a row of what is optimised, and of its memory."""
        return 1

    def prepare(self, prior: Prior, *, shared_rng: ItemRNG, runtime: Runtime) -> None:
        """Make what all phases need of the prior alone, before the first of them, in every shard and attempt
        anew.
        """

    def initialise(
        self, victim: V, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor | None:
        """Where items start, when that is chosen for all of them at once: [n, ...] of labels int64 [n]; None:
        every item draws its own.

        Each item finds its row in ``loop.start``. ``shared_rng``: one random stream for all items.
        """
        return None

    @abstractmethod
    def invert(
        self, victim: V, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor | AttackResult:
        """Latents [n, ...] that make the victim answer ``labels`` int64 [n]; item i draws from ``rng`` row i
        only.

        Takes its steps through ``loop``, which saves the state of an interrupted attempt. An attack that does
        not query the victim equally often for every item returns ``AttackResult``.
        """

    def examine(
        self, victim: V, images: Tensor, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> dict[str, Tensor]:
        """Further details [n, ...] of items by their reconstructions, float [n, 3, h, w] on the device as the
        target gets them: what ``select`` wants to know of pictures, asked while they are there and exact. A
        detail depends on its item alone.
        """
        return {}

    def select(
        self,
        victim: V,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        details: Mapping[str, Tensor],
        *,
        shared_rng: ItemRNG,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """Further details [n, ...] of the items, when all are done; ``selected`` bool [n] names those that
        count, without it all do.

        All tensors on the CPU; what goes to the device goes in parts of at most ``runtime.chunk`` items.
        """
        return {}

    def generated(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """What ``invert`` left as images [n, 3, h, w] of stored ``latents``, before any transform: again, in
        floats, for a judge that sees floats. An attack that returned ``AttackResult.images`` says here how
        they come of its latents, or keeps its floats (``keep_floats``).
        """
        return prior.generate(latents, labels)

    def pictures(self, images: Tensor) -> Tensor:
        """Generated images as they are kept, in floats and not clamped."""
        return apply(self.image_to_target if self.picture is None else self.picture, images)

    def in_eight_bits(self, images: Tensor) -> Tensor:
        """Float images as they are kept, uint8."""
        return to_uint8(images, self.eight_bits)

    def render(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images float [n, 3, h, w] in [0, 1] as the target gets them."""
        return apply(self.image_to_target, self.generated(prior, latents, labels))


@dataclass(kw_only=True, eq=False)
class WhiteBoxAttack(Attack[WhiteBoxVictim]):
    """Base of attacks that see logits, features and gradients."""

    threat = Threat.WHITE_BOX


@dataclass(kw_only=True, eq=False)
class ScoreAttack(Attack[ScoreVictim]):
    """Base of attacks that see class probabilities."""

    threat = Threat.SCORES
    can_be_informed = True

    known: Informed | None = field(default=None, init=False, repr=False)  # of what is answered

    def inform(self, known: Informed) -> None:
        """Average the answers to changed copies of every image, where the defense names some."""
        self.known = known

    @property
    def copies(self) -> int:
        """Queries that one image costs."""
        return 1 if self.known is None else max(1, len(self.known.asked))

    def asking(self, victim: ScoreVictim) -> ScoreVictim:
        return victim if self.known is None or not self.known.asked else victim.averaged(self.known.asked)

    def told(self) -> dict[str, Any]:
        """What the defense says of itself, and how many copies are asked in place of an image."""
        known = {} if self.known is None else self.known.told()
        return {**known, "copies": self.copies, "places": ["answers"] if self.copies > 1 else []}


@dataclass(kw_only=True, eq=False)
class LabelAttack(Attack[LabelVictim]):
    """Base of attacks that see the predicted class."""

    threat = Threat.LABELS


def build_attack(node: Mapping[str, Any], trusted: Trusted = ()) -> Attack[AnyVictim]:
    """The attack that a config node describes, without its prior and surrogates. Raises ConfigError for
    values that it cannot work with.
    """
    attack: Attack[AnyVictim] = build(without(node, *NOT_OPTIONS), kind=Attack, trusted=trusted)
    return attack


def apply(transforms: Transforms, images: Tensor) -> Tensor:
    """``images`` after each of the transforms in turn."""
    for transform in transforms:
        images = transform(images)
    return images


def split_evenly(total: int, items: int) -> Tensor:
    """``total`` queries shared by ``items``, int64 [items]; where they do not divide, the first have one
    more.
    """
    return total // items + (torch.arange(items) < total % items).long()


def to_uint8(images: Tensor, eight_bits: EightBits = "truncated") -> Tensor:
    """Float images as 8 bit, clamped to [0, 1] first."""
    levels = images.clamp(0, 1) * 255
    return (levels.round() if eight_bits == "rounded" else levels).to(torch.uint8)
