"""The tuning of a diffusion prior against the target: what is drawn of a class comes to be taken for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import to_float
from midre_exp.data.transforms.view import NUMBERS, RandomView
from midre_exp.errors import DivergedError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import Count, LearningRate, NonNegative, Share
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.runtime import Runtime
from midre_exp.targets.predict import hits
from midre_exp.threat import WhiteBoxVictim
from midre_exp.weights.checkpointer import Checkpointer

if TYPE_CHECKING:
    from midre_exp.priors.diffusion.network import NoiseLevels

CHECKPOINT = "tuning.pt"
_ASKED = 256  # images that the target is shown at once
_REMEDY = "lower attack.prior.tuning.lr"


class Tuned(Protocol):
    """What is tuned: a ``DDPMPrior``."""

    generator: nn.Module
    num_classes: int
    per_class: int
    latent_dim: int

    @property
    def schedule(self) -> NoiseLevels: ...

    def as_images(self, latents: Tensor) -> Tensor: ...

    def noise(self, noisy: Tensor, levels: Tensor, labels: Tensor) -> Tensor: ...


@dataclass(kw_only=True, eq=False)
class TargetTuning:
    """AdamW on label embedding and middle block: mean of L(T(v(x0)), y) + w |f - f_y|^2 over all estimates x0
    of an image of class y on its way from noise, and random views v of each (Li et al. 2024). f are the
    target's features, f_y their mean over the public images selected for the class.
    """

    epochs: Count  # at most, over the classes
    enough: Share  # the last epoch is the one in which the target takes this share of images for their class
    classes: Count | None  # the first so many; None: all of the target
    batch_size: Count  # classes per step
    lr: LearningRate  # of AdamW
    drawing_steps: Count  # network calls of a way, which the gradient goes all through
    views: Count  # of each estimate
    view: RandomView  # v
    identity_loss: Callable[[Tensor, Tensor], Tensor]  # L: logits [n, k], labels [n] -> loss per image [n]
    regulariser: NonNegative  # w

    def __post_init__(self) -> None:
        """Raise ConfigError for numbers that cannot be."""
        part = "attack.prior.tuning"
        require_counts(
            part,
            epochs=self.epochs,
            classes=self.classes,
            batch_size=self.batch_size,
            drawing_steps=self.drawing_steps,
            views=self.views,
        )
        require_numbers(part, lr=self.lr, regulariser=self.regulariser)
        require_numbers(part, enough=self.enough, high=1)

    def tune(
        self,
        prior: Tuned,
        victim: WhiteBoxVictim,
        seen: Callable[[Tensor], Tensor],
        selected: Tensor,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Tune ``prior`` in place, from the checkpoint in ``work`` if there is one; returns the last loss,
        the share of images taken for their class in the last epoch, and the ``queries``.

        ``selected``: public images uint8 [num_classes * per_class, 3, h, w], class by class; ``seen``: images
        as the target takes them. Raises DivergedError when the loss stops being finite.
        """
        device, schedule = runtime.device, prior.schedule
        classes = min(self.classes or prior.num_classes, prior.num_classes)
        goals = self._goals(victim, seen, selected[: classes * prior.per_class], classes, runtime)
        prior.generator.requires_grad_(False).eval()
        parts = {name: prior.generator.get_submodule(name) for name in ("class_embedding", "mid_block")}
        moved = nn.ModuleDict(parts).requires_grad_(True)
        adam = torch.optim.AdamW(moved.parameters(), lr=self.lr, weight_decay=0, fused=True)
        per_epoch = math.ceil(classes / self.batch_size)
        checkpoints = Checkpointer(work / CHECKPOINT, runtime.checkpoint_seconds, runtime.clock)
        saved = checkpoints.load()
        start, right, loss = 0, torch.zeros(per_epoch, device=device), torch.zeros((), device=device)
        if saved is not None:
            start, right, loss = saved["step"], saved["right"].to(device), saved["loss"].to(device)
            moved.load_state_dict(saved["moved"])
            adam.load_state_dict(saved["adam"])
        order = torch.empty(0)
        asked_each = self.drawing_steps * self.views

        def taken(done: int) -> float:
            """The share of the last epoch, whole or not, of which the target was convinced."""
            share = float(right[: (done - 1) % per_epoch + 1].mean())
            if not math.isfinite(share + float(loss)):
                raise DivergedError(f"the tuning of the diffusion model diverged before step {done}", _REMEDY)
            return share

        total, done = self.epochs * per_epoch, start
        title = "tuning the diffusion model to the target"
        with checkpoints:
            for number in runtime.bar(range(start, total), title, total, start):
                epoch, place = divmod(number, per_epoch)
                if place == 0 or not len(order):
                    draws = seeding.generator(seed, "prior", "tuning", epoch)
                    order = torch.randperm(classes, generator=draws).to(device)
                labels = order[place * self.batch_size : (place + 1) * self.batch_size]
                draws = seeding.generator(seed, "prior", "tuning step", number)
                noise = seeding.normal(draws, len(labels), prior.latent_dim, device=device)
                estimates = self._estimates(prior, schedule, prior.as_images(noise), labels)
                numbers = seeding.uniform(draws, self.views * len(estimates), NUMBERS, device=device)
                views = self.view(estimates.repeat(self.views, 1, 1, 1), numbers).clamp(0, 1)
                output = victim(seen(views))
                whom = labels.repeat(self.views * self.drawing_steps)
                losses = self.identity_loss(output.logits, whom)
                if self.regulariser:
                    apart = (output.features - goals[whom]).square().mean(1)
                    losses = losses + self.regulariser * apart
                adam.zero_grad()
                torch.autograd.backward(losses.mean(), inputs=list(moved.parameters()))
                adam.step()
                loss = losses.detach().mean()
                # of each view the last estimate alone is what is drawn in the end
                told = hits(output.logits.detach(), whom).view(self.views, self.drawing_steps, -1)
                right[place] = told[:, -1].mean()
                done = number + 1
                if done % per_epoch == 0 and taken(done) >= self.enough:
                    break
                if done < total and checkpoints.due():
                    taken(done)  # what has diverged is not continued from
                    state = {"moved": moved.state_dict(), "adam": adam.state_dict()}
                    checkpoints.save({**state, "step": done, "right": right, "loss": loss})
        whole, rest = divmod(done, per_epoch)
        shown = whole * classes + min(rest * self.batch_size, classes)
        queries = len(goals) * prior.per_class * bool(self.regulariser) + shown * asked_each
        return {"tuning_loss": float(loss), "taken_for_label": taken(done), "queries": queries}

    def _goals(
        self,
        victim: WhiteBoxVictim,
        seen: Callable[[Tensor], Tensor],
        selected: Tensor,
        classes: int,
        runtime: Runtime,
    ) -> Tensor:
        """The target's mean features [classes, d] of the selected images; of no numbers where none count."""
        if not self.regulariser:
            return torch.zeros(classes, 0, device=runtime.device)

        @torch.no_grad()
        def ask(part: slice) -> Tensor:
            return victim(seen(to_float(selected[part].to(runtime.device)))).features

        answers = torch.cat(list(in_batches(ask, len(selected), _ASKED, what="public images", victim=victim)))
        return answers.view(classes, -1, answers.shape[1]).mean(1)

    def _estimates(self, prior: Tuned, schedule: NoiseLevels, x: Tensor, labels: Tensor) -> Tensor:
        """The images in [0, 1], not clamped, that are seen on the way from noise ``x`` [n, 3, h, w]: [steps *
        n, 3, h, w], those of the last step last.
        """
        found = []
        for level in schedule.drawing_levels(self.drawing_steps):
            noise = prior.noise(x, torch.full_like(x[:, 0, 0, 0], level), labels)
            x, image = schedule.drawn(x, noise, level, self.drawing_steps, clip=False)
            found.append((image + 1) / 2)
        return torch.cat(found)
