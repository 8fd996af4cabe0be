"""The training of such a network: shuffled batches, changes that reconstructions show too, one cycle of the
rate, and a state that survives a kill.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import to_float
from midre_exp.errors import DivergedError
from midre_exp.leakage.network import Pictures
from midre_exp.runtime import Runtime
from midre_exp.weights.checkpointer import Checkpointer

LOG_EVERY = 50  #: steps between reports: the only moments the host waits for the device
_CHECKPOINT = "training.pt"
_BRIGHTNESS, _SOFTENED, _WARM_UP = 0.15, 0.3, 0.3


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long and how fast (AdamW; the rate rises to ``lr`` over 30 % of the steps and falls to zero)."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    seed: int


def fit(
    network: nn.Module,
    images: Tensor | Pictures,
    loss: Callable[[Tensor, Tensor], Tensor],
    course: Course,
    *,
    key: str,
    mirrors: bool,
    title: str,
    work: Path,
    runtime: Runtime,
) -> float:
    """Train ``network`` on ``images``, uint8 [n, 3, h, w], and return the mean of its last losses.

    ``loss``: of changed float images of a batch on the device and their rows int64, with gradients to all
    parameters of ``network``. ``key``: of the config, whose rate a remedy names; ``mirrors``: whether half of
    the images are mirrored. A continued training equals an unbroken one. Raises DivergedError when the loss
    stops being finite.
    """
    device, count = runtime.device, len(images)
    network.to(device).train()
    batch = min(course.batch_size, count)
    per_epoch = count // batch
    steps = course.epochs * per_epoch
    adam = torch.optim.AdamW(network.parameters(), lr=course.lr, weight_decay=course.weight_decay)
    rate = torch.optim.lr_scheduler.OneCycleLR(
        adam, max_lr=course.lr, total_steps=max(2, steps), pct_start=_WARM_UP, cycle_momentum=False
    )
    parts: dict[str, nn.Module | torch.optim.Optimizer | torch.optim.lr_scheduler.LRScheduler] = {
        "network": network,
        "adam": adam,
        "rate": rate,
    }
    checkpoints = Checkpointer(work / _CHECKPOINT, runtime.checkpoint_seconds, runtime.clock)
    start, recent = 0, torch.zeros(LOG_EVERY, device=device)
    if (saved := checkpoints.load()) is not None:
        start, recent = saved["step"], saved["recent"].to(device)
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    def mean(done: int) -> float:
        value = float(recent[: min(done, LOG_EVERY)].mean())
        if not math.isfinite(value):
            raise DivergedError(f"{title} diverged before step {done}", f"lower {key}.lr")
        return value

    order = torch.empty(0, dtype=torch.int64)
    with checkpoints:
        newest = recent[0]

        def values() -> dict[str, float]:
            return {"loss": float(newest)}

        for step in runtime.bar(range(start, steps), title, steps, start, values):
            epoch, place = divmod(step, per_epoch)
            if not place or not len(order):
                draws = seeding.generator(course.seed, key, "epoch", epoch)
                order = torch.randperm(count, generator=draws)
            rows = order[place * batch : (place + 1) * batch]
            shown = to_float(images[rows].to(device))
            shown = changed(shown, seeding.generator(course.seed, key, "step", step), mirrors)
            value = loss(shown, rows.to(device))
            adam.zero_grad()
            torch.autograd.backward(value)
            adam.step()
            rate.step()
            newest = recent[step % LOG_EVERY] = value.detach()
            done = step + 1
            if done % LOG_EVERY == 0:
                runtime.tracker.log({"loss": mean(done)}, done)
            if done < steps and checkpoints.due():
                mean(done)  # what has diverged is not continued from
                checkpoints.save(
                    {
                        **{name: part.state_dict() for name, part in parts.items()},
                        "step": done,
                        "recent": recent,
                    }
                )
    network.eval()
    return mean(steps)


def changed(images: Tensor, draws: torch.Generator, mirrors: bool) -> Tensor:
    """Float images [n, 3, h, w], half of them mirrored if ``mirrors``, each brighter or darker by up to 15 %,
    three tenths as soft as if shown at half their size: reconstructions are softer than photographs.
    """
    mirror, light, soft = seeding.uniform(draws, 3, len(images), 1, 1, 1, device=images.device).unbind(0)
    if mirrors:
        images = torch.where(mirror < 0.5, images.flip(-1), images)
    half = F.avg_pool2d(images, 2, ceil_mode=True)
    blurred = F.interpolate(half, images.shape[-2:], mode="bilinear", align_corners=False)
    images = torch.where(soft < _SOFTENED, blurred, images)
    return (images * (1 + _BRIGHTNESS * (2 * light - 1))).clamp(0, 1)
