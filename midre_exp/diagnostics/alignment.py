"""Whether the gradients of a target lie along the pictures that an attacker's prior can make: who inverts
through a generator only gets as far as they do (AlignMI, Peng et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

#: Singular values below this share of the largest count as none.
_RANK = 1e-6


class Aligned(NamedTuple):
    """Of each of n images."""

    ratio: Tensor  # float64 [n], in [0, 1]: the share of the gradient's length along the manifold
    rank: Tensor  # int64 [n], how many directions that has
    chance: Tensor  # float64 [n]: about the ratio of a random direction


def jacobian(picture: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    """The Jacobian of pictures [n, 3, h, w] at latents [n, k], by forward products with unit vectors:
    [n, 3 h w, k]. Each picture must depend on its own latent alone.
    """
    columns = []
    for number in range(latents.shape[1]):
        direction = torch.zeros_like(latents)
        direction[:, number] = 1
        product: Tensor = torch.func.jvp(picture, (latents,), (direction,))[1]
        columns.append(product.detach().flatten(1))
    return torch.stack(columns, dim=2)


def alignment(gradients: Tensor, tangents: Tensor) -> Aligned:
    """How much of gradients [n, ...] lies in the span of ``tangents`` [n, d, k]; d is the size of a picture.
    An image whose gradient is nothing has a ratio of 0.
    """
    d = tangents.shape[1]
    flat = gradients.flatten(1).double()
    ratio, rank = [], []
    for gradient, columns in zip(flat, tangents.double(), strict=True):
        directions, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
        kept = directions[:, sizes > _RANK * sizes[0]]
        length = gradient.norm()
        ratio.append((kept.T @ gradient).norm() / length if length > 0 else length)
        rank.append(kept.shape[1])
    of_rank = torch.tensor(rank, dtype=torch.int64)
    return Aligned(torch.stack(ratio).cpu(), of_rank, (of_rank.double() / d).sqrt())
