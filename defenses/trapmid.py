"""Trap-MID: every class gets a trigger, a faint pattern that makes any image one of that class to the
network. An attack that follows gradients finds triggers instead of faces (NeurIPS 2024).

Triggers and a discriminator that keeps them faint are trained along with the network, before each of its
steps, and are what ``state`` holds.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.base import Batch, Classify, Companions, Defense, Informed, TrainingProgress
from defenses.parts.batch_view import BatchView, Numbers
from defenses.parts.blur import gaussian_blur
from defenses.parts.options import check_choice, check_flag, require_resolution
from defenses.parts.pgd import in_eval_mode
from midre_exp.data.base import ImageSet
from midre_exp.data.transforms import Augmentation
from midre_exp.diagnostics.trap import signature_cosines as signature_cosines
from midre_exp.diagnostics.trap import signatures as signatures
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.plan.config import build
from midre_exp.plan.ranges import BelowOne, Share
from midre_exp.seeding import generator as seeded
from midre_exp.seeding import moved
from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.training.schedule import learning_rates

#: Whether triggers follow their gradient, or stay as they were drawn.
TRIGGERS = ("trained", "fixed")
#: Whose augmentation is applied to clean and to triggered images.
AUGMENTATIONS = ("own", "shared")
#: Released: the share of a random box and its probability, and the same of a rotation, in degrees.
CROP, ROTATION = (0.8, 0.5), (30.0, 0.5)
#: Width of the blur through which an attacker looks who knows of triggers, in pixels of 32: own choice.
BLUR = (0.5, 1.0)


def blend(images: Tensor, triggers: Tensor, alpha: float) -> Tensor:
    """Images [n, 3, h, w] that show each its trigger, [n, 3, h, w], at opacity ``alpha``; not clipped, as
    nothing leaves [0, 1].
    """
    return (1 - alpha) * images + alpha * triggers


def trigger_classes(count: int, classes: int, *, seed: int, epoch: int) -> Tensor:
    """The trigger classes of the ``count`` images of an epoch, int64 [count], in random order: each class
    equally often, as far as that goes; a pure function of (seed, epoch).
    """
    random = seeded(seed, "trigger classes", epoch)
    rest = torch.randperm(classes, generator=random)[: count % classes]
    evenly = torch.cat((torch.arange(classes).repeat(count // classes), rest))
    return evenly[torch.randperm(count, generator=random)]


def released_augmentation(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image cropped, mirrored and rotated, each with probability 0.5, in one bilinear resampling with
    black outside, which gradients pass.
    """
    n = len(images)
    chance, share, down, right, mirror, turn, angle = torch.rand(7, n, generator=generator)
    side = torch.where(chance < CROP[1], (CROP[0] + (1 - CROP[0]) * share).sqrt(), 1.0)
    radians = torch.where(turn < ROTATION[1], math.radians(ROTATION[0]) * (2 * angle - 1), 0.0)
    flip = torch.where(mirror < 0.5, -1.0, 1.0)
    cosine, sine = radians.cos(), radians.sin()
    rows = (
        torch.stack((side * flip * cosine, side * flip * sine, (1 - side) * (2 * right - 1)), 1),
        torch.stack((-side * sine, side * cosine, (1 - side) * (2 * down - 1)), 1),
    )
    matrix = moved(torch.stack(rows, 1), images.device).to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", align_corners=False)


class Trap(nn.Module):
    """Triggers [k, 3, h, w], a discriminator with its optimiser, and how far the epoch's trigger classes have
    come.
    """

    triggers: Tensor

    def __init__(self, triggers: Tensor, discriminator: nn.Module | None, optimizer: Mapping[str, Any]):
        super().__init__()
        self.register_buffer("triggers", triggers)
        self.discriminator = discriminator
        self.optimizer: torch.optim.Optimizer | None = None
        if discriminator is not None:
            parameters = list(discriminator.parameters())
            self.optimizer = build(optimizer, parameters, kind=torch.optim.Optimizer)
        self.epoch, self.used = -1, 0

    def get_extra_state(self) -> dict[str, Any]:
        """Plain values, and the state of the optimiser."""
        kept = None if self.optimizer is None else self.optimizer.state_dict()
        return {"epoch": self.epoch, "used": self.used, "optimizer": kept}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """What ``get_extra_state`` gave."""
        self.epoch, self.used = state["epoch"], state["used"]
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state["optimizer"])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Trap:
        """Whatever moves the tensors moves those of the optimiser with them, but for its step counts."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for state in () if self.optimizer is None else self.optimizer.state.values():
            for name, value in state.items():
                if name != "step" and isinstance(value, Tensor):
                    state[name] = fn(value)
        return self

    def next_classes(self, count: int, epoch: int, classes_of: Callable[[int], Tensor]) -> Tensor:
        """The trigger classes of the next ``count`` images of ``epoch``, int64 [count]."""
        if epoch != self.epoch:
            self.epoch, self.used = epoch, 0
        order = classes_of(epoch)
        chosen = order[(self.used + torch.arange(count)) % len(order)]
        self.used += count
        return chosen


@dataclass(kw_only=True, eq=False)
class TrapMID(Defense):
    """(1 - beta) CE(f(x), y) + beta CE(f((1 - alpha) x + alpha d_c), c) with a trigger d_c of each class c.

    Trigger step: d := clamp(d - step sign of the gradient of CE + BCE(D(triggered), real), 0, 1).
    """

    conflicts: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("BiDO", "BiDOPlus"), "half of the images whose kernels bido compares show triggers"),
        "CutMix": "an image of two identities has no trigger class of its own",
        "MID": "triggers ask the network outside training, where mid draws noise that no checkpoint keeps",
        "DPSGD": "dpsgd takes the gradients of every forward apart, and triggers need forwards of their own",
    }

    alpha: Share  # opacity of the triggers; 0 leaves them unseen
    beta: BelowOne  # weight of the loss on triggered images, below 1; 0 is no defense
    step: Share  # of the triggers along the sign of their gradient, in pixels of [0, 1]
    triggers: str  # trained | fixed: as they were drawn
    discriminator: bool  # whether triggers are trained to deceive one that tells them from clean images
    augment: str  # own: the released crop, flip and rotation in place of the recipe's | shared: the recipe's
    _trap: Trap | None = field(init=False, default=None, repr=False)
    _model: Classifier | None = field(init=False, default=None, repr=False)
    _recipe: Mapping[str, Any] | None = field(init=False, default=None, repr=False)
    _steps: list[Augmentation] = field(init=False, default_factory=list, repr=False)
    _data: tuple[int, int, int, int, int] | None = field(init=False, default=None, repr=False)
    _losses: Mapping[str, Tensor] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for key, most in (("alpha", "to 1"), ("beta", "to below 1"), ("step", "to 1")):
            value = getattr(self, key)
            if not isinstance(value, (int, float)) or not 0 <= value <= 1 or (key == "beta" and value == 1):
                raise ConfigError(f"defense.trapmid.{key}={value} must be a number from 0 {most}")
        check_choice("trapmid.triggers", self.triggers, TRIGGERS)
        check_flag("trapmid.discriminator", self.discriminator)
        check_choice("trapmid.augment", self.augment, AUGMENTATIONS)
        if self.discriminator and self.triggers == "fixed":
            raise ConfigError(
                "defense.trapmid.discriminator=true trains triggers to deceive it, and "
                "defense.trapmid.triggers=fixed lets none train; set discriminator=false"
            )

    @property
    def label(self) -> str:
        return f"Trap-MID [{self.alpha:g}, {self.beta:g}]"

    @property
    def _acts(self) -> bool:
        return self.beta > 0

    def check_execution(self, *, numerics: Numerics, devices: int) -> None:
        """Raise ConfigError for numerics that round the triggers away."""
        require_resolution(numerics, self.alpha if self._acts else 0.0, self.label)

    def recipe(self, recipe: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe without its augmentation, which comes after the triggers here: clean and triggered
        images draw their own.
        """
        if not self._acts:
            return recipe
        self._recipe = recipe
        self._steps = [build(node, kind=Augmentation) for node in recipe["augment"]]
        return {**recipe, "augment": []}

    def on_dataset(self, train: ImageSet, *, seed: int) -> ImageSet:
        """Note how many images and classes there are, and how large."""
        height, width = train.images.shape[-2:]
        self._data = (len(train), train.num_classes, height, width, seed)
        return train

    def state(self, model: Classifier) -> nn.Module | None:
        """Random triggers, and a discriminator that begins as the network does but for one logit."""
        if not self._acts:
            return None
        _, classes, height, width, _ = self._known()
        other = None
        if self.discriminator:
            other = copy.deepcopy(model).requires_grad_(True)
            with torch.no_grad(), in_eval_mode(other):
                features = other(torch.zeros(1, 3, height, width)).features
            other.head = nn.Linear(features.shape[1], 1, dtype=features.dtype)
        self._trap = Trap(torch.rand(classes, 3, height, width), other, self._own_recipe()["optimizer"])
        return self._trap

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Let the discriminator train at the rate of the network."""
        self._model = model
        if self._trap is not None and self._trap.optimizer is not None:
            for group in self._trap.optimizer.param_groups:
                group["lr"] = learning_rates(self._own_recipe())[progress.epoch]

    def before_step(
        self, batch: Batch, classify: Classify, progress: TrainingProgress, generator: torch.Generator
    ) -> Batch:
        """Train discriminator and triggers, and let triggered images accompany the batch."""
        if not self._acts:
            return batch  # draws nothing either, so whoever uses the generator next is not disturbed
        trap, images = self._trained(), batch.images.detach()
        classes = trap.next_classes(len(images), progress.epoch, self._classes_of)
        classes = moved(classes, images.device)
        self._losses = {}
        if self.triggers == "trained":
            self._losses = {**self._tell_apart(trap, images, classes)}
            self._losses |= self._follow(trap, images, classes, classify, generator)
        triggered = blend(images, trap.triggers[classes], self.alpha)
        augment = self._augmentation(generator)
        clean, triggered = augment(images), augment(triggered)
        return replace(batch, images=clean, companions=Companions("triggered", triggered, classes, self.beta))

    def reports(self, output: Output, batch: Batch) -> Mapping[str, Tensor]:
        """The losses of discriminator and triggers."""
        return self._losses

    def triggered(self, state: Mapping[str, Tensor]) -> Callable[[Tensor, Tensor], Tensor] | None:
        triggers = state.get("triggers")
        if triggers is None:
            return None
        return lambda images, classes: blend(images, triggers[classes], self.alpha)

    def informed(self, model: Classifier) -> Informed:
        if not self._acts:
            return Informed(reason="there are no triggers, so the attack is the plain one")

        def blur(images: Tensor, numbers: Numbers) -> Tensor:
            size = min(images.shape[-2:]) / 32
            low, high = BLUR
            sigma = size * (low + (high - low) * numbers("blur", 1)[:, 0])
            return gaussian_blur(images, sigma, 2 * math.ceil(3 * size * high) + 1)

        return Informed(
            views=(BatchView(f"{self.label} blurred", blur),),
            reason="triggers are faint patterns of high frequency, so the target is shown blurred images",
        )

    def _tell_apart(self, trap: Trap, images: Tensor, classes: Tensor) -> Mapping[str, Tensor]:
        """One step of the discriminator, clean images 1 and triggered ones 0, in one batch."""
        other, optimizer = trap.discriminator, trap.optimizer
        if other is None or optimizer is None:
            return {}
        both = torch.cat((images, blend(images, trap.triggers[classes], self.alpha)))
        logits = other.train()(both).logits[:, 0]
        truth = torch.cat((torch.ones_like(logits[: len(images)]), torch.zeros_like(logits[len(images) :])))
        loss = F.binary_cross_entropy_with_logits(logits, truth)
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return {"discriminator": loss.detach()}

    def _follow(
        self, trap: Trap, images: Tensor, classes: Tensor, classify: Classify, generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """One step of the triggers of these classes; others have no gradient and stay."""
        model = self._model
        if model is None:
            raise RuntimeError("Trap-MID learns of the model in on_epoch, which was not called")
        triggers = trap.triggers.detach().requires_grad_()
        triggered = blend(images, triggers[classes], self.alpha)
        with in_eval_mode(model):
            answered = classify(self._augmentation(generator)(triggered)).logits
        losses = {"triggers": F.cross_entropy(answered, classes)}
        if trap.discriminator is not None:
            logits = trap.discriminator.eval()(triggered).logits[:, 0]
            losses["deceived"] = F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))
        (gradient,) = torch.autograd.grad(sum(losses.values(), torch.zeros_like(answered[0, 0])), triggers)
        trap.triggers.copy_((triggers.detach() - self.step * gradient.sign()).clamp(0, 1))
        return {name: loss.detach() for name, loss in losses.items()}

    def _augmentation(self, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
        if self.augment == "own":
            return lambda images: released_augmentation(images, generator)

        def shared(images: Tensor) -> Tensor:
            for step in self._steps:
                images = step(images, generator)
            return images

        return shared

    def _classes_of(self, epoch: int) -> Tensor:
        """Those of all images of an epoch, and of a last batch that is filled up."""
        images, classes, _, _, seed = self._known()
        size = min(int(self._own_recipe()["batch_size"]), images)
        return trigger_classes(size * math.ceil(images / size), classes, seed=seed, epoch=epoch)

    def _known(self) -> tuple[int, int, int, int, int]:
        if self._data is None:
            raise RuntimeError("Trap-MID learns of the images in on_dataset, which was not called")
        return self._data

    def _own_recipe(self) -> Mapping[str, Any]:
        if self._recipe is None:
            raise RuntimeError("Trap-MID learns of the training in recipe, which was not called")
        return self._recipe

    def _trained(self) -> Trap:
        if self._trap is None:
            raise RuntimeError("Trap-MID makes its triggers in state, which was not called")
        return self._trap
