"""Weight decay: the shared recipe with weight decay. A defense that protects no better than this at the same
accuracy is ordinary regularisation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from defenses.base import Defense, Informed
from defenses.parts.options import check_choice
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative
from midre_exp.targets.base import Classifier

#: What decays: the loss, or the weights themselves.
FORMS = ("recipe", "decoupled")
_ADAM, _ADAMW = "torch.optim.Adam", "torch.optim.AdamW"
#: What ``weight_decay`` is in torch's optimisers.
OPTIMIZERS: Mapping[str, str] = {"torch.optim.SGD": "L2", _ADAM: "L2", _ADAMW: "decoupled"}


@dataclass(kw_only=True, eq=False)
class WeightDecay(Defense):
    """The recipe with ``weight_decay`` on all that trains: L2, lambda w added to the gradient (SGD, Adam), or
    decoupled, w shrunk by lr lambda in every step (AdamW).
    """

    exclusive = frozenset({"optimizer"})

    weight_decay: NonNegative | None  # of the optimiser, in place of the recipe's; None: the recipe's
    form: str  # recipe: as its optimiser has it | decoupled: AdamW in the place of Adam

    def __post_init__(self) -> None:
        value = self.weight_decay
        if value is not None and (not isinstance(value, (int, float)) or not 0 <= value < float("inf")):
            raise ConfigError(
                f"defense.weight_decay.weight_decay={value} must be a number from 0 on, or null: the recipe's"
            )
        check_choice("weight_decay.form", self.form, FORMS)

    @property
    def label(self) -> str:
        value = "null" if self.weight_decay is None else f"{self.weight_decay:g}"
        return f"Weight decay {value}" + (" decoupled" if self.form == "decoupled" else "")

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe with its optimiser's ``weight_decay`` set. Raises ConfigError for an optimiser of which
        it is not known what that does, or that has no decoupled form.
        """
        if self.weight_decay is None:
            return recipe
        optimizer = dict(recipe["optimizer"])
        kind = str(optimizer.get("_target_"))
        if kind not in OPTIMIZERS:
            raise ConfigError(
                f"defense.weight_decay does not know what weight decay is in {kind}; choose a recipe with "
                f"one of {', '.join(OPTIMIZERS)}"
            )
        if self.form == "decoupled" and OPTIMIZERS[kind] != "decoupled":
            if kind != _ADAM:
                raise ConfigError(
                    f"defense.weight_decay.form=decoupled has no form of {kind}; use form=recipe, or a "
                    f"recipe with {_ADAM}"
                )
            optimizer["_target_"] = _ADAMW
        return {**recipe, "optimizer": {**optimizer, "weight_decay": self.weight_decay}}

    def informed(self, model: Classifier) -> Informed:
        return Informed(reason="smaller weights hide nothing from gradients, so the attack is the plain one")
