"""The training of a noise predictor: AdamW, and an average over the weights that replaces them."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from midre_exp.numerics import Numerics
from midre_exp.weights.checkpointer import State

_PARTS = ("generator", "adam")


class DiffusionTraining:
    """A network in training, from the weights it has. ``ema``: the decay per step of an average over its
    weights that replaces them at the end; 0 for none.
    """

    def __init__(
        self,
        generator: nn.Module,
        *,
        lr: float,
        betas: Sequence[float],
        ema: float,
        device: torch.device,
        numerics: Numerics,
    ):
        self.generator = generator.to(device).train().requires_grad_(True)
        numerics.reorder(self.generator)
        self.predict = numerics.call(self.generator)  #: the network as the steps run it
        self.ema, self.device, self.steps = ema, device, 0
        self.average = deepcopy(generator).requires_grad_(False)
        first, second = betas
        # fused: one kernel for all parameters, also on the CPU
        self.adam = torch.optim.AdamW(
            generator.parameters(), lr=lr, betas=(first, second), weight_decay=0, fused=True
        )

    def step(self, loss: Tensor) -> None:
        """Move the network down ``loss``."""
        self.adam.zero_grad()
        torch.autograd.backward(loss)
        self.adam.step()
        if self.ema:
            start = (1 + self.steps) / (10 + self.steps)  # forget the first weights
            means: list[Tensor] = list(self.average.parameters())
            values: list[Tensor] = list(self.generator.parameters())
            with torch.no_grad():
                torch._foreach_lerp_(means, values, 1 - min(self.ema, start))
        self.steps += 1

    def finish(self) -> None:
        """Put the averaged weights, if any, into the network, and it into eval mode."""
        if self.ema:
            self.generator.load_state_dict(self.average.state_dict())
        self.generator.eval()

    def _parts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in (*_PARTS, *(("average",) if self.ema else ()))}

    def state(self) -> State:
        """Everything the next step depends on."""
        return {**{name: part.state_dict() for name, part in self._parts().items()}, "steps": self.steps}

    def restore(self, saved: State) -> None:
        """Take back what ``state`` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.steps = saved["steps"]
