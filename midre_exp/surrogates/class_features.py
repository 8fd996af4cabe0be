"""What Diff-MI's regulariser needs: how the target sees the public images that it takes most for a class."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet, to_float
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import Count
from midre_exp.plan.validate import require_counts
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import Generator, Surrogates
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights.finite import require_finite

_QUERY = 256  # public images per query of the victim


@dataclass(kw_only=True, eq=False, repr=False)
class ClassFeatures(Surrogates):
    """Mean penultimate features [num_classes, d] of the ``per_class`` public images with the largest softmax
    of each class (Li et al. 2024).
    """

    num_classes: int  # of the target
    per_class: Count  # public images of each class; one may serve several
    image_to_target: Sequence[Callable[[Tensor], Tensor]] = ()  # named steps, as in the attack

    means: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        require_counts("attack.surrogates", per_class=self.per_class)
        self.register_buffer("means", torch.empty(0))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state dict; the means have the target's shape."""
        self.means = torch.empty_like(tensors["means"])
        super().restore(tensors)

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim,
        *,
        prior: Generator | None = None,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Ask the target about every public image once; returns the ``queries``. Raises ConfigError for a
        victim that is not white-box and for fewer images than a class is to get.
        """
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("Diff-MI reads the target's features; use it with a white-box attack")
        if public is None:
            raise ConfigError("the features of classes are those of public images; hand them in")
        if len(public) < self.per_class:
            raise ConfigError(
                f"attack.surrogates.per_class={self.per_class} exceeds the {len(public)} public images; "
                "lower it"
            )

        @torch.no_grad()
        def ask(part: slice) -> tuple[Tensor, Tensor]:
            images = to_float(public.images[part].to(runtime.device))
            for step in self.image_to_target:
                images = step(images)
            output = victim(images)
            return output.logits.softmax(1).cpu(), output.features.cpu()

        told = []
        with runtime.shown("querying the target", len(public)) as shown:
            for answer in in_batches(ask, len(public), _QUERY, what="public images", victim=victim):
                told.append(answer)
                shown.update(len(answer[0]))
        scores, features = (torch.cat(each) for each in zip(*told, strict=True))
        require_finite(
            {"scores": scores, "features": features},
            "the target's answers to public images",
            "give a healthy target",
        )
        rows = scores.T.topk(self.per_class, dim=1).indices  # [num_classes, per_class]
        self.means = features[rows].mean(1).to(runtime.device)
        return {"queries": len(public)}
