"""Projected gradient descent on the images of a training batch, within a box around each pixel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.base import Classify, Defense, TrainingProgress
from defenses.parts.options import check_choice, require_resolution
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.plan.ranges import Count, Probability
from midre_exp.seeding import uniform
from midre_exp.targets.base import Classifier

#: Defenses that none of this kind can be combined with, each with the reason.
CONFLICTS = {
    "FixedErasing": "fe erases before augmentation, so that PGD would paint into squares it cannot know",
    "DPSGD": "dpsgd takes the gradients of every forward apart, and PGD asks for many forwards in a step",
}
#: What batch norms do in the forwards of an attack on a training batch.
BATCH_NORMS = ("train", "eval")


def pgd(
    classify: Classify,
    images: Tensor,
    goal: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    towards: bool,
    start: Tensor | None = None,
    fixed: Tensor | None = None,
) -> Tensor:
    """Images [n, 3, h, w] in [0, 1] after ``steps`` steps of ``step`` along the sign of the gradient of the
    cross entropy with ``goal``, classes int64 [n] or their weights [n, k]: down ``towards`` them, or up.

    No pixel moves by more than ``eps`` or leaves [0, 1]. ``start``: where each begins, in [-1, 1] times
    ``eps``. ``fixed``: bool [n, 1, h, w], pixels that stay as they are. No gradient of a parameter is
    touched, and none flows into the result.
    """
    images = images.detach()
    low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
    if fixed is not None:
        low, high = torch.where(fixed, images, low), torch.where(fixed, images, high)
    moved = images if start is None else torch.minimum(torch.maximum(images + eps * start, low), high)
    for _ in range(steps):
        moved = moved.requires_grad_()
        loss = F.cross_entropy(classify(moved).logits, goal, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, moved)
        change = step * gradient.sign()
        moved = moved.detach() - change if towards else moved.detach() + change
        moved = torch.minimum(torch.maximum(moved, low), high)
    return moved


@contextmanager
def in_eval_mode(network: nn.Module, kinds: tuple[type[nn.Module], ...] = (nn.Module,)) -> Iterator[None]:
    """Those modules of ``network`` that are of ``kinds`` in eval mode, within; then as they were."""
    changed = [module for module in network.modules() if module.training and isinstance(module, kinds)]
    for module in changed:
        module.training = False
    try:
        yield
    finally:
        for module in changed:
            module.training = True


@dataclass(kw_only=True, eq=False)
class TrainsOnPGD(Defense):
    """A defense that trains on images which PGD made of the batch; options of the attack."""

    name: ClassVar[str]  # of its yaml, for messages

    eps: Probability  # most that a pixel in [0, 1] is moved; 0 is no defense
    step: Probability  # length of a step, as a share of eps
    steps: Count  # of PGD, from a uniform random start within eps
    pgd_batch_norm: str  # train | eval: whether batch norms take part in PGD's forwards as in training
    _model: Classifier | None = field(init=False, default=None, repr=False)  # the one in training

    def __post_init__(self) -> None:
        for key in ("eps", "step"):
            value = getattr(self, key)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                raise ConfigError(
                    f"defense.{self.name}.{key}={value} must be a number from 0 to 1; pixels lie in [0, 1]"
                )
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ConfigError(f"defense.{self.name}.steps={self.steps} must be a whole number of at least 1")
        check_choice(f"{self.name}.pgd_batch_norm", self.pgd_batch_norm, BATCH_NORMS)

    def check_execution(self, *, numerics: Numerics, devices: int) -> None:
        """Raise ConfigError for numerics that round the steps away."""
        require_resolution(numerics, self.eps * self.step, self.label)

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Note whose batch norms they are."""
        self._model = model

    def _moved(
        self,
        classify: Classify,
        images: Tensor,
        goal: Tensor,
        *,
        towards: bool,
        fixed: Tensor | None,
        generator: torch.Generator,
    ) -> Tensor:
        """``images`` after PGD from a random start."""
        start = 2 * uniform(generator, *images.shape, device=images.device) - 1
        length = self.eps * self.step
        if self._model is None:
            raise RuntimeError("PGD learns of the model in on_epoch, which was not called")
        kinds = (_BatchNorm,) if self.pgd_batch_norm == "eval" else ()
        with in_eval_mode(self._model, kinds):
            return pgd(
                classify,
                images,
                goal,
                eps=self.eps,
                step=length,
                steps=self.steps,
                towards=towards,
                start=start,
                fixed=fixed,
            )
