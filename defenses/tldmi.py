"""TL-DMI: the first layers keep their public pre-training, and only the rest is trained on private images (Ho
et al. 2024).

Without public pre-training the frozen layers are random ones, which protects nobody; a defense does not see
``target.weights``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.parts.skip_connections import TruncatedBlock
from midre_exp.defense import Defense, TrainingProgress
from midre_exp.errors import ConfigError
from midre_exp.targets.anatomy import Unit, members, stages_of, units_until
from midre_exp.targets.base import Classifier

RECIPES = ("own", "shared")
_KEY = "defense.tldmi.cut"
_SHARE = re.compile(r"(?P<stage>\w+?)(?::(?P<part>\d+)/(?P<whole>\d+))?")


def units_before(model: Classifier, cut: str) -> list[Unit]:
    """The units of ``model`` up to and including ``cut``, in forward order.

    ``cut``: a stage, named as the tap; ``stage:n/m``, the stages before it and that share of its units,
    rounded; ``all_but_last``, all stages but the last; ``none``. Raises ConfigError for another cut.
    """
    if cut == "none":
        return []
    if cut == "all_but_last":
        return [unit for units in list(stages_of(model).values())[:-1] for unit in units]
    form = _SHARE.fullmatch(cut)
    if form is None:
        raise ConfigError(f"{_KEY}={cut} is unknown; use a stage, stage:n/m, all_but_last or none")
    share = Fraction(1)
    if form["whole"]:
        if not 0 < int(form["part"]) <= int(form["whole"]):
            raise ConfigError(f"{_KEY}={cut} must name a share of the stage above 0 and at most 1")
        share = Fraction(int(form["part"]), int(form["whole"]))
    *before, last = units_until(model, form["stage"], key=_KEY).values()
    return [unit for units in before for unit in units] + last[: round(share * len(last))]


class TLDMI(Defense):
    """Transfer learning as a defense against model inversion (Ho et al. 2024).

    ``cut``: the last part that is frozen, as in ``units_before``; None takes the entry of ``cuts`` for
    ``target``; ``none`` is no defense, the recipe included. ``train_stem``: leave what comes before the first
    stage trainable. ``freeze_bn_stats``: frozen batch norms normalise with their public statistics in
    training too, instead of following the private batches. ``recipe``: ``own`` trains as the entry of
    ``recipes`` for ``target`` says (``lr``, ``batch_size``, ``epochs``), by SGD at a constant rate with
    ``momentum`` and ``weight_decay``, and without an entry as usual; ``shared`` always trains as usual.
    Raises ConfigError for a value outside these and for a target without a cut.
    """

    def __init__(
        self,
        *,
        target: str,
        cut: str | None,
        cuts: Mapping[str, str],
        train_stem: bool,
        freeze_bn_stats: bool,
        recipe: str,
        recipes: Mapping[str, Mapping[str, Any]],
        momentum: float,
        weight_decay: float,
    ):
        if cut is None and target not in cuts:
            raise ConfigError(f"defense.tldmi.cuts has no entry for {target}; set {_KEY}")
        self.cut = cuts[target] if cut is None else cut
        if not isinstance(self.cut, str):
            raise ConfigError(f"{_KEY}={self.cut} is unknown; use a stage, stage:n/m, all_but_last or none")
        if recipe not in RECIPES:
            raise ConfigError(f"defense.tldmi.recipe={recipe} is unknown; use one of {', '.join(RECIPES)}")
        for key, flag in (("train_stem", train_stem), ("freeze_bn_stats", freeze_bn_stats)):
            if not isinstance(flag, bool):
                raise ConfigError(f"defense.tldmi.{key}={flag} must be true or false")
        self.train_stem = train_stem
        self.freeze_bn_stats = freeze_bn_stats
        self.own_recipe: dict[str, Any] | None = None
        if recipe == "own" and target in recipes and self.cut != "none":
            own = recipes[target]
            self.own_recipe = {
                "epochs": own["epochs"],
                "batch_size": own["batch_size"],
                "optimizer": {
                    "_target_": "torch.optim.SGD",
                    "lr": own["lr"],
                    "momentum": momentum,
                    "weight_decay": weight_decay,
                },
                "scheduler": None,
            }
        self.exclusive = frozenset({"freeze"} if self.own_recipe is None else {"freeze", "optimizer"})  # type: ignore[misc]  # by option

    @property
    def label(self) -> str:
        """``TL-DMI`` with the cut."""
        return f"TL-DMI {self.cut}"

    def replace_head(self, model: Classifier) -> None:
        """Change nothing; raises ConfigError for a cut the model does not have, and for a DenseNet without a
        pre-trained last block.
        """
        self._frozen(model)
        if self.cut != "none" and any(isinstance(module, TruncatedBlock) for module in model.modules()):
            raise ConfigError(
                "defenses tldmi and rolss (or ssf) contradict each other on a DenseNet: tldmi fine-tunes the last block, which the other "
                "rebuilds in shapes no public weights have; keep one of them"
            )

    def trainable(self, model: Classifier) -> Sequence[str] | None:
        """All parameters behind the cut that trained before."""
        if self.cut == "none":
            return None
        frozen = {id(parameter) for module in self._frozen(model) for parameter in module.parameters()}
        return [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in frozen
        ]

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe with TL-DMI's own optimiser, length and batches, or as it is."""
        return recipe if self.own_recipe is None else {**recipe, **self.own_recipe}

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Keep frozen batch norms from following the batches, if they shall not."""
        if self.freeze_bn_stats:
            for module in self._frozen(model):
                for layer in module.modules():
                    if isinstance(layer, _BatchNorm):
                        layer.eval()

    def _frozen(self, model: Classifier) -> list[nn.Module]:
        units = units_before(model, self.cut)
        if self.train_stem and units:
            stem = stages_of(model).get("stem", [])
            units = [unit for unit in units if unit not in stem]
        return members(model, units)
