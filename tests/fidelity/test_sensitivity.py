"""The comparisons fail where they should: one wrong detail is put into our code at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import attacks.losses
from attacks.brepmi import BREPMI
from attacks.parts import optimisers
from attacks.parts.optimisers import ramp
from attacks.plgmi import PLGMI
from attacks.ppa import PPA
from midre_exp.attack import Attack
from midre_exp.metrics import accuracy, distance
from midre_exp.priors.gan import wgan
from midre_exp.targets.training.schedule import learning_rates
from tests.fidelity import (
    test_gan_trainings,
    test_low_resolution,
    test_style_attacks,
    test_training,
)

pytestmark = pytest.mark.fidelity

Patch = pytest.MonkeyPatch


def fails(comparison: Callable[..., Any], *arguments: Any) -> None:
    """Fail unless the comparison does."""
    with pytest.raises(AssertionError):
        comparison(*arguments)


def test_a_crop_of_another_place(monkeypatch: Patch):
    """Of 24 px, one pixel further right."""

    def shifted(self: Any, images: Tensor) -> Tensor:
        return images[..., 4 : 4 + self.size, 5 : 5 + self.size]

    monkeypatch.setattr("midre_exp.data.transforms.crop.CenterCrop.__call__", shifted)
    fails(test_style_attacks.test_ppa, monkeypatch)


def test_a_random_crop_without_antialiasing(monkeypatch: Patch):
    """The box of the view, sampled at points."""

    def sharp(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
        centre = (length / size)[:, None, None] * (torch.arange(size) + 0.5)[:, None]
        pixel = torch.arange(pixels) - start[:, None, None]
        weight = (1 - (pixel + 0.5 - centre).abs()).clamp(min=0)
        return weight / weight.sum(-1, keepdim=True).clamp(min=1e-6)

    monkeypatch.setattr("attacks.parts.random_crops.interpolation", sharp)
    fails(test_style_attacks.test_ppa, monkeypatch)


def test_eight_bits_in_place_of_floats(monkeypatch: Patch):
    """A judge that is shown what 8 bits keep, where the official program shows floats."""
    exact = Attack.render

    def truncated(self: Any, prior: Any, latents: Tensor, labels: Tensor) -> Tensor:
        return (255 * exact(self, prior, latents, labels).clamp(0, 1)).to(torch.uint8).float() / 255

    monkeypatch.setattr(Attack, "render", truncated)
    fails(test_style_attacks.test_ppa_judged_by_floats)


def test_rounding_in_place_of_truncation(monkeypatch: Patch):
    """On the way of IF-GMI's pictures to the judge."""

    def other(images: Tensor, eight_bits: str) -> Tensor:
        return (255 * images.clamp(0, 1) + 0.5).to(torch.uint8)

    monkeypatch.setattr("midre_exp.attack.to_uint8", other)
    fails(test_style_attacks.test_ifgmi, monkeypatch)


def test_a_rate_that_falls_a_step_later(monkeypatch: Patch):
    def later(self: PPA, step: int) -> float:
        return self.lr * self.gamma ** sum(milestone < step for milestone in self.milestones)

    monkeypatch.setattr(PPA, "lr_at", later)
    fails(test_style_attacks.test_ppa, monkeypatch)


def test_a_ramp_that_is_a_step_late(monkeypatch: Patch):
    monkeypatch.setattr(
        "attacks.mirror.ramp", lambda done, **options: ramp(max(done - 1 / 40, 1e-9), **options)
    )
    fails(test_style_attacks.test_mirror)


def test_a_schedule_of_training_that_is_an_epoch_late(monkeypatch: Patch):
    def late(recipe: Any, **options: Any) -> list[float]:
        rates = learning_rates(recipe, **options)
        return [rates[0], *rates[:-1]]

    monkeypatch.setattr("midre_exp.targets.training.module.learning_rates", late)
    fails(test_training.test_adam_with_steps_of_the_rate)


def test_a_prior_term_of_the_other_sign(monkeypatch: Patch):
    """KedMI's realism."""
    right = attacks.losses.real_class_prior
    monkeypatch.setattr("attacks.kedmi.real_class_prior", lambda scores: -right(scores))
    fails(test_low_resolution.test_kedmi)


def test_a_generator_that_pleases_nobody(monkeypatch: Patch):
    """The sign of the WGAN's generator loss."""
    monkeypatch.setattr("midre_exp.priors.gmi.generator_loss", lambda scores: scores.mean())
    fails(test_gan_trainings.test_a_gan_is_trained_as_officially, "gan_gmi")


def test_a_penalty_that_is_not_squared(monkeypatch: Patch):
    def absolute(critic: Any, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
        return (wgan.gradient_norms(critic, real + alpha * (fake - real)) - 1).abs().mean()

    monkeypatch.setattr(wgan, "gradient_penalty", absolute)
    fails(test_gan_trainings.test_a_gan_is_trained_as_officially, "gan_gmi")


def test_a_threshold_that_is_met_by_equality(monkeypatch: Patch):
    """BREP-MI's sphere grows where the mean equals 0.75, too: 28 of 32 points inside."""
    original = BREPMI.__post_init__

    def lower(self: BREPMI) -> None:
        original(self)
        self.threshold = self.threshold - 1e-6

    monkeypatch.setattr(BREPMI, "__post_init__", lower)
    fails(test_low_resolution.test_brepmi)


def test_momentum_without_looking_ahead(monkeypatch: Patch):
    def plain(
        latents: Tensor, velocity: Tensor, gradient: Tensor, *, lr: float, momentum: float
    ) -> tuple[Tensor, Tensor]:
        faster = momentum * velocity - lr * gradient
        return latents + faster, faster

    assert optimisers.nesterov_step is not plain
    monkeypatch.setattr("attacks.gmi.nesterov_step", plain)
    fails(test_low_resolution.test_lomma_gmi)


def test_a_deviation_of_the_population(monkeypatch: Patch):
    """The mean over batches of the deviation over restarts, by n in place of n - 1."""
    monkeypatch.setattr(accuracy, "restart_deviation", lambda table: float(table.std(1, correction=0).mean()))
    fails(test_low_resolution.test_the_protocol_of_evaluation)


def test_distances_that_are_not_squared(monkeypatch: Patch):
    squared = distance.nearest_private
    monkeypatch.setattr(distance, "nearest_private", lambda *given: squared(*given).sqrt())
    fails(test_style_attacks.test_ppa_judged_by_floats)
    fails(test_low_resolution.test_the_protocol_of_evaluation)


def test_one_view_in_place_of_two(monkeypatch: Patch):
    whole = PLGMI.losses

    def one(self: PLGMI, *given: Any) -> Tensor:
        self.views = 1
        return whole(self, *given)

    monkeypatch.setattr(PLGMI, "losses", one)
    fails(test_low_resolution.test_plgmi, "inside")
