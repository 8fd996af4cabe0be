"""The toy of the golden files of attacks on style priors: a generator of 64 px with fixed weights and a
linear target of 10 classes.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.discriminator import StyleGAN2Discriminator
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from tests.priors.stylegan.test_networks import discriminator, filled, generator


class ToyPrior(StylePrior):
    """Weights of stylegan2_g64.json, scaled so that images vary naturally: z and w of 64, 10 layers."""

    def __init__(self, judge: StyleGAN2Discriminator | None = None):
        super().__init__()
        self.take(filled(generator(), natural=True), judge)

    def fit(self, public, victim, **options):
        raise NotImplementedError


def toy_prior(*, judged: bool = False) -> ToyPrior:
    """``judged``: with a discriminator."""
    return ToyPrior(filled(discriminator()) if judged else None).eval().requires_grad_(False)


def draw(key: str, *shape: int) -> Tensor:
    state = np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)
    return torch.from_numpy(state.standard_normal(shape).astype(np.float32))


class ToyTarget(nn.Module):
    """Linear in the image averaged to 8 px, which it takes from [0, 1] to the golden file's [-1, 1]."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(draw("toy.weight", 10, 192))
        self.bias = nn.Parameter(0.1 * draw("toy.bias", 10))

    def forward(self, images, taps=()):
        features = F.adaptive_avg_pool2d(2 * images - 1, 8).flatten(1)
        return Output(features @ self.weight.T + self.bias, features)


def toy_victim():
    return Victim.of(ToyTarget(), 10, Threat.WHITE_BOX)


def shared_rng(seed: int = 0) -> ItemRNG:
    """The stream that all items share."""
    return ItemRNG(seed, "attack", "common", items=torch.zeros(1, dtype=torch.long))


class PlainLoop:
    """A loop that keeps nothing, for ``invert`` alone."""

    def __init__(self, start: Tensor, seed: int = 0):
        self.start, self.shared_rng = start, shared_rng(seed)

    def __call__(self, steps, state, saved_after=None):
        return range(steps)

    def show(self, **values):
        """Nobody watches."""
