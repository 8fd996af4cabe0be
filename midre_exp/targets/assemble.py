"""From a target's settings to a network: architecture, surgery, weights, head, in the one order in which they
fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from midre_exp.plan.config import build
from midre_exp.seeding import derive
from midre_exp.targets.base import Classifier
from midre_exp.targets.dropout import draw_on_the_cpu
from midre_exp.weights.state_dict import load_backbone


class Surgery(Protocol):
    """What ``assemble`` needs of a defense."""

    def modify_backbone(self, model: Classifier) -> None:
        """Change the layers before weights are loaded."""

    def replace_head(self, model: Classifier) -> None:
        """Replace the head after weights are loaded."""


def assemble(
    settings: Mapping[str, Any],
    num_classes: int,
    defense: Surgery,
    *,
    seed: int,
    weights: str | None = None,
    fresh_head: bool = False,
    trusted: tuple[str, ...] = (),
) -> Classifier:
    """Build ``settings.model`` as the composed ``defense`` shapes it, initialised from ``seed`` and from
    public ``weights`` if given.

    The backbone is changed before the weights are loaded, of which only the head and the parts declared
    ``fresh`` may be missing; the new head comes after them. ``fresh_head``: the weights are of other classes,
    even where they are as many.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "init"))
        model = build(settings["model"], num_classes=num_classes, kind=Classifier, trusted=trusted)
        defense.modify_backbone(model)
        if weights is not None:
            load_backbone(model, weights, fresh_head=fresh_head)
        defense.replace_head(model)
    draw_on_the_cpu(model)
    return model
