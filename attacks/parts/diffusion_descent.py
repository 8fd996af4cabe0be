"""The steps of Diff-MI on pictures [n, d], nominally in [-1, 1], as pure functions: what a diffusion model
thinks of them and what the target does, in turn.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.parts.optimisers import adamax_step

#: Losses [n] of pictures [n, d].
Losses = Callable[[Tensor], Tensor]
_MIDDLE, _LOWEST, _JITTER = 800, 200, 50


def noise_level(step: int, steps: int, offsets: Tensor, levels: int) -> Tensor:
    """The noise level, int64 [n], from 1 to ``levels`` (released: of 1,000), at which step number ``step`` of
    ``steps`` looks at pictures: from high to low along a line and a cosine, moved by ``offsets`` [n].
    """
    left = steps - step
    share = (left / 1.5 + left / 3 * math.cos(3 / (10 * math.pi) * step)) / steps
    found: Tensor = (share * _MIDDLE + _LOWEST + offsets.double()).long()
    return torch.clamp(found, 1, levels)


def jitter(uniform: Tensor) -> Tensor:
    """Whole offsets of the noise level, from -50 to 50, of uniform numbers in [0, 1)."""
    return (uniform * (2 * _JITTER + 1)).floor() - _JITTER


def own_norms(gradient: Tensor) -> Tensor:
    """The norm of each row of [n, d], [n]."""
    norms: Tensor = gradient.norm(dim=1)
    return norms


@dataclass(frozen=True)
class Descent:
    """Adamax on two losses in turn; the gradient of the second is clipped to a multiple of the norm of the
    first's, as far as that is remembered.
    """

    lr: float  # of Adamax
    ratio: float  # of the largest norm of the second gradient to the tracked norm of the first
    batch: int  # both losses are means over so many pictures, which Adamax sees where a gradient is tiny
    #: Norms [n] of a gradient [n, d]: each row's, so that items are independent (released: the batch's).
    norms: Callable[[Tensor], Tensor] = own_norms

    def start(self, pictures: Tensor) -> dict[str, Tensor]:
        """The state before the first step."""
        zeros = torch.zeros_like(pictures)
        return {"pictures": pictures, "first": zeros, "largest": zeros.clone(), "norm": zeros[:, 0].clone()}

    def step(
        self, state: dict[str, Tensor], step: int, denoising: Losses, identity: Losses
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The state after step number ``step``, and both losses [n]."""
        pictures, moments = state["pictures"], (state["first"], state["largest"])
        gradient, errors = self._gradient(denoising, pictures)
        norm = self.norms(gradient)
        if step:
            norm = 0.5 * state["norm"] + 0.5 * norm
        pictures, moments = adamax_step(pictures, moments, gradient, 2 * step, lr=self.lr)
        gradient, losses = self._gradient(identity, pictures)
        # as torch clips the norm of a gradient
        factor = (self.ratio * norm / (self.norms(gradient) + 1e-6)).clamp(max=1)
        gradient = gradient * factor[:, None]
        pictures, (first, largest) = adamax_step(pictures, moments, gradient, 2 * step + 1, lr=self.lr)
        return {"pictures": pictures, "first": first, "largest": largest, "norm": norm}, errors, losses

    def _gradient(self, losses: Losses, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of each row's share of the mean loss, [n, d], and the losses [n]."""
        pictures = pictures.detach().requires_grad_()
        each = losses(pictures)
        (gradient,) = torch.autograd.grad(each.sum() / self.batch, pictures)
        return gradient, each.detach()
