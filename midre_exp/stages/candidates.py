"""The pictures among which an attack looks for its starts: one set of a generator's, shown to every target.

They depend on the prior, the search and, unless its latents are fixed, the seed; so every target, defense and
attack of the same kind takes them from the store. They are kept as the target gets them, in full precision,
so that an attack which finds them computes what it would have without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from midre_exp.numerics import PRIOR_CALLS
from midre_exp.plan.config import Settings, without
from midre_exp.plan.vary import seed_of
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.prior import PriorStage
from midre_exp.store.artifact import Artifact, readable

if TYPE_CHECKING:  # torch
    from collections.abc import Callable

    from torch import Tensor

    from midre_exp.attack import Transforms
    from midre_exp.priors.base import Prior
    from midre_exp.seeding import ItemRNG
    from midre_exp.stages.parts import Parts

PICTURES = "pictures.f32"
_SEARCH = "attacks.InitialSelection"
_NOTED = 1000  # about so many pictures between two notes of progress


class Search(Protocol):
    """What an attack has as ``search``."""

    size: int
    batch: int
    #: What ``renderer`` makes, [size, 3, h, w]; None: made anew by the attack.
    pictures: Tensor | None

    def renderer(
        self, prior: Prior, shared_rng: ItemRNG, transforms: Transforms
    ) -> Callable[[slice], Tensor]: ...


class CandidatesStage(Stage):
    """Render the candidates of an attack's initial selection."""

    name = "candidates"
    makers = ("midre_exp.attack_run", "midre_exp.numerics", "midre_exp.data.block")
    is_intermediate = True
    is_tracked = False

    def is_part_of(self, settings: Settings) -> bool:
        limit = settings["runtime"].get("candidates_gb") or 0
        return has_candidates(settings) and candidate_bytes(settings) <= float(limit) * 1e9

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        attack = settings["attack"]
        return {
            "search": without(attack["search"], "flip", "batch"),
            "image_to_target": attack["image_to_target"],
            "seed": seed_of(settings, "attack") if attack["search"]["z_seed"] is None else None,
        }

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("prior",)

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the prior and the attack."""

    def make(self, job: Job, prior: Artifact) -> None:
        # planning loads this module, and no torch
        import torch

        from midre_exp.attack_run import shared_rng
        from midre_exp.data.block import Block
        from midre_exp.memory.batches import AtOnce, in_batches
        from midre_exp.memory.footprint import planned

        settings, attack, device = job.settings, job.parts.attack, job.runtime.device
        search = cast(Search, attack.search)  # type: ignore[attr-defined]
        generator = PriorStage().load(settings, prior, attack.identities)
        job.numerics.accelerate(generator, PRIOR_CALLS)
        generator.to(device).freeze()
        rng = shared_rng(seed_of(settings, "attack"), job.runtime)
        render = search.renderer(generator, rng, attack.image_to_target)
        _, channels, height, width = render(slice(0, 1)).shape
        shape = (search.size, channels, height, width)
        block = Block(job.work, PICTURES, shape, f"candidates of {settings['attack']['name']}")

        # as many at once as the attack would take: sums round alike
        most = min(search.batch, job.runtime.chunk, search.size)
        if job.runtime.is_planned:
            most = planned(lambda few: render(slice(0, few)), most, device)
        limit = AtOnce(most)

        def some(pictures: Any, rows: range) -> list[int]:
            def at(part: slice) -> Tensor:
                return render(slice(rows.start + part.start, rows.start + part.stop))

            made = in_batches(at, len(rows), limit, what="candidates")
            pictures[rows.start : rows.stop] = torch.cat(list(made)).numpy()
            return []

        block.fill(some, at_once=most * max(1, _NOTED // most), doing="rendering")
        block.publish()
        job.work.metrics.update(counts={"candidates": search.size})

    def load(self, artifact: Artifact, search: Search) -> Tensor:
        """The pictures float32 [size, 3, h, w], mapped into memory."""
        from midre_exp.data.block import mapped  # planning loads this module, and no torch

        return mapped(artifact, PICTURES, search.size)

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "runtime.chunk", "attack.search.batch")

    def describe(self, settings: Settings) -> str:
        attack = settings["attack"]
        return f"{attack['search']['size']} candidates of {attack['prior']['name']}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        taken = candidate_bytes(settings)
        if taken > 10e9:
            yield Requirement(
                False,
                "candidates",
                f"the {settings['attack']['search']['size']} candidate pictures take {readable(taken)} of "
                "disk in paths.store, for all targets of a prior and seed; "
                f"runtime.candidates_gb={int(taken // 1e9)} or less has every attack render its own",
            )


def has_candidates(settings: Settings) -> bool:
    """Whether a run's attack is one of ours that looks for its starts among the pictures of a generator."""
    attack = settings["attack"]
    search = attack.get("search")
    return bool(search) and search["_target_"] == _SEARCH and str(attack["_target_"]).startswith("attacks.")


def candidate_bytes(settings: Settings) -> int:
    """Disk that the pictures take at the size of the target's images."""
    return int(settings["attack"]["search"]["size"]) * 3 * int(settings["resolution"]) ** 2 * 4
