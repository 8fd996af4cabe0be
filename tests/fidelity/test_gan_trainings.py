"""Trainings of the GANs of GMI, KedMI and PLG-MI, step for step on the official programs' draws."""

from __future__ import annotations

import pytest

from tests.fidelity.gans import compare, trained
from tests.fidelity.recorded import Recording

pytestmark = pytest.mark.fidelity


NAMES = ["gan_gmi", "gan_kedmi", "gan_plgmi"]


@pytest.mark.parametrize("name", NAMES + [f"{name}_long" for name in NAMES])
def test_a_gan_is_trained_as_officially(name: str):
    """Losses before every update, weights and pictures after the last, in float64."""
    run = Recording.of(name)
    compare(run, *trained(run))
