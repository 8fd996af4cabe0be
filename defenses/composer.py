"""Several defenses as one. The engine trains every target with exactly one composed defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from defenses.nodef import NoDef
from midre_exp.data.base import ImageSet
from midre_exp.defense import Batch, Defense, Sampler, TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.targets.base import Classifier, Output


class Composed(Defense):
    """Applies the parts in the order given; hooks that only one part may fill are checked when it is built."""

    def __init__(self, parts: Mapping[str, Defense]):
        for name, part in parts.items():
            if not isinstance(part, Defense):
                raise ConfigError(
                    f"defense.{name} is a {type(part).__name__}, which does not derive from defenses.Defense"
                )
        self.parts = {name: part for name, part in parts.items() if not isinstance(part, NoDef)}
        self.couples_images = any(part.couples_images for part in self.parts.values())
        owner: dict[str, str] = {}
        for name, part in self.parts.items():
            for claim in sorted(part.exclusive):
                if claim in owner:
                    raise ConfigError(
                        f"defenses {owner[claim]} and {name} both set the {claim}; keep one of them"
                    )
                owner[claim] = name
        kinds = {type(part).__name__: name for name, part in self.parts.items()}
        for name, part in self.parts.items():
            for other, reason in part.conflicts.items():
                if other in kinds:
                    raise ConfigError(
                        f"defenses {name} and {kinds[other]} contradict each other: {reason}; keep one of them"
                    )

    @property
    def label(self) -> str:
        """The labels of the parts joined by ``+``, ``NoDef`` when there is none."""
        return " + ".join(part.label for part in self.parts.values()) or "NoDef"

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        """Each part in turn."""
        for part in self.parts.values():
            train = part.on_dataset(train, seed=seed)
        return train

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        """The sampler of the part that has one."""
        samplers = (
            part.sampler(labels, batch_size=batch_size, seed=seed, drop_last=drop_last)
            for part in self.parts.values()
        )
        return next((sampler for sampler in samplers if sampler is not None), None)

    def on_batch(
        self, batch: Batch, model: Classifier, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Each part in turn."""
        for part in self.parts.values():
            batch = part.on_batch(batch, model, progress, generator)
        return batch

    def modify_backbone(self, model: Classifier) -> None:
        """Each part in turn."""
        for part in self.parts.values():
            part.modify_backbone(model)

    def replace_head(self, model: Classifier) -> None:
        """Each part in turn."""
        for part in self.parts.values():
            part.replace_head(model)

    def trainable(self, model: Classifier) -> Sequence[str] | None:
        """The choice of the part that has one."""
        choices = (part.trainable(model) for part in self.parts.values())
        return next((names for names in choices if names is not None), None)

    def taps(self, model: Classifier) -> Sequence[str]:
        """All taps, each once, in order."""
        return tuple(dict.fromkeys(tap for part in self.parts.values() for tap in part.taps(model)))

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """Each part in turn."""
        for part in self.parts.values():
            recipe = part.recipe(recipe)
        return recipe

    def base_loss(self, output: Output, batch: Batch, progress: TrainingProgress) -> Tensor | None:
        """The base loss of the part that has one."""
        losses = (part.base_loss(output, batch, progress) for part in self.parts.values())
        return next((loss for loss in losses if loss is not None), None)

    def extra_losses(self, output: Output, batch: Batch, progress: TrainingProgress) -> Mapping[str, Tensor]:
        """All extra losses, named ``part/loss``."""
        return {
            f"{name}/{key}": loss
            for name, part in self.parts.items()
            for key, loss in part.extra_losses(output, batch, progress).items()
        }

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Each part in turn."""
        for part in self.parts.values():
            part.on_epoch(model, progress)

    def on_inference(self, model: Classifier) -> None:
        """Each part in turn."""
        for part in self.parts.values():
            part.on_inference(model)


def compose(**parts: Defense) -> Composed:
    """The defenses of a config's ``defense`` node as one. Raises ConfigError naming two parts that contradict
    each other.
    """
    return Composed(parts)
