"""Public pre-training: the network of a target or an evaluator, trained on identities that are not private.
The classifier then starts from it with a head of its own (``weights: public``), and defenses freeze, cut and
fine-tune a network that has learned something.

No defense, seed or private image enters: one pre-training serves all targets of an architecture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings
from midre_exp.plan.keys import is_pretrained_here
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement
from midre_exp.stages.classifier import ClassifierStage, Evaluator
from midre_exp.stages.requirements import data_needs

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.defense import Defense
    from midre_exp.stages.parts import Parts


class Pretraining(ClassifierStage):
    """The target's network, at the run's resolution."""

    name = "pretraining"
    role = "target"
    recipe = "target.pretraining.recipe"
    counted = "pretraining"

    def is_part_of(self, settings: Settings) -> bool:
        return is_pretrained_here(settings[self.role])

    def node(self, settings: Settings) -> Settings:
        """The network of the classifier, from random weights, with the recipe of its pre-training."""
        own = settings[self.role]
        recipe = (own.get("pretraining") or {}).get("recipe")
        if recipe is None:
            raise ConfigError(
                f"{self.role}.weights=public needs a recipe to pre-train {own['name']} by; give one as "
                f"+target/recipe@{self.recipe}=NAME, or start from other weights"
            )
        return {**own, "weights": None, "recipe": recipe}

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        node = self.node(settings)
        return {
            "data": fingerprint(self.name),
            "model": node["model"],
            "recipe": node["recipe"],
            "seed": self._seed(settings),
        }

    def check(self, settings: Settings, parts: Parts) -> None:
        self._check_training(settings, parts.undefended)
        key = "resolution" if self.role == "target" else f"{self.role}.resolution"
        self.check_size(settings, self.pixels(settings), key, parts.undefended)

    def make(self, job: Job, pool: Dataset, undefended: Defense) -> None:
        self._make(job, pool, undefended, self._seed(job.settings))

    def _seed(self, settings: Settings) -> int:
        own = settings[self.role]["pretraining"].get("seed")
        return int(settings[self.role].get("seed", 0) if own is None else own)

    def describe(self, settings: Settings) -> str:
        return f"{settings[self.role]['name']} on public identities"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        yield from data_needs(settings, self.name, remember)


class EvaluatorPretraining(Pretraining):
    """The evaluator's, at its own."""

    name = "evaluator_pretraining"
    role = "evaluator"
    recipe = "evaluator.pretraining.recipe"

    def is_part_of(self, settings: Settings) -> bool:
        return super().is_part_of(settings) and Evaluator().is_part_of(settings)
