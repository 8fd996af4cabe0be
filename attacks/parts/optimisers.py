"""Optimiser steps on latents as pure functions: state in, state out, so that any number of independent
latents share one step.

Elementwise throughout: a batch of latents moves as each would alone.
"""

from __future__ import annotations

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
    first = betas[0] * moments[0] + (1 - betas[0]) * gradient
    second = betas[1] * moments[1] + (1 - betas[1]) * gradient**2
    bias_first, bias_second = 1 - betas[0] ** (step + 1), 1 - betas[1] ** (step + 1)
    scale = (second / bias_second).sqrt() + eps
    return latents - lr / bias_first * first / scale, (first, second)
