"""Gradient descent on latents of a conditional prior whose images a network is shown in random views: what
PLG-MI does against the target and LOKT against what stands in for it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from attacks.base import ItemRNG, Loop, Prior, Transforms, apply
from attacks.parts.optimisers import adam_step
from midre_exp.data.transforms.view import NUMBERS, RandomView

#: What is descended of images [n, 3, h, w] as the network gets them, [n]; with the number of the view.
SeenLoss = Callable[[Tensor, int], Tensor]


def viewed_losses(
    prior: Prior,
    latents: Tensor,
    labels: Tensor,
    rng: ItemRNG,
    step: int,
    *,
    views: int,
    view: RandomView,
    image_to_target: Transforms,
    loss: SeenLoss,
) -> Tensor:
    """The sum of ``loss`` over ``views`` random views of the images of ``latents`` [n, d], [n]."""
    images = prior.generate(latents, labels)
    total = torch.zeros_like(latents[:, 0])
    for number in range(views):
        seen = view(images, rng.uniform(f"view {number}", NUMBERS, step=step))
        total = total + loss(apply(image_to_target, seen), number)
    return total


def descended(
    losses: Callable[[Tensor, int], Tensor],
    start: Tensor,
    loop: Loop,
    *,
    steps: int,
    lr: float,
    reference_batch: int,
) -> Tensor:
    """Latents [n, d] after ``steps`` steps of Adam from ``start``, down the sum of ``losses`` (of latents and
    the number of the step, [n]) over ``reference_batch``.
    """
    state = {"latents": start, "first": torch.zeros_like(start), "second": torch.zeros_like(start)}
    for step in loop(steps, state):
        latents = state["latents"].requires_grad_()
        each = losses(latents, step)
        loop.show(loss=each)
        (gradient,) = torch.autograd.grad(each.sum() / reference_batch, latents)
        state["latents"], (state["first"], state["second"]) = adam_step(
            latents.detach(), (state["first"], state["second"]), gradient, step, lr=lr
        )
    return state["latents"]
