"""Targeted PGD on a finished picture (Madry et al. 2018): what it becomes is an adversarial example of the
target next to the picture, not more of the person.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.parts.checks import above_zero, at_least_one
from midre_exp.plan.ranges import Count, Positive


@dataclass(kw_only=True, eq=False)
class TargetedPGD:
    """x <- P(x - step g / |g|), g the gradient of the loss, P the projection into an L2 ball around the
    picture and into [0, 1], from a random point of the sphere; of all points that of the lowest loss is kept.
    """

    radius: Positive  # of the ball, in L2 of a picture in [0, 1] (released: 0.5)
    step: Positive  # (released: 0.1)
    steps: Count  # (released: 10); each asks the target once, and the last point once more

    def __post_init__(self) -> None:
        above_zero(**{"pgd.radius": self.radius, "pgd.step": self.step})
        at_least_one(**{"pgd.steps": self.steps})

    def start(self, pictures: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """The state before the first step, of pictures [n, 3, h, w] in [0, 1] and standard normal noise."""
        apart = self.radius * noise / (noise.flatten(1).norm(dim=1)[:, None, None, None] + 1e-10)
        losses = torch.full_like(pictures[:, 0, 0, 0], torch.inf)
        return {
            "around": pictures,
            "point": (pictures + apart).clamp(0, 1),
            "best": pictures.clone(),
            "loss": losses,
        }

    def moved(self, state: dict[str, Tensor], losses: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The state after a step down ``losses`` ([n, 3, h, w] to [n])."""
        point = state["point"].detach().requires_grad_()
        each = losses(point)
        (gradient,) = torch.autograd.grad(each.sum(), point)
        state = _kept(state, point.detach(), each.detach())
        norm = gradient.flatten(1).norm(dim=1)[:, None, None, None]
        apart = point.detach() - self.step * gradient / (norm + 1e-10) - state["around"]
        size = apart.flatten(1).norm(dim=1)[:, None, None, None]
        apart = apart * (self.radius / (size + 1e-10)).clamp(max=1)
        return {**state, "point": (state["around"] + apart).clamp(0, 1)}

    @torch.no_grad()
    def best(self, state: dict[str, Tensor], losses: Callable[[Tensor], Tensor]) -> Tensor:
        """Of all points the best, [n, 3, h, w]; looks at the last."""
        return _kept(state, state["point"], losses(state["point"]))["best"]


def _kept(state: dict[str, Tensor], point: Tensor, losses: Tensor) -> dict[str, Tensor]:
    better = losses < state["loss"]
    return {
        **state,
        "best": torch.where(better[:, None, None, None], point, state["best"]),
        "loss": torch.where(better, losses, state["loss"]),
    }
