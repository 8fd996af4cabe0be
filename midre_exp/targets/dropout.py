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
        return input * moved(self.factors(input.shape), input.device).to(input)

    def factors(self, shape: torch.Size) -> Tensor:
        """What an input of that shape is multiplied by: zeros and 1 / (1 - p)."""
        kept = torch.empty(shape).bernoulli_(1 - self.p)
        return kept.div_(1 - self.p) if self.p < 1 else kept


class CPUStochasticDepth(StochasticDepth):
    """Stochastic depth whose rows the CPU draws from torch's own generator, wherever it acts."""

    def forward(self, input: Tensor) -> Tensor:
        """The input [n, ...] with some rows zero (mode ``batch``: all or none) and the others larger."""
        if not self.training or self.p == 0 or input.device.type == "cpu":
            output: Tensor = super().forward(input)
            return output
        return input * moved(self.factors(input.shape), input.device).to(input)

    def factors(self, shape: torch.Size) -> Tensor:
        """What an input of that shape is multiplied by: a number for each row, or one for all."""
        rows = shape[0] if self.mode == "row" else 1
        kept = torch.empty(rows, *[1] * (len(shape) - 1)).bernoulli_(1 - self.p)
        return kept.div_(1 - self.p) if self.p < 1 else kept


def draw_on_the_cpu(network: nn.Module) -> None:
    """Make ``network``, in place, draw the same numbers on every device while it is trained; on a CPU nothing
    changes.
    """
    for module in network.modules():
        if type(module) is nn.Dropout:
            module.__class__ = CPUDropout
        elif type(module) is StochasticDepth:
            module.__class__ = CPUStochasticDepth
