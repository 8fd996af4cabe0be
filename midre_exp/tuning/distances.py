"""Distances of two sets of features (Peng et al., NeurIPS 2024): by pairs, by conditional transport and by
maximum mean discrepancy. Leading dimensions are problems of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Kernels of the discrepancy, each twice as wide as the one before; the mean squared distance over 4 is the
#: first width.
_KERNELS, _FIRST = 5, 4


def pointwise(source: Tensor, target: Tensor) -> Tensor:
    """Squared distance of each of ``source`` [..., n, d] to its own of ``target`` [..., n, d]: [..., n]."""
    return (source - target).square().sum(-1)


def conditional_transport(source: Tensor, target: Tensor) -> Tensor:
    """[...] of ``source`` [..., n, d] and ``target`` [..., m, d]: with the products S = t s and the costs
    C = 1 - cosine(t, s), half the mean cost of carrying each source to the targets by the softmax of S over
    these, and half that of each target to the sources.
    """
    products = target @ source.mT  # [..., m, n]
    cosines = torch.nn.functional.normalize(target, dim=-1) @ torch.nn.functional.normalize(source, dim=-1).mT
    costs = 1 - cosines
    forward = (costs * products.softmax(-2)).sum(-2).mean(-1)
    backward = (costs * products.softmax(-1)).sum(-1).mean(-1)
    return 0.5 * forward + 0.5 * backward


def mean_discrepancy(source: Tensor, target: Tensor) -> Tensor:
    """[...] of ``source`` [..., n, d] and ``target`` [..., m, d]: mean K(s, s) + mean K(t, t) - 2 mean
    K(s, t), all pairs counted, K the sum of five Gaussians exp(-D / b), b = B / 4, B / 2, ... 4 B, of squared
    distances D and their mean B over the pairs of the joint set, which is no variable.
    """
    both = torch.cat((source, target), -2)
    squares = both.square().sum(-1)
    distances = (squares[..., :, None] + squares[..., None, :] - 2 * both @ both.mT).clamp_min(0)
    count, n = both.shape[-2], source.shape[-2]
    mean = distances.detach().sum((-2, -1)) / (count * count - count)
    # of points that are all one, whatever the width: K is 1 everywhere
    widths = [mean.clamp_min(torch.finfo(mean.dtype).tiny) / _FIRST * 2**number for number in range(_KERNELS)]
    kernels = torch.stack([(-distances / width[..., None, None]).exp() for width in widths]).sum(0)
    own, other = kernels[..., :n, :n].mean((-2, -1)), kernels[..., n:, n:].mean((-2, -1))
    return own + other - 2 * kernels[..., :n, n:].mean((-2, -1))
