"""What an attack is: a threat model and an ``invert``. Chunking, resuming, rendering and scoring are done
once, here.

Items (one item = one reconstruction to make, i.e. one identity and restart) are independent by contract: the
reconstruction of an item depends on the victim, the prior, the hyperparameters and the item's own random
stream, never on the chunk it was computed in. An attack whose items depend on each other says by
``group_size`` which of them are never separated; what concerns all items at once it does before and after the
chunks, in ``initialise`` and ``select``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Trusted, build, without
from midre_exp.runtime import Runtime

if TYPE_CHECKING:
    pass
if TYPE_CHECKING:
    from torch import Tensor

    from midre_exp.priors.base import Prior
    from midre_exp.threat import AnyVictim

import shutil
from abc import ABC, abstractmethod
from dataclasses import field
from typing import ClassVar

import torch
from torch import Tensor

from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.seeding import ItemRNG
from midre_exp.threat import AnyVictim, Threat
from midre_exp.weights import checkpoint

Transforms = Sequence[Callable[[Tensor], Tensor]]

_OWN = ("images", "latents", "labels", "confidence", "queries")  # what a chunk tells besides details
_SEARCHED = (
    "searched"  # of a part: the queries of initialise, which every part spends anew and the whole attack once
)


@dataclass(frozen=True)
class Reconstructions:
    """What an attack leaves: ``images`` uint8 [n, 3, h, w] as the target saw them or, where ``picture`` says
    so, as they are kept for the judge; ``latents`` [n, ...]; ``labels`` and ``restarts`` int64 [n];
    ``confidence`` [n] the target's agreement in [0, 1] on what it sees of them in 8 bits; ``queries`` int64
    [n] the questions to the target spent on each; ``details`` what else the attack tells of each item, by
    name, [n, ...].
    """

    images: Tensor
    latents: Tensor
    labels: Tensor
    restarts: Tensor
    confidence: Tensor
    queries: Tensor
    details: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for the store; details under names of their own."""
        own = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "details"}
        return {name: value.cpu().contiguous() for name, value in {**self.details, **own}.items()}


@dataclass(frozen=True)
class AttackResult:
    """What ``invert`` returns of n items when latents alone do not tell it.

    ``queries`` int64 [n]: the victim's count, by item. ``labels`` int64 [n]: the identities, by an attack
    that chooses them itself. ``details``: more tensors [n, ...], kept beside the reconstructions under these
    names. ``images`` [n, 3, h, w] in [0, 1]: the generated images, by an attack whose images are more than
    the prior's image of a latent.
    """

    latents: Tensor
    queries: Tensor
    labels: Tensor | None = None
    details: dict[str, Tensor] = field(default_factory=dict)
    images: Tensor | None = None


class Attack(ABC):
    """Base of all attacks.

    ``identities``: how many private classes are attacked, labels 0..identities-1; ``restarts``:
    reconstructions per identity; ``image_to_target``: named steps between generator and target (crop,
    resize); ``picture``: those between generator and the kept 8-bit picture, None for the same.
    """

    threat: ClassVar[Threat]
    surrogates: Any = None  #: what the attack prepared against this target besides its prior (``attack.surrogates``), if anything

    def __init__(
        self,
        *,
        identities: int,
        restarts: int,
        image_to_target: Transforms = (),
        picture: Transforms | None = None,
    ):
        if identities < 1 or restarts < 1:
            raise ConfigError(
                f"attack.identities={identities} and attack.restarts={restarts} must be at least 1"
            )
        self.identities = identities
        self.restarts = restarts
        self.image_to_target = tuple(image_to_target)
        self.picture = None if picture is None else tuple(picture)

    @property
    def group_size(self) -> int:
        """How many consecutive items are always computed together, counted from item 0; items of one identity
        follow each other.
        """
        return 1

    def initialise(
        self, victim: Any, prior: Prior, labels: Tensor, *, common: ItemRNG, runtime: Runtime
    ) -> Tensor | None:
        """Where items start, when that is chosen for all of them at once: [n, ...] of labels int64 [n]; None:
        every item draws its own.

        Each item finds its row in ``loop.start``. ``common``: one random stream for all.
        """
        return None

    @abstractmethod
    def invert(
        self, victim: Any, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> Tensor | AttackResult:
        """Latents [n, ...] that make the victim answer ``labels`` int64 [n]; item i draws from ``rng`` row i
        only.

        Runs its steps through ``loop``, which keeps the state of an interrupted attempt. An attack that does
        not ask the victim equally often for every item returns ``AttackResult``.
        """

    def select(
        self,
        victim: Any,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        details: Mapping[str, Tensor],
        *,
        common: ItemRNG,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """Further details [n, ...] of the items, when all are done; ``selected`` bool [n] names those that
        count, without it all do.

        All tensors on the CPU; what goes to the device goes in parts of at most ``runtime.chunk`` items.
        """
        return {}

    def render(self, prior: Prior, latents: Tensor, labels: Tensor) -> Tensor:
        """Images float [n, 3, h, w] in [0, 1] as the target gets them."""
        return apply(self.image_to_target, prior.generate(latents, labels))

    def run(
        self, victim: AnyVictim, prior: Prior, *, seed: int, work: Path, runtime: Runtime
    ) -> Reconstructions:
        """Attack every (identity, restart). Finished chunks are kept in ``work`` and not computed again after
        an interruption.

        Raises ConfigError when more identities are asked for than the target knows.
        """
        everyone = range(self.identities)
        return self.merge([self.part(victim, prior, everyone, seed=seed, work=work, runtime=runtime)])

    @staticmethod
    def merge(parts: Sequence[dict[str, Tensor]]) -> Reconstructions:
        """The whole attack of its parts, in the order of the identities, which are empty afterwards. What
        ``initialise`` asked the target is counted once.
        """
        searched = [int(part.pop(_SEARCHED)) for part in parts]
        columns = _columns(parts)
        columns["queries"] = columns["queries"] + split_evenly(searched[0], len(columns["labels"]))
        own = {name: columns.pop(name) for name in (*_OWN, "restarts")}
        return Reconstructions(details=columns, **own)

    def part(
        self, victim: AnyVictim, prior: Prior, people: range, *, seed: int, work: Path, runtime: Runtime
    ) -> dict[str, Tensor]:
        """Attack some of the identities; ``merge`` makes the parts of all into what ``run`` returns, number
        by number.

        The columns of ``Reconstructions`` and details by name, [n, ...] on the CPU, and how many ``queries``
        the search before them took. Raises ConfigError as ``run``, and when ``group_size`` items would be
        separated.
        """
        if self.identities > victim.num_classes:
            raise ConfigError(
                f"attack.identities={self.identities} exceeds the {victim.num_classes} classes of the target; "
                "lower attack.identities"
            )
        ends = [people.start * self.restarts, people.stop * self.restarts % (self.identities * self.restarts)]
        if any(end % self.group_size for end in ends):
            raise ConfigError(
                f"{type(self).__name__} computes {self.group_size} reconstructions together, which attack.shard would separate; "
                "use fewer shards or none"
            )
        prior.eval().requires_grad_(False).to(runtime.device)
        labels = torch.arange(people.start, people.stop).repeat_interleave(self.restarts)
        restarts = torch.arange(self.restarts).repeat(len(people))
        rng = ItemRNG(seed, "attack", items=(labels, restarts))
        common = ItemRNG(seed, "attack", "common", items=torch.zeros(1, dtype=torch.long)).to(runtime.device)

        def initialise() -> dict[str, Tensor]:
            start = self.initialise(victim, prior, labels, common=common, runtime=runtime)
            return {} if start is None else {"start": start}

        place = f"{people.start}-{people.stop}.pt"
        before = self._once(work / f"initialised-{place}", victim, initialise)
        start = before["tensors"].get("start")
        size = max(1, runtime.chunk // self.group_size) * self.group_size
        todo = [slice(start, min(start + size, len(labels))) for start in range(0, len(labels), size)]
        parts = []
        while todo:
            rows, queries = todo[0], victim.queries
            try:
                chosen = None if start is None else start[rows].to(runtime.device)
                parts.append(
                    self._chunk(
                        victim,
                        prior,
                        labels[rows],
                        rng[rows],
                        chosen,
                        common,
                        ends[0] + rows.start,
                        work,
                        runtime,
                    )
                )
                todo.pop(0)
            except torch.cuda.OutOfMemoryError as error:
                victim.queries = queries
                size = self._half(rows, error)
                todo = [
                    slice(at, min(at + size, part.stop))
                    for part in todo
                    for at in range(part.start, part.stop, size)
                ]
                runtime.say(
                    f"out of memory with {rows.stop - rows.start} items at once: going on with half of them"
                )
        columns = _columns(parts)
        details = {name: value for name, value in columns.items() if name not in _OWN}

        def select() -> dict[str, Tensor]:
            return self.select(
                victim, prior, columns["labels"], columns["latents"], details, common=common, runtime=runtime
            )

        after = self._once(work / f"selected-{place}", victim, select)
        columns["queries"] = columns["queries"] + split_evenly(after["queries"], len(labels))
        searched = torch.tensor(before["queries"])
        return {**columns, **after["tensors"], "restarts": restarts, _SEARCHED: searched}

    @staticmethod
    def _once(path: Path, victim: AnyVictim, make: Callable[[], dict[str, Tensor]]) -> dict[str, Any]:
        """``tensors`` of ``make`` and the ``queries`` they cost, from their file if an interrupted attempt
        had made them.
        """
        saved = checkpoint.load(path)
        if saved is None:
            queries = victim.queries
            tensors = {name: value.detach().cpu() for name, value in make().items()}
            saved = {"tensors": tensors, "queries": victim.queries - queries}
            checkpoint.save(path, saved)
        else:
            victim.queries += saved["queries"]
        return saved

    def _half(self, rows: slice, error: Exception) -> int:
        """How many items half a chunk has. Raises ConfigError when it cannot be divided."""
        units: int = -(-(rows.stop - rows.start) // self.group_size)
        if units < 2:
            raise ConfigError(
                f"the GPU has not enough memory for {rows.stop - rows.start} item(s) of this attack, which cannot be divided further; "
                "use runtime.device=cpu or a GPU with more memory"
            ) from error
        torch.cuda.empty_cache()
        return units // 2 * self.group_size

    def _chunk(
        self,
        victim: AnyVictim,
        prior: Prior,
        labels: Tensor,
        rng: ItemRNG,
        chosen: Tensor | None,
        common: ItemRNG,
        start: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        """One chunk, from its file if it was finished before: the columns of ``Reconstructions`` and details,
        all on the CPU.
        """
        path = work / f"items-{start}-{start + len(labels)}.pt"
        saved = checkpoint.load(path)
        if saved is None:
            labels = labels.to(runtime.device)
            queries = victim.queries
            title = f"{type(self).__name__} items {start}-{start + len(labels) - 1}"
            unfinished = work / f"unfinished-{start}-{start + len(labels)}"
            unfinished.mkdir(parents=True, exist_ok=True)
            loop = Loop(
                unfinished / "state.pt", title, runtime, victim, start=chosen, common=common, first_item=start
            )
            found = self.invert(victim, prior, labels, rng.to(runtime.device), loop)
            spent = victim.queries - queries
            if isinstance(found, Tensor):
                found = AttackResult(found, split_evenly(spent, len(labels)))
            if int(found.queries.sum()) != spent:
                raise RuntimeError(
                    f"{type(self).__name__} tells of {int(found.queries.sum())} queries, its victim of {spent}"
                )
            labels = labels if found.labels is None else found.labels
            with torch.no_grad():
                images = prior.generate(found.latents, labels) if found.images is None else found.images
                seen = to_uint8(apply(self.image_to_target, images))
                kept = seen if self.picture is None else to_uint8(apply(self.picture, images))
            # our check, not one of the attack's queries
            confidence = victim.confidence(seen.float() / 255, labels)
            columns = {
                **found.details,
                "images": kept,
                "latents": found.latents,
                "labels": labels,
                "confidence": confidence,
                "queries": found.queries,
            }
            saved = {name: value.cpu() for name, value in columns.items()}
            checkpoint.save(path, saved)
            shutil.rmtree(unfinished, ignore_errors=True)
            victim.queries = queries
        victim.queries += int(saved["queries"].sum())
        return saved


def _columns(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The columns of all parts, one below the other. Empties the parts: pictures take gigabytes, which are
    not to be held twice.
    """
    if len(parts) == 1:
        return dict(parts[0])
    return {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}


def apply(steps: Transforms, images: Tensor) -> Tensor:
    """``images`` after each of the named steps in turn."""
    for step in steps:
        images = step(images)
    return images


def split_evenly(total: int, items: int) -> Tensor:
    """``total`` queries shared by ``items``, int64 [items]; where they do not divide, the first have one
    more.
    """
    return total // items + (torch.arange(items) < total % items).long()


def to_uint8(images: Tensor) -> Tensor:
    """Float images in [0, 1] as 8 bit, truncated like the evaluation code of the low-resolution attacks (PIL
    conversion of 255 x).
    """
    return (images.clamp(0, 1) * 255).to(torch.uint8)


def build_attack(node: Mapping[str, Any], trusted: Trusted) -> Any:
    """The attack itself, without what it needs. Raises ConfigError for values that it cannot work with."""
    return build(without(node, "prior", "surrogates", "name", "shard"), trusted=trusted)
