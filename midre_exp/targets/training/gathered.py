"""The rows of one process of a tensor that all processes hold alike."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def own_rows(whole: Tensor, rank: int, world_size: int) -> Tensor:
    """The rows of process ``rank`` of ``whole`` [n, ...], which every process holds and whose n is a multiple
    of ``world_size``.

    Gradients are those of all rows in every process, given that each has the loss of all and that what was
    computed of the rows was gathered with gradients that are added up.
    """
    if not whole.requires_grad:
        return whole.chunk(world_size)[rank]
    rows: Tensor = _OwnRows.apply(whole, rank, world_size)
    return rows


class _OwnRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, whole: Tensor, rank: int, world_size: int) -> Tensor:
        ctx.world_size = world_size
        return whole.chunk(world_size)[rank].clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        parts = [torch.empty_like(gradient) for _ in range(ctx.world_size)]
        dist.all_gather(parts, gradient.contiguous())
        return torch.cat(parts) / ctx.world_size, None, None
