"""An attack on identities each of which has a generator of its own: the next round of an attack in rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.attack import AttackResult, WhiteBoxAttack, split_evenly
from midre_exp.loop import Loop
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.threat import WhiteBoxVictim
from midre_exp.tuning.base import State
from midre_exp.tuning.own_weights import OwnWeights
from midre_exp.weights import checkpoint


@dataclass(kw_only=True, eq=False)
class OwnGenerators(WhiteBoxAttack):
    """The ``base`` attack, each identity by a copy of the prior with the weights of its state; starts are
    chosen for each with its own generator, and several are optimised together.
    """

    latents_suffice = False
    shares_starts = False
    can_be_informed = True

    base: WhiteBoxAttack
    state_of: Callable[[int], State]  # of an identity
    work: Path  # a folder where starts are kept, identity by identity

    @classmethod
    def of(
        cls, base: WhiteBoxAttack, state_of: Callable[[int], State], work: Path, *, keep_floats: bool
    ) -> OwnGenerators:
        """The round that carries out ``base``."""
        own = ("identities", "restarts", "image_to_target", "picture", "eight_bits", "informed")
        options = {name: getattr(base, name) for name in own}
        return cls(base=base, state_of=state_of, work=work, keep_floats=keep_floats, **options)

    @property
    def group_size(self) -> int:
        """Whole identities where the base's items depend on each other: those of others, with another
        generator, no longer do.
        """
        return 1 if self.base.group_size == 1 else self.restarts

    @property
    def items_per_row(self) -> int:
        return self.base.items_per_row

    def prepare(self, prior: Prior, *, shared_rng: ItemRNG, runtime: Runtime) -> None:
        self.base.prepare(prior, shared_rng=shared_rng, runtime=runtime)

    def initialise(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> Tensor | None:
        found = []
        for identity, items in zip(*labels.unique_consecutive(return_counts=True), strict=True):
            file = self._start_file(int(identity))
            saved = checkpoint.load(file)
            if saved is None:
                own = OwnWeights(prior, self.state_of).alone(int(identity))
                queries = victim.queries
                start = self.base.initialise(
                    victim, own, identity.expand(int(items)), shared_rng=shared_rng, runtime=runtime
                )
                if start is None:
                    return None
                saved = {"start": start, "queries": victim.queries - queries}
                checkpoint.save(file, saved)
            else:
                victim.queries += saved["queries"]
            found.append(saved["start"])
        return torch.cat(found)

    def _start_file(self, identity: int) -> Path:
        return self.work / f"start-{identity}.pt"

    def invert(
        self, victim: WhiteBoxVictim, prior: Prior, labels: Tensor, rng: ItemRNG, loop: Loop
    ) -> AttackResult:
        own, queries = OwnWeights(prior, self.state_of).together(labels), victim.queries
        found = self.base.invert(victim, own, labels, rng, loop)
        if isinstance(found, Tensor):
            found = AttackResult(found, split_evenly(victim.queries - queries, len(labels)))
        with torch.no_grad():
            images = own.generate(found.latents, labels)
        return AttackResult(found.latents, found.queries, found.labels, found.details, images)

    def examine(
        self, victim: WhiteBoxVictim, images: Tensor, labels: Tensor, *, shared_rng: ItemRNG, runtime: Runtime
    ) -> dict[str, Tensor]:
        return self.base.examine(victim, images, labels, shared_rng=shared_rng, runtime=runtime)

    def select(
        self,
        victim: WhiteBoxVictim,
        prior: Prior,
        labels: Tensor,
        latents: Tensor,
        details: Mapping[str, Tensor],
        *,
        shared_rng: ItemRNG,
        runtime: Runtime,
    ) -> dict[str, Tensor]:
        return self.base.select(
            victim, prior, labels, latents, details, shared_rng=shared_rng, runtime=runtime
        )
