"""The path of a skip connection, as a module whose share in the sum can be changed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from midre_exp.errors import ConfigError


class Shortcut(nn.Sequential):
    """A shortcut path of no or some layers, times ``k``. At k = 0 it is the scalar 0 and its layers are not
    run.

    At k = 1 nothing is multiplied: even the order in which autograd adds up gradients is that of the plain
    network.
    """

    #: Let gradients pass as at k = 1, whatever k is; the forward pass stays as it is.
    is_straight = False

    def __init__(self, k: float, *layers: nn.Module):
        super().__init__(*layers)
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        """Take ``x`` [n, c, h, w] along the path, times k."""
        if self.k == 0 and not self.is_straight:
            return x.new_zeros(())
        path = x
        for layer in self:
            path = layer(path)
        if self.k == 1:
            return path
        if self.is_straight:
            scaled: Tensor = _StraightThrough.apply(path, self.k)
            return scaled
        return self.k * path


class _StraightThrough(torch.autograd.Function):
    """``k`` times a tensor, with the gradient of the tensor itself."""

    @staticmethod
    def forward(ctx: Any, path: Tensor, k: float) -> Tensor:
        # without a layout of its own, which would decide about that of the sum, and how later layers round
        return k * path if k else path.new_zeros(()).expand_as(path)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


def scale_shortcut(model: nn.Module, name: str, k: float) -> None:
    """Give the shortcut ``name`` of ``model`` the factor ``k``, as a ``Shortcut`` of the same layers.

    There may lie a ``Shortcut``, ``nn.Identity`` or None (the input as it is), an ``nn.Sequential`` whose
    children are numbered, or a layer without weights. Raises ConfigError for another module.
    """
    parent, _, leaf = name.rpartition(".")
    owner = model.get_submodule(parent)
    path: nn.Module | None = getattr(owner, leaf)
    if isinstance(path, Shortcut):
        path.k = k
        return
    shortcut = Shortcut(k, *(path if isinstance(path, nn.Sequential) else () if path is None else (path,)))
    if path is not None and list(shortcut.state_dict()) != list(path.state_dict()):
        raise ConfigError(
            f"the shortcut {name} of {type(model).__name__} is a {type(path).__name__}, which cannot be "
            "scaled with its "
            "weights keeping their names; make it an nn.Sequential of numbered layers"
        )
    setattr(owner, leaf, shortcut)
