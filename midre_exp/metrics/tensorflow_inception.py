"""TensorFlow's Inception of December 2015, by which FIDs in the literature are measured, in torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp.targets.architectures.inception_v3 import MIXED, InceptionV3

#: The file of pytorch-fid, whose tensors have torchvision's names; its name has the first digits of its
#: SHA-256.
PYTORCH_FID = "pt_inception-2015-12-05-6726825d.pth"
CLASSES = 1008
#: Mixed layers that begin a size of maps pool with a stride, and alike in both; the others as below.
_REDUCTIONS = ("Mixed_6a", "Mixed_7a")
_LAST = "Mixed_7c"


def tensorflow_inception() -> InceptionV3:
    """The network without its weights. It differs from torchvision's Inception-v3 in two things that no
    weight shows: average pooling inside of the mixed layers counts no padding, and the last of them takes the
    largest value where the others average. 1,008 classes.
    """
    network = InceptionV3(num_classes=CLASSES, auxiliary=False, transform_input=False)
    for name in (name for names in MIXED for name in names if name not in _REDUCTIONS):
        _pool_by(network.get_submodule(name), _largest if name == _LAST else _average)
    return network


def _pool_by(layer: nn.Module, pool: Callable[[Tensor], Tensor]) -> None:
    """Let the branch of a mixed layer that pools, its last, pool otherwise."""
    mixed = cast(Any, layer)
    mixed._forward = partial(_branches, mixed, mixed._forward, pool)


def _branches(
    layer: Any, published: Callable[[Tensor], list[Tensor]], pool: Callable[[Tensor], Tensor], maps: Tensor
) -> list[Tensor]:
    return [*published(maps)[:-1], layer.branch_pool(pool(maps))]


def _average(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


def _largest(maps: Tensor) -> Tensor:
    return F.max_pool2d(maps, 3, stride=1, padding=1)


def tensorflow_resize(images: Tensor, size: int) -> Tensor:
    """Bilinear as TensorFlow 1 resized by default: output pixel i lies at i times the input's side over
    ``size``, without half pixels. [n, c, h, w] to [n, c, ``size``, ``size``].
    """
    return _along(_along(images, size, 2), size, 3)


def _along(images: Tensor, size: int, dim: int) -> Tensor:
    pixels = images.shape[dim]
    place = torch.arange(size, device=images.device, dtype=torch.float64) * (pixels / size)
    lower = place.floor().long().clamp(max=pixels - 1)
    upper = (lower + 1).clamp(max=pixels - 1)
    share = (place - lower).to(images.dtype).view([-1 if d == dim else 1 for d in range(images.ndim)])
    return torch.lerp(images.index_select(dim, lower), images.index_select(dim, upper), share)
