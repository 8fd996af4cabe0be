"""Every prior of the project small enough to train in a second, and what it is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.plan.config import CONF_DIR
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.runtime import Runtime
from midre_exp.targets.base import Output
from midre_exp.threat import AnyVictim, Threat, Victim

CLASSES = 3
#: What is laid over the yaml of each prior.
SMALL: dict[str, dict[str, Any]] = {
    "gmi": {"image_size": 16, "latent_dim": 6, "width": 4, "batch_size": 8, "steps": 30},
    "kedmi": {
        "image_size": 32,
        "latent_dim": 6,
        "width": 2,
        "kernels": 3,
        "kernel_dims": 2,
        "batch_size": 8,
        "steps": 12,
        "critic_steps": 2,
    },
    "plgmi": {
        "image_size": 16,
        "image_to_target": [],
        "latent_dim": 6,
        "width": 2,
        "per_class": 5,
        "batch_size": 6,
        "steps": 20,
        "discriminator_steps": 2,
    },
    "tacgan": {
        "image_size": 16,
        "image_to_target": [],
        "latent_dim": 6,
        "width": 2,
        "batch_size": 6,
        "steps": 20,
        "warmup_steps": 1,
        "discriminator_steps": 2,
    },
    "ddpm": {
        "image_size": 8,
        "width": 4,
        "multipliers": [1, 2],
        "blocks": 1,
        "attention": [4],
        "per_class": 5,
        "batch_size": 6,
        "steps": 12,
        "drawing_steps": 2,
        "beta": [1e-4, 5e-3],  # with less to bring back rounding is not made much of
        "image_to_target": [],
        "tuning": None,
    },
    "stylegan2": {
        "image_size": 8,
        "z_dim": 6,
        "w_dim": 8,
        "mapping_layers": 2,
        "channel_base": 64,
        "channel_max": 8,
        "batch_size": 8,
        "steps": 9,
        "path_every": 2,
        "r1_every": 3,
        "ada": {"target": 0.6, "images": 200},
    },
}


def small(name: str, **changes: Any) -> Any:
    """The prior of conf/attack/prior/NAME.yaml, made tiny."""
    return official(name, **{**SMALL[name], **changes})


def official(name: str, **changes: Any) -> Prior:
    """The prior of conf/attack/prior/NAME.yaml with changes."""
    node = OmegaConf.to_container(
        OmegaConf.load(CONF_DIR / "attack" / "prior" / f"{name}.yaml"), resolve=False
    )
    return initial_prior({**node, "seed": 0, **changes}, num_classes=CLASSES)


def public(n: int = 40, size: int = 16) -> ImageSet:
    images = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    return ImageSet(images.to(torch.uint8), torch.zeros(n, dtype=torch.int64), ("somebody",))


class Colours(nn.Module):
    """A target that tells red from green from blue, the more surely the larger ``scale``."""

    def __init__(self, scale: float = 12.0):
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor, taps: tuple[str, ...] = ()) -> Output:
        features = images.mean((2, 3))
        return Output(self.scale * features, features)


def victim(threat: Threat = Threat.WHITE_BOX, scale: float = 12.0) -> AnyVictim:
    return Victim.of(Colours(scale), CLASSES, threat)


@dataclass(frozen=True)
class Killed(Runtime):
    """Is interrupted before the given step of a training, as by Ctrl-C."""

    at: int = 0
    title: str = "training"

    def bar(
        self, steps: Any, title: str, total: int | None = None, done: int = 0, values: Any = None
    ) -> Iterator[Any]:
        for step in steps:
            if title.startswith(self.title) and step == self.at:
                raise KeyboardInterrupt
            yield step


@dataclass
class Recorder:
    """A tracker that remembers when it was told what."""

    steps: list[int] = field(default_factory=list)
    grids: list[tuple[str, int, torch.Size]] = field(default_factory=list)

    def log(self, values: dict[str, float], step: int) -> None:
        self.steps.append(step)

    def images(self, name: str, images: Tensor, step: int) -> None:
        assert images.min() >= 0 and images.max() <= (255 if images.dtype == torch.uint8 else 1)
        self.grids.append((name, step, images.shape))


def same(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(a == b and torch.equal(x, y) for (a, x), (b, y) in pairs)
