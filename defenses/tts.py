"""TTS: two-stage training, first with full skip connections, then without those of the last stage (Koh et al.
2024).

The paper leaves open what of the optimiser carries over. Here it is one training: one progress, one schedule,
moments kept; only the factor of the shortcuts changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from defenses.base import Defense, Informed, TrainingProgress
from defenses.parts.options import check_factor
from defenses.parts.skip_connections import known_shortcuts, scale_shortcuts
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Range, Share
from midre_exp.targets.base import Classifier
from midre_exp.targets.shortcut import Shortcut


@dataclass(kw_only=True, eq=False)
class TTS(Defense):
    """Training two-stage: F(x) + x in the first epochs, F(x) + k x in the rest.

    Koh et al. 2024, "On the Vulnerability of Skip Connections to Model Inversion Attacks".
    """

    exclusive = frozenset({"skip"})

    #: Share of the epochs with full shortcuts, rounded, at least one epoch.
    switch: Annotated[float, Range(0, 1, open_low=True, open_high=True)]
    k: Share  # factor of the shortcuts afterwards, in [0, 1]
    stages: Sequence[str] | None  # taps whose shortcuts change; None: the last stage that has any

    def __post_init__(self) -> None:
        check_factor("tts.k", self.k)
        if not isinstance(self.switch, (int, float)) or not 0 < self.switch < 1:
            raise ConfigError(
                f"defense.tts.switch={self.switch} must be a share of the epochs above 0 and below 1"
            )

    def first_epochs(self, epochs: int) -> int:
        """How many of ``epochs`` are trained with full shortcuts. Raises ConfigError when none would be left
        for the rest.
        """
        first = max(1, round(self.switch * epochs))
        if first >= epochs:
            raise ConfigError(
                f"defense.tts.switch={self.switch} takes {first} of recipe.epochs={epochs} and leaves none "
                "without "
                "shortcuts; lower it or train for longer"
            )
        return first

    def modify_backbone(self, model: Classifier) -> None:
        """Make the shortcuts scalable, still full. Raises ConfigError for a network without any, and for one
        whose shapes depend on the factor.
        """
        scale_shortcuts(model, 1.0, self.stages, defense="tts")
        if not any(isinstance(module, Shortcut) for module in model.modules()):
            raise ConfigError(
                f"defense.tts cannot train a {type(model).__name__}, whose last block has other shapes once "
                "it passes on "
                "fewer channels; use rolss or ssf, or another target"
            )

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe as it is. Raises ConfigError for one that has no second part, or that may select an
        epoch of the first.
        """
        self.first_epochs(int(recipe["epochs"]))
        if recipe["select"] != "last":
            raise ConfigError(
                f"recipe.select={recipe['select']} may choose an epoch from before defense.tts removes the "
                "shortcuts; "
                "use last"
            )
        return recipe

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Full shortcuts in the first epochs, ``k`` of them afterwards."""
        full = progress.epoch < self.first_epochs(progress.epochs)
        scale_shortcuts(model, 1.0 if full else self.k, self.stages, defense="tts")

    def on_inference(self, model: Classifier) -> None:
        """The network of the last epochs."""
        scale_shortcuts(model, self.k, self.stages, defense="tts")

    def informed(self, model: Classifier) -> Informed:
        return known_shortcuts(model)
