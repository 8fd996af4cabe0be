"""LoFt: the head becomes two layers of low rank with a saturating function between them (2410.05814 v4; v1
called it CALoR, together with confidence adaptation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from defenses.base import Defense, Informed
from defenses.parts.options import check_choice
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count
from midre_exp.targets.base import Classifier

#: What may stand between the two layers.
ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "none": nn.Identity,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
}


def low_rank_head(
    features: int, num_classes: int, *, rank: int, activation: str, normed: bool = True
) -> nn.Sequential:
    """The head of LoFt, features [n, d] to logits [n, k]: batch norm, linear(d, rank), activation,
    linear(rank, k). Without ``normed`` nothing stands in the place of the batch norm.
    """
    return nn.Sequential(
        nn.BatchNorm1d(features) if normed else nn.Identity(),
        nn.Linear(features, rank),
        ACTIVATIONS[activation](),
        nn.Linear(rank, num_classes),
    )


@dataclass(kw_only=True, eq=False)
class LoFt(Defense):
    """Low-rank feature head: logits = B tanh(A norm(features)), A of ``rank`` rows.

    arXiv 2410.05814 v4, whose batch norm stands in the released code alone.
    """

    exclusive = frozenset({"head"})

    rank: Count | None  # of the head; None leaves the head as it is, which no finite rank does
    activation: str  # tanh | none | leaky_relu | relu | relu6 | sigmoid: between the two layers

    def __post_init__(self) -> None:
        rank = self.rank
        if rank is not None and (not isinstance(rank, int) or isinstance(rank, bool) or rank < 1):
            raise ConfigError(
                f"defense.loft.rank={rank} must be a whole number from 1 on, or null: no defense"
            )
        check_choice("loft.activation", self.activation, ACTIVATIONS)

    @property
    def label(self) -> str:
        """``LoFt rank``, with the function where it is not the published one."""
        rank = "null" if self.rank is None else self.rank
        return f"LoFt {rank}" + (f" {self.activation}" if self.activation != "tanh" else "")

    def replace_head(self, model: Classifier) -> None:
        """Put the two layers where the linear head was. A network that normalises its features itself (VGG16)
        gets no second norm. Raises ConfigError for a model with another head.
        """
        if self.rank is None:
            return
        head = model.head
        if not isinstance(head, nn.Linear):
            raise ConfigError(
                f"defense.loft replaces a linear layer, and the head of {type(model).__name__} is {head}; "
                "leave loft out or choose another target"
            )
        model.head = low_rank_head(
            head.in_features,
            head.out_features,
            rank=self.rank,
            activation=self.activation,
            normed=not model.feature_norm,
        )

    def informed(self, model: Classifier) -> Informed:
        if self.rank is None:
            return Informed(reason="the head is the usual one, so the attack is the plain one")
        if self.activation == "none":
            return Informed(
                reason="two linear layers pass gradients on as one does, so the attack is the plain one"
            )
        return Informed(
            target=(straight_head,),
            reason="gradients vanish where the head saturates, so the backward pass leaves its function out",
        )


class StraightThrough(nn.Module):
    """``function`` forward, the identity backward (as in BPDA of Athalye et al. 2018)."""

    def __init__(self, function: nn.Module):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """``function(x)``, any shape."""
        answer: Tensor = self.function(x.detach())
        return answer + (x - x.detach())


def straight_head(model: Classifier) -> None:
    """Let gradients pass LoFt's function as if it were not there; answers stay as they are."""
    if not isinstance(model.head, nn.Sequential):
        raise RuntimeError(f"the head of {type(model).__name__} is none of LoFt")
    model.head[2] = StraightThrough(model.head[2])
