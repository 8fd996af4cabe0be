"""The learning rates of a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from midre_exp.plan.config import build


def learning_rates(recipe: Mapping[str, Any], *, trusted: tuple[str, ...] = ()) -> list[float]:
    """The learning rate of every epoch under the recipe's scheduler, played through once on a stand-in
    parameter.

    A table instead of a stepping scheduler, because Lightning saves a checkpoint before it steps schedulers,
    so that a resumed run would lag one epoch behind.
    """
    stand_in, kind = [torch.nn.Parameter(torch.zeros(1))], torch.optim.lr_scheduler.LRScheduler
    optimizer = build(recipe["optimizer"], stand_in, kind=torch.optim.Optimizer, trusted=trusted)
    scheduler = recipe["scheduler"] and build(recipe["scheduler"], optimizer, kind=kind, trusted=trusted)
    rates = []
    for _ in range(int(recipe["epochs"])):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if scheduler and len(rates) < int(recipe["epochs"]):  # some schedulers refuse a step past their end
            scheduler.step()
    return rates
