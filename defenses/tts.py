"""TTS: two-stage training, first with full skip connections, then without those of the last stage (Koh et al.
2024).

The paper leaves open what of the optimiser carries over. Here it is one training: one progress, one schedule,
moments kept; only the factor of the shortcuts changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from defenses.parts.skip_connections import SkipDefense, scale_shortcuts, set_shortcuts
from midre_exp.defense import TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.densenet import DenseNet
from midre_exp.targets.base import Classifier


class TTS(SkipDefense):
    """Training two-stage, RoLSS after some epochs of the plain network.

    ``switch``: share of the epochs, above 0 and below 1, trained with full shortcuts, rounded to whole epochs
    and at least one; ``k``: their factor afterwards. ``stages``: as in ``SkipDefense``. Raises ConfigError
    for a value outside these.
    """

    name = "tts"

    def __init__(
        self,
        *,
        target: str,
        switch: float,
        k: float,
        stages: Sequence[str] | None,
        stages_by_target: Mapping[str, Sequence[str]],
    ):
        super().__init__(target=target, k=k, stages=stages, stages_by_target=stages_by_target)
        if not isinstance(switch, (int, float)) or not 0 < switch < 1:
            raise ConfigError(
                f"defense.tts.switch={switch} must be a share of the epochs above 0 and below 1"
            )
        self.switch = switch

    def first_epochs(self, epochs: int) -> int:
        """How many of ``epochs`` are trained with full shortcuts. Raises ConfigError when none would be left
        for the rest.
        """
        first = max(1, round(self.switch * epochs))
        if first >= epochs:
            raise ConfigError(
                f"defense.tts.switch={self.switch} takes {first} of recipe.epochs={epochs} and leaves none without shortcuts; "
                "lower it or train for longer"
            )
        return first

    def modify_backbone(self, model: Classifier) -> None:
        """Make the shortcuts scalable, still full. Raises ConfigError for a DenseNet and a network without
        shortcuts.
        """
        if isinstance(model, DenseNet):
            raise ConfigError(
                "defense.tts cannot train a DenseNet, whose last block has other shapes once it passes on fewer channels; "
                "use rolss or ssf, or another target"
            )
        scale_shortcuts(model, 1.0, self.stages, defense=self.name)

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe as it is. Raises ConfigError for one that has no second part, or that may select an
        epoch of the first.
        """
        self.first_epochs(int(recipe["epochs"]))
        if recipe["select"] != "last":
            raise ConfigError(
                f"recipe.select={recipe['select']} may choose an epoch from before defense.tts removes the shortcuts; use last"
            )
        return recipe

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Full shortcuts in the first epochs, ``k`` of them afterwards."""
        set_shortcuts(model, 1.0 if progress.epoch < self.first_epochs(progress.epochs) else self.k)

    def on_inference(self, model: Classifier) -> None:
        """The network of the last epochs."""
        set_shortcuts(model, self.k)
