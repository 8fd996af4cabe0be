"""An evaluator that can be asked anew, about other images or rebuilt as an official program rebuilds it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from midre_exp.memory.batches import AtOnce
from midre_exp.numerics import Numerics
from midre_exp.targets.predict import Step, predict

_BATCH = 256


@dataclass(frozen=True)
class Judge:
    """An evaluator with what lies between an image and it."""

    network: nn.Module
    steps: tuple[Step, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    numerics: Numerics = field(default_factory=Numerics)
    at_once: AtOnce = field(default_factory=lambda: AtOnce(_BATCH))

    def look(self, images: Tensor, *, as_they_are: bool = False) -> tuple[Tensor, Tensor]:
        """Logits [n, k] and features [n, d], on the CPU, of images [n, 3, h, w], uint8 or float in [0, 1];
        ``as_they_are``: such that need no further step, as private ones.
        """
        steps = () if as_they_are else self.steps
        return predict(self.network, images, self.device, steps=steps, batch=self.at_once)

    def rebuilt(self) -> Judge | None:
        """The same weights without ``transform_input``: PPA trains its evaluators with it and rebuilds them
        for the evaluation without, because no weight file tells of it. None for a network that has none.
        """
        if not any(map(_has_transform, self.network.modules())):
            return None
        network = copy.deepcopy(self.network)
        for module in network.modules():
            if _has_transform(module):
                setattr(module, "transform_input", False)  # noqa: B010  a name that not every module has
        # a compiled call, or one in another precision, is that of the network it was copied from
        if network.__dict__.pop("forward", None) is not None:
            self.numerics.accelerate(network)
        return replace(self, network=network)


def _has_transform(module: nn.Module) -> bool:
    return getattr(module, "transform_input", False) is True
