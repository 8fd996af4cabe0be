"""DP-SGD: the gradient of each image is clipped and noise is added to their sum (Abadi et al., CCS 2016).
What it bounds is what can be learned of one image, not of a person who has many.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from defenses.base import Defense, Informed, Sampler, Trained
from midre_exp.errors import ConfigError
from midre_exp.numerics import Numerics
from midre_exp.plan.ranges import Count, NonNegative, Positive
from midre_exp.seeding import generator
from midre_exp.targets.base import Classifier, Output

if TYPE_CHECKING:
    from defenses.parts.private_steps import PerImageCall, PrivateSteps

#: Loaded where it trains: opacus is an extra, and takes seconds.
_STEPS = "defenses.parts.private_steps"


class PoissonBatches:
    """Batches that hold each of ``count`` images with a chance of 1 / steps, some perhaps empty; a pure
    function of (seed, epoch).

    An epoch has as many steps as shuffled batches of ``batch_size`` would be, as opacus counts them.
    """

    def __init__(self, count: int, *, batch_size: int, drop_last: bool, seed: int):
        size = min(batch_size, count)
        self.count, self.seed = count, seed
        self.steps = count // size if drop_last else math.ceil(count / size)

    @property
    def sample_rate(self) -> float:
        """The chance of an image to be in a batch."""
        return 1 / self.steps

    @property
    def expected_batch_size(self) -> int:
        """Images of a batch on average, by which sums of gradients are divided."""
        return int(self.count * self.sample_rate)

    def batches(self, epoch: int) -> Sequence[Tensor]:
        """The batches of one epoch, in random order within each."""
        draws = generator(self.seed, "poisson batches", epoch)
        chosen = torch.rand(self.steps, self.count, generator=draws, dtype=torch.float64) < self.sample_rate
        return [row.nonzero().flatten() for row in chosen]


def groups_of(channels: int, *, most: int, least_channels: int) -> int:
    """Into how many groups channels are normalised: as many as divide them, at most ``most``, each of at
    least ``least_channels``; one where there are too few.
    """
    fitting = (n for n in range(1, most + 1) if channels % n == 0 and channels // n >= least_channels)
    return max(fitting, default=1)


def without_batch_norm(model: nn.Module, *, most: int, least_channels: int) -> None:
    """Replace every batch norm of ``model`` by a group norm that starts from its scale and shift, in place;
    norms of feature vectors (``BatchNorm1d``) by one group over all. Raises ConfigError for one channel,
    whose group norm over a single pixel would be a constant.
    """
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            if isinstance(norm, _BatchNorm):
                setattr(parent, name, _group_norm(norm, most, least_channels))


def _group_norm(norm: _BatchNorm, most: int, least_channels: int) -> nn.Module:
    channels = norm.num_features
    if channels < 2:
        raise ConfigError(
            "defense.dpsgd normalises groups of channels, and a layer has one channel; choose a wider target"
        )
    of_features = isinstance(norm, nn.BatchNorm1d)
    groups = 1 if of_features else groups_of(channels, most=most, least_channels=least_channels)
    made = nn.GroupNorm(groups, channels, eps=norm.eps, affine=norm.affine)
    for ours, theirs in zip(made.parameters(), norm.parameters(), strict=True):
        ours.data.copy_(theirs.data)
        ours.requires_grad_(theirs.requires_grad)
    after = [part for key in ("drop", "act") if (part := getattr(norm, key, None)) is not None]
    return nn.Sequential(made, *after) if after else made  # timm's norms end in an activation


@dataclass(kw_only=True, eq=False)
class DPSGD(Defense):
    """DP-SGD: step by [sum_i g_i min(1, C / ||g_i||) + N(0, (sigma C)^2)] / B on Poisson batches of B images
    on average, in a network without batch norm.

    Abadi et al. 2016, "Deep Learning with Differential Privacy"; steps and accounting by opacus.
    """

    exclusive = frozenset({"optimizer", "sampler"})
    separates_images = True

    noise_multiplier: NonNegative  # sigma: standard deviation of the noise in units of max_grad_norm
    max_grad_norm: Positive  # C: largest norm of an image's gradient over all parameters
    delta: Positive  # of the (epsilon, delta) in the record, below 1 / images
    groups: Count  # of the group norms that replace batch norms, at most
    channels_per_group: Count  # at least, >= 2

    def __post_init__(self) -> None:
        if self.channels_per_group < 2:
            raise ConfigError(
                f"defense.dpsgd.channels_per_group={self.channels_per_group} lets a group hold one number, "
                "which its norm turns into a constant; use 2 or more"
            )
        self._batches: PoissonBatches | None = None
        self._call: PerImageCall | None = None

    @property
    def label(self) -> str:
        if not self.noise_multiplier and self.max_grad_norm >= 1e6:
            return "GroupNorm"
        return f"DP-SGD [{self.noise_multiplier:g}, {self.max_grad_norm:g}]"

    def check_execution(self, *, numerics: Numerics, devices: int) -> None:
        if importlib.util.find_spec("opacus") is None:
            raise ConfigError("defense.dpsgd needs opacus; pip install 'midre-exp[dp]'")
        if numerics.precision == "bf16" or numerics.compile:
            what = "precision=bf16" if numerics.precision == "bf16" else "compile=true"
            raise ConfigError(
                f"defense.dpsgd takes gradients of single images in single precision, and numerics.{what} "
                "does not give them; use numerics=strict"
            )
        if devices > 1:
            raise ConfigError(
                f"defense.dpsgd trains on one device and runtime.devices={devices}; use runtime.devices=1"
            )

    def replace_head(self, model: Classifier) -> None:
        """Replace the batch norms, after weights are loaded, so that their scales and shifts stay."""
        without_batch_norm(model, most=self.groups, least_channels=self.channels_per_group)

    def sampler(self, labels: Tensor, *, batch_size: int, seed: int, drop_last: bool) -> Sampler | None:
        if self.noise_multiplier and self.delta * len(labels) >= 1:
            raise ConfigError(
                f"defense.dpsgd.delta={self.delta:g} is no less than one over the {len(labels)} training "
                "images, and says nothing; lower it"
            )
        self._batches = PoissonBatches(len(labels), batch_size=batch_size, drop_last=drop_last, seed=seed)
        return self._batches

    def training_call(self, model: Classifier) -> Callable[[Tensor, Sequence[str]], Output]:
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm):
                raise ConfigError(
                    f"defense.dpsgd finds a batch norm ({name}) that another defense has put into the "
                    "network; name dpsgd last"
                )
        call: PerImageCall = import_module(_STEPS).PerImageCall(model)
        self._call = call
        return call

    def optimizer(
        self, optimizer: torch.optim.Optimizer, draws: Callable[[], torch.Generator]
    ) -> torch.optim.Optimizer:
        assert self._batches is not None and self._call is not None  # which come first
        made: PrivateSteps = import_module(_STEPS).PrivateSteps(
            optimizer,
            noise_multiplier=self.noise_multiplier,
            max_grad_norm=self.max_grad_norm,
            expected_batch_size=self._batches.expected_batch_size,
            draws=draws,
            call=self._call,
        )
        return made

    def summary(self, trained: Trained) -> Mapping[str, Any]:
        """The privacy of one image as it was spent; an epsilon of null: there is none."""
        assert self._batches is not None
        batches, steps = self._batches, trained.epochs * self._batches.steps
        spent = None
        if self.noise_multiplier:
            spent = import_module(_STEPS).epsilon(
                noise_multiplier=self.noise_multiplier,
                sample_rate=batches.sample_rate,
                steps=steps,
                delta=self.delta,
            )
        counts = trained.train.labels.bincount()
        return {
            "unit": "image",
            "epsilon": spent if spent is None or math.isfinite(spent) else None,
            "delta": self.delta,
            "accountant": "rdp",
            "noise_multiplier": self.noise_multiplier,
            "max_grad_norm": self.max_grad_norm,
            "sample_rate": batches.sample_rate,
            "steps": steps,
            "expected_batch_size": batches.expected_batch_size,
            "images": batches.count,
            "images_per_person": [int(counts.min()), int(counts.max())],
        }

    def informed(self, model: Classifier) -> Informed:
        return Informed(
            reason="noise was added to gradients in training alone and the trained network is asked as any "
            "other, so the attack is the plain one"
        )
