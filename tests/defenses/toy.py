"""The toy network of the golden numbers of defenses (conv, batch norm, ReLU, linear on 3 x 4 x 4 images, in
double precision), its fixed weights, and how its summaries are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from defenses import Batch, Composed, Defense, compose
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.module import ClassifierModule
from tests.golden.toy import fill_in_double

SGD = {"_target_": "torch.optim.SGD", "lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
ADAM = {"_target_": "torch.optim.Adam", "lr": 1e-3}


class Toy(Classifier):
    """In [0, 1] and normalised by ``mean`` and ``std``."""

    head_name = "fc"

    def __init__(self, *, num_classes: int = 5, mean: float = 0.5, std: float = 0.5):
        super().__init__()
        self.set_normalisation(mean, std)
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(64, num_classes)
        fill_in_double(self)

    def stages(self) -> Sequence[tuple[str, Callable[[Tensor], Tensor]]]:
        return [("conv", lambda x: self.norm(self.conv(x)).relu())]


def assert_like(found: Mapping[str, Tensor], golden: Mapping[str, Any], tolerance: float = 1e-8) -> None:
    """Fail, naming the tensor, unless tensors have the golden numbers or summaries."""
    for name, expected in golden.items():
        value = found[name].detach().double()
        if isinstance(expected, Mapping):
            flat = value.flatten()
            assert list(value.shape) == expected["shape"]
            pairs = {
                "first8": flat[:8],
                "last4": flat[-4:],
                "sum": flat.sum(),
                "abs_sum": flat.abs().sum(),
                "l2": flat.norm(),
            }
            for what, number in pairs.items():
                theirs = torch.tensor(expected[what], dtype=torch.float64)
                assert torch.allclose(number, theirs, rtol=0, atol=tolerance), f"{name} {what}"
        else:
            theirs = torch.tensor(expected, dtype=torch.float64)
            assert torch.allclose(value, theirs, rtol=0, atol=tolerance), name


def composed(defense: Defense) -> Composed:
    """A defense as the engine has it."""
    return defense if isinstance(defense, Composed) else compose(it=defense)


class Steps:
    """Training steps of a defense on the toy network, as the engine makes them."""

    def __init__(self, defense: Defense, model: Toy, optimizer: Mapping[str, Any]):
        recipe = {"epochs": 1, "augment": [], "optimizer": dict(optimizer), "scheduler": None}
        self.module = ClassifierModule(model, composed(defense), recipe, seed=0)
        self.module._augment = Batch  # type: ignore[method-assign, assignment]  # images are no 8 bits
        self.module.train()
        self.optimizer = self.module.configure_optimizers()
        self.model, self.defense = model, defense

    def begin(self) -> None:
        """As Lightning begins an epoch."""
        self.module._trainer = SimpleNamespace(  # type: ignore[assignment]
            world_size=1, global_rank=0, current_epoch=0, optimizers=[]
        )
        self.module.batches = SimpleNamespace(epoch=0)  # type: ignore[assignment]
        self.module.on_train_epoch_start()

    def step(self, images: Tensor, labels: Tensor, factor: float = 1.0) -> Tensor:
        """One step on images in [0, 1]; ``factor`` of the loss."""
        loss = self.module.training_step((images, labels, torch.arange(len(labels))), 0)
        self.optimizer.zero_grad()
        (factor * loss).backward()
        self.optimizer.step()
        return loss.detach()
