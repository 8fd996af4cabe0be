"""Optimiser steps on latents as pure functions: state in, state out, so that any number of independent
latents share one step.

Elementwise throughout: a batch of latents moves as each would alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def nesterov_step(
    latents: Tensor, velocity: Tensor, gradient: Tensor, *, lr: float, momentum: float
) -> tuple[Tensor, Tensor]:
    """Latents and velocity after one step of momentum in look-ahead form: v' = m v - lr g, z' = z - m v + (1
    + m) v'.

    The latents are those looked ahead to; equals SGD(nesterov=True). All tensors [n, d].
    """
    faster = momentum * velocity - lr * gradient
    return latents - momentum * velocity + (1 + momentum) * faster, faster


def adam_step(
    latents: Tensor,
    moments: tuple[Tensor, Tensor],
    gradient: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Latents and moments after step number ``step`` (from 0) of Adam (Kingma and Ba 2015), as
    ``torch.optim.Adam`` takes it.

    ``moments`` are the running means of the gradient and of its square, zeros at the start. All tensors of
    one shape.
    """
    moved, moments_after = adam_steps([latents], [moments], [gradient], step, lr=lr, betas=betas, eps=eps)
    return moved[0], moments_after[0]


@torch.no_grad()
def adam_steps(
    latents: list[Tensor],
    moments: list[tuple[Tensor, Tensor]],
    gradients: list[Tensor],
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
    """``adam_step`` of several tensors, by as many kernels as of one.

    What is not needed afterwards is written over: large latents cost by the memory that is moved.
    """
    bias_first, bias_second = 1 - betas[0] ** (step + 1), 1 - betas[1] ** (step + 1)
    first = list(torch._foreach_mul([mean for mean, _ in moments], betas[0]))
    torch._foreach_add_(first, torch._foreach_mul(gradients, 1 - betas[0]))
    squares = list(torch._foreach_mul(gradients, gradients))
    torch._foreach_mul_(squares, 1 - betas[1])
    second = list(torch._foreach_mul([square for _, square in moments], betas[1]))
    torch._foreach_add_(second, squares)
    scale = torch._foreach_div(second, bias_second)
    torch._foreach_sqrt_(scale)
    torch._foreach_add_(scale, eps)
    moved = torch._foreach_addcdiv(latents, first, scale, -lr / bias_first)
    return list(moved), list(zip(first, second, strict=True))


@torch.no_grad()
def adamax_step(
    latents: Tensor,
    moments: tuple[Tensor, Tensor],
    gradient: Tensor,
    step: int,
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Latents and moments after step number ``step`` (from 0) of Adamax (Kingma and Ba 2015), as
    ``torch.optim.Adamax`` takes it.

    ``moments`` are the running mean of the gradient and its largest size, which decays, zeros at the start.
    All tensors of one shape.
    """
    first = torch.lerp(moments[0], gradient, 1 - betas[0])
    largest = torch.maximum(betas[1] * moments[1], gradient.abs() + eps)
    return latents - lr / (1 - betas[0] ** (step + 1)) * first / largest, (first, largest)


def ramp(done: float, *, up: float, down: float) -> float:
    """Factor of the learning rate in the step with which the share ``done`` of all steps, in (0, 1], is over.

        (0.5 - 0.5 cos(pi min(1, (1 - done) / down))) * min(1, done / up)

    A linear rise over the share ``up``, a fall along a cosine over the share ``down``; 0 is none. With a
    fall, the last step has rate 0.
    """
    falling = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - done) / down)) if down else 1.0
    return falling * (min(1.0, done / up) if up else 1.0)
