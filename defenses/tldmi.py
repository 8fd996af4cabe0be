"""TL-DMI: the first layers keep their public pre-training, and only the rest is trained on private images (Ho
et al. 2024).

Without public pre-training the frozen layers are random ones, which protects nobody; a defense does not see
``target.weights``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.base import Defense, Informed, TrainingProgress
from defenses.parts.options import check_choice, check_flag
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, NonNegative
from midre_exp.targets.base import Classifier
from midre_exp.targets.blocks import Block

TRAININGS = ("own", "shared")
_KEY = "defense.tldmi.cut"
_SHARE = re.compile(r"(?P<stage>\w+?)(?::(?P<part>\d+)/(?P<whole>\d+))?")


def blocks_before(model: Classifier, cut: str) -> list[Block]:
    """The blocks of ``model`` up to and including ``cut``, in forward order.

    ``cut``: a stage, named as the tap; ``stage:n/m``, the stages before it and that share of its blocks,
    rounded; ``all_but_last``, all stages but the last; ``none``. Raises ConfigError for another cut.
    """
    if cut == "none":
        return []
    stages = {name: list(blocks) for name, blocks in model.stage_blocks().items()}
    names = list(stages)
    if cut == "all_but_last":
        return [block for name in names[:-1] for block in stages[name]]
    form = _SHARE.fullmatch(cut)
    if form is None:
        raise ConfigError(f"{_KEY}={cut} is unknown; use a stage, stage:n/m, all_but_last or none")
    share = Fraction(1)
    if form["whole"]:
        if not 0 < int(form["part"]) <= int(form["whole"]):
            raise ConfigError(f"{_KEY}={cut} must name a share of the stage above 0 and at most 1")
        share = Fraction(int(form["part"]), int(form["whole"]))
    if form["stage"] not in stages:
        raise ConfigError(
            f"{_KEY}={form['stage']} is no stage of {type(model).__name__}; use one of {', '.join(names)}"
        )
    last = stages[form["stage"]]
    before = [block for name in names[: names.index(form["stage"])] for block in stages[name]]
    return before + last[: round(share * len(last))]


@dataclass(kw_only=True, eq=False)
class TLDMI(Defense):
    """Transfer learning as a defense: CE minimised over the layers behind ``cut`` alone.

    Ho et al. 2024, "Model Inversion Robustness: Can Transfer Learning Help?".
    """

    cut: str  # the last part that is frozen, as in blocks_before; none: no defense, not in training either
    train_stem: bool  # leave what comes before the first stage trainable
    freeze_bn_stats: bool  # in training too, frozen batch norms keep their public statistics
    training: str  # own: as follows, where there is an lr | shared: as the target says
    lr: LearningRate | None  # of SGD, constant; None: trains as the target says
    batch_size: Count | None  # None: the target's
    epochs: Count | None  # None: the target's
    momentum: BelowOne  # of SGD
    weight_decay: NonNegative  # of SGD

    def __post_init__(self) -> None:
        if not isinstance(self.cut, str):
            raise ConfigError(f"{_KEY}={self.cut} is unknown; use a stage, stage:n/m, all_but_last or none")
        check_choice("tldmi.training", self.training, TRAININGS)
        check_flag("tldmi.train_stem", self.train_stem)
        check_flag("tldmi.freeze_bn_stats", self.freeze_bn_stats)
        self._own_training = self.training == "own" and self.lr is not None and self.cut != "none"
        self.exclusive = frozenset({"freeze", "optimizer"} if self._own_training else {"freeze"})

    @property
    def label(self) -> str:
        return f"TL-DMI {self.cut}"

    def replace_head(self, model: Classifier) -> None:
        """Change nothing; raises ConfigError for a cut the model does not have or that freezes nothing, and
        for a backbone that no public weights fit.
        """
        frozen = self._frozen(model)
        if self.cut == "none":
            return
        if not frozen:
            raise ConfigError(
                f"{_KEY}={self.cut} freezes nothing in {type(model).__name__}, whose stages are "
                f"{', '.join(model.stage_blocks())}; set {_KEY} to the last part to freeze"
            )
        if rebuilt := [name for name in model.fresh if name not in type(model).fresh]:
            raise ConfigError(
                f"defenses tldmi and rolss (or ssf) contradict each other on a {type(model).__name__}: tldmi "
                "fine-tunes "
                f"public weights, and the other rebuilds {' and '.join(rebuilt)} in shapes no public weights "
                "have; keep "
                "one of them"
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
        if not self._own_training:
            return recipe
        sgd = {
            "_target_": "torch.optim.SGD",
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
        }
        sizes = {"epochs": self.epochs, "batch_size": self.batch_size}
        given = {key: size for key, size in sizes.items() if size is not None}
        return {**recipe, **given, "optimizer": sgd, "scheduler": None}

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Keep frozen batch norms from following the batches, if they shall not."""
        if self.freeze_bn_stats:
            for module in self._frozen(model):
                for layer in module.modules():
                    if isinstance(layer, _BatchNorm):
                        layer.eval()

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="frozen layers hide nothing and gradients pass them, so the attack is the plain one"
        )

    def _frozen(self, model: Classifier) -> list[nn.Module]:
        blocks = blocks_before(model, self.cut)
        if self.train_stem and blocks:
            stem = model.stage_blocks().get("stem", [])
            blocks = [block for block in blocks if block not in stem]
        return [model.get_submodule(name) for block in blocks for name in block]
