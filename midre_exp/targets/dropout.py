"""Dropout and stochastic depth that draw alike on every device (see ``midre_exp.seeding``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from midre_exp.seeding import moved


class CPUDropout(nn.Dropout):
    """Dropout whose zeros the CPU draws from torch's own generator, wherever it acts."""

    def forward(self, input: Tensor) -> Tensor:
        """The input with some of its numbers zero and the others larger by 1 / (1 - p)."""
        if not self.training or input.device.type == "cpu":
            return super().forward(input)
        if self.p == 1:
            return torch.zeros_like(input)
        kept = torch.empty(input.shape).bernoulli_(1 - self.p).div_(1 - self.p)
        return input * moved(kept, input.device).to(input)


class CPUStochasticDepth(StochasticDepth):
    """Stochastic depth whose rows the CPU draws from torch's own generator, wherever it acts."""

    def forward(self, input: Tensor) -> Tensor:
        """The input [n, ...] with some rows zero (mode ``batch``: all or none) and the others larger."""
        if not self.training or self.p == 0 or input.device.type == "cpu":
            output: Tensor = super().forward(input)
            return output
        rows = len(input) if self.mode == "row" else 1
        kept = torch.empty(rows, *[1] * (input.ndim - 1)).bernoulli_(1 - self.p)
        if self.p < 1:
            kept.div_(1 - self.p)
        return input * moved(kept, input.device).to(input)


def draw_on_the_cpu(network: nn.Module) -> None:
    """Make ``network``, in place, draw the same numbers on every device while it is trained; on a CPU nothing
    changes.
    """
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CPUDropout
        elif type(module) is StochasticDepth:
            module.__class__ = CPUStochasticDepth
