"""What GAN trainings share: two networks with their optimisers, saved and restored as one, and shuffled
batches.

Everything random is keyed by the seed and the step or epoch, so a continued training equals an unbroken one.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from midre_exp import seeding
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.weights import checkpoint

_CALIBRATION = (40, 64)  # batches x latents that give averaged weights their batch-norm statistics


@dataclass(frozen=True, kw_only=True)
class GanRecipe:
    """What every GAN training is told: ``steps`` on batches of ``batch_size``, by Adam with ``lr`` and
    ``betas``; ``ema`` as in ``Gan``.

    Raises ConfigError for numbers that cannot be.
    """

    steps: int
    batch_size: int
    lr: float
    betas: Sequence[float]
    ema: float

    def __post_init__(self) -> None:
        require_counts("attack.prior", batch_size=self.batch_size)
        require_numbers("attack.prior", lr=self.lr)
        require_numbers("attack.prior", ema=self.ema, high=1)
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(
                f"attack.prior.betas={list(self.betas)} cannot be used; give two numbers in [0, 1)"
            )


class Gan:
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
    ):
        self.generator = generator.to(device).train().requires_grad_(True)
        self.critic = critic.to(device).train().requires_grad_(True)
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
            decay = min(
                self.ema, (1 + self.generator_steps) / (10 + self.generator_steps)
            )  # forget the start
            with torch.no_grad():
                for mean, value in zip(
                    self.averaged(self.average), self.averaged(self.generator), strict=True
                ):
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

    def finish(self, latent_dim: int, seed: int) -> None:
        """Put the averaged weights, if any, into the generator, and both networks into eval mode.

        The running statistics of batch norm belong to the weights of the last steps, so averaged weights get
        their own from standard normal latents [n, latent_dim].
        """
        if self.ema:
            self.generator.load_state_dict(self.average.state_dict())
            draws = seeding.generator(seed, "prior", "calibration", device=self.device)
            latents = torch.randn(*_CALIBRATION, latent_dim, generator=draws, device=self.device)
            update_bn(latents, self.generator)
        self.generator.eval()
        self.critic.eval()

    def _parts(self) -> dict[str, Any]:
        parts = ("generator", "critic", "generator_adam", "critic_adam") + (("average",) if self.ema else ())
        return {name: getattr(self, name) for name in parts}

    def save(self, file: Path, **more: int | Tensor) -> None:
        """Write everything the next step depends on, and ``more``, atomically."""
        state = {name: part.state_dict() for name, part in self._parts().items()}
        checkpoint.save(file, {**state, "generator_steps": self.generator_steps, **more})

    def restore(self, file: Path) -> dict[str, Any]:
        """Take back what ``save`` wrote and return its ``more``; empty when there is no such file."""
        saved = checkpoint.load(file) or {}
        if saved:
            for name, part in self._parts().items():
                part.load_state_dict(saved.pop(name))
            self.generator_steps = saved.pop("generator_steps")
        return saved


class Shuffled:
    """Batches of row numbers of ``count`` images, in a new order each epoch, the incomplete last batch left
    out.

    ``purpose`` separates several passes over one set. Raises ConfigError when ``count`` does not fill a
    batch.
    """

    def __init__(self, count: int, batch_size: int, *, seed: int, purpose: str, device: torch.device):
        if not 0 < batch_size <= count:
            raise ConfigError(
                f"attack.prior.batch_size={batch_size} must lie between 1 and the {count} public images there are"
            )
        self.per_epoch = count // batch_size
        self._count, self._batch_size = count, batch_size
        self._seed, self._purpose = seed, purpose
        self._device = device
        self._epoch, self._order = -1, torch.empty(0)

    def rows(self, step: int) -> Tensor:
        """Row numbers int64 [batch_size] of the batch at ``step``, counted from the start of training."""
        epoch, batch = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            draws = seeding.generator(self._seed, "prior", self._purpose, epoch)
            self._epoch, self._order = epoch, torch.randperm(self._count, generator=draws).to(self._device)
        return self._order[batch * self._batch_size : (batch + 1) * self._batch_size]
