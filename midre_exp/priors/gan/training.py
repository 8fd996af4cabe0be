"""What all GAN trainings share: two networks with their optimisers, saved and restored as one, shuffled
batches, and the loop that reports, samples and survives a kill.

Everything random is keyed by the seed and the step or epoch, so a continued training equals an unbroken one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from midre_exp import seeding
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.numerics import Numerics
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.runtime import Runtime
from midre_exp.weights.checkpointer import Checkpointer, State

LOG_EVERY = 100  #: steps between reports: the only moments the host waits for the device
SAMPLES_EVERY = 2000  #: steps between sample grids
SAMPLES = 64  #: images of a sample grid
CHECKPOINT = "gan.pt"  #: in the work folder of a training
_CALIBRATION = (40, 64)  # batches x latents that give averaged weights their batch-norm statistics


def require_optimiser(*, batch_size: int, lr: float, betas: Sequence[float], ema: float) -> None:
    """Raise ConfigError for options of ``GanTraining`` and its batches that cannot be used."""
    require_counts("attack.prior", batch_size=batch_size)
    require_numbers("attack.prior", lr=lr)
    require_numbers("attack.prior", ema=ema, high=1)
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ConfigError(f"attack.prior.betas={list(betas)} cannot be used; give two numbers in [0, 1)")


class GanTraining:
    """A generator and a critic in training, from the weights they have: in train mode, one Adam each.

    ``ema`` is the decay per generator step of an average over the generator's weights that replaces them at
    the end; 0 for none.
    """

    def __init__(
        self,
        generator: nn.Module,
        critic: nn.Module,
        *,
        lr: float,
        betas: Sequence[float],
        ema: float,
        device: torch.device,
        numerics: Numerics | None = None,
    ):
        numerics = numerics or Numerics()
        self.generator = generator.to(device).train().requires_grad_(True)
        self.critic = critic.to(device).train().requires_grad_(True)
        for network in (self.generator, self.critic):
            numerics.reorder(network)
        #: Both as the steps run them; gradients of gradients are taken of the networks themselves.
        self.generate, self.judge = numerics.call(self.generator), numerics.call(self.critic)
        self.ema = ema
        self.device = device
        self.generator_steps = 0
        self.average = deepcopy(generator).requires_grad_(False)
        # fused: one kernel for all parameters, also on the CPU
        first, second = betas
        self.generator_adam = torch.optim.Adam(
            generator.parameters(), lr=lr, betas=(first, second), fused=True
        )
        self.critic_adam = torch.optim.Adam(critic.parameters(), lr=lr, betas=(first, second), fused=True)

    def critic_step(self, loss: Tensor) -> None:
        """Move the critic down ``loss``, whose graph must not reach the generator."""
        self.critic_adam.zero_grad()
        torch.autograd.backward(loss)
        self.critic_adam.step()

    def generator_step(self, loss: Tensor) -> None:
        """Move the generator down ``loss``; gradients of the critic's weights are not computed."""
        self.move_generator(loss)
        if self.ema:
            start = (1 + self.generator_steps) / (10 + self.generator_steps)  # forget the first weights
            decay = min(self.ema, start)
            averaged, current = self.averaged(self.average), self.averaged(self.generator)
            with torch.no_grad():
                for mean, value in zip(averaged, current, strict=True):
                    mean.lerp_(value, 1 - decay)
        self.generator_steps += 1

    def move_generator(self, loss: Tensor) -> None:
        """The part of a generator step that is the optimiser's: a regulariser in a step of its own is not
        averaged over again.
        """
        self.generator_adam.zero_grad()
        torch.autograd.backward(loss, inputs=list(self.generator.parameters()))
        self.generator_adam.step()

    def averaged(self, generator: nn.Module) -> list[Tensor]:
        """The tensors of a generator that the average is taken over."""
        return list(generator.parameters())

    def finish(self, latent_dim: int, seed: int, num_classes: int | None = None) -> None:
        """Put the averaged weights, if any, into the generator, and both networks into eval mode.

        The running statistics of batch norm belong to the weights of the last steps, so averaged weights get
        their own from standard normal latents [n, latent_dim], with uniform labels below ``num_classes`` for
        a conditional generator.
        """
        if self.ema:
            self.generator.load_state_dict(self.average.state_dict())
            draws = seeding.generator(seed, "prior", "calibration")
            latents = seeding.normal(draws, *_CALIBRATION, latent_dim, device=self.device)
            if num_classes is None:
                update_bn(latents, self.generator)
            else:
                labels = seeding.integers(draws, 0, num_classes, *_CALIBRATION, device=self.device)
                pairs = [{"latents": z, "labels": y} for z, y in zip(latents, labels, strict=True)]
                update_bn(pairs, _OfPair(self.generator))
        self.generator.eval()
        self.critic.eval()

    def _parts(self) -> dict[str, Any]:
        parts = ("generator", "critic", "generator_adam", "critic_adam") + (("average",) if self.ema else ())
        return {name: getattr(self, name) for name in parts}

    def state(self) -> State:
        """Everything the next step depends on."""
        parts = {name: part.state_dict() for name, part in self._parts().items()}
        return {**parts, "generator_steps": self.generator_steps}

    def restore(self, saved: State) -> None:
        """Take back what ``state`` gave."""
        for name, part in self._parts().items():
            part.load_state_dict(saved[name])
        self.generator_steps = saved["generator_steps"]


class _OfPair(nn.Module):
    """A conditional generator as a function of one argument, which is all that ``update_bn`` passes on."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(self, pair: dict[str, Tensor]) -> Tensor:
        images: Tensor = self.generator(**pair)
        return images


def sample_latents(latent_dim: int, seed: int, device: torch.device) -> Tensor:
    """The latents [SAMPLES, latent_dim] of every sample grid of a training."""
    draws = seeding.generator(seed, "prior", "shown")
    return seeding.normal(draws, SAMPLES, latent_dim, device=device)


class Training(Protocol):
    """What ``train`` asks of networks in training."""

    @property
    def generator(self) -> nn.Module: ...

    @property
    def device(self) -> torch.device: ...

    def state(self) -> State:
        """Everything the next step depends on."""

    def restore(self, saved: State) -> None:
        """Take back what ``state`` gave."""


def train(
    gan: Training,
    step: Callable[[int, Tensor], Tensor],
    *,
    steps: int,
    names: Sequence[str],
    samples: Callable[[], Tensor],
    remedy: str,
    title: str,
    work: Path,
    runtime: Runtime,
    what: str = "the GAN",
) -> dict[str, float]:
    """Run ``step`` for the numbers 0 to ``steps`` - 1, or from the checkpoint in ``work`` on, with the result
    of an unbroken run; returns the means of its last 100 results by their ``names``.

    ``step`` moves the networks of ``gan`` and returns [len(names)]; it is given its number and what the step
    before it returned (zeros at first). ``samples`` gives the images [n, 3, h, w] in [0, 1] of a sample grid.
    Raises DivergedError, of ``what`` and with ``remedy``, when a mean stops being finite.
    """
    checkpoints = Checkpointer(work / CHECKPOINT, runtime.checkpoint_seconds, runtime.clock)
    saved = checkpoints.load()
    if saved is None:
        start, recent = 0, torch.zeros(LOG_EVERY, len(names), device=gan.device)
    else:
        gan.restore(saved)
        start, recent = saved["step"], saved["recent"].to(gan.device)

    def means(done: int) -> dict[str, float]:
        values = dict(zip(names, recent[: min(done, LOG_EVERY)].mean(0).tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise DivergedError(f"{what} diverged before step {done}", remedy)
        return values

    newest = recent[0]

    def values() -> dict[str, float]:
        return dict(zip(names, newest.tolist(), strict=True))

    with checkpoints:
        for number in runtime.bar(range(start, steps), title, steps, start, values):
            newest = recent[number % LOG_EVERY]
            recent[number % LOG_EVERY] = step(number, recent[(number - 1) % LOG_EVERY])
            done = number + 1
            if done % LOG_EVERY == 0:
                runtime.tracker.log(means(done), done)
            if done % SAMPLES_EVERY == 0:
                gan.generator.eval()
                with torch.no_grad():
                    runtime.tracker.images("samples", samples(), done)
                gan.generator.train()
            if done < steps and checkpoints.due():
                means(done)  # what has diverged is not continued from
                checkpoints.save({**gan.state(), "step": done, "recent": recent})
    return means(steps)
