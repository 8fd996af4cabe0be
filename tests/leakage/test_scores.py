"""Verification by the reference's golden numbers: ties, thresholds, equal errors, ranks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from midre_exp.leakage.scores import at_far, equal_error, ranks, threshold_at

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "open_set.json").read_text())


def draw(key: str, shape: tuple[int, ...]) -> torch.Tensor:
    generator = np.random.RandomState(crc32(key.encode()) & 0x7FFFFFFF)
    return torch.from_numpy(generator.standard_normal(shape))


@pytest.fixture(scope="module")
def scores():
    numbers = np.random.RandomState(11)
    genuine = np.round(numbers.normal(0.62, 0.15, 60), 3)
    impostor = np.round(numbers.normal(0.08, 0.13, 800), 3)
    assert genuine.tolist() == GOLDEN["genuine"] and impostor[:8].tolist() == GOLDEN["impostor_first8"]
    return torch.from_numpy(genuine), torch.from_numpy(impostor)


@pytest.mark.parametrize("far", GOLDEN["at_far"])
def test_thresholds_at_false_accept_rates(scores, far):
    found, golden = at_far(float(far), *scores), GOLDEN["at_far"][far]
    assert found._asdict() == pytest.approx(golden | {"threshold": golden["threshold"]}, abs=1e-9)


def test_the_equal_error_rate(scores):
    assert equal_error(*scores)._asdict() == pytest.approx(GOLDEN["eer"], abs=1e-9)


def test_ranks_in_a_gallery():
    golden = GOLDEN["identification"]
    gallery = F.normalize(draw("open.gallery", (30, 6)))
    probes = F.normalize(gallery[:5] + 0.35 * draw("open.noise", (5, 6)))
    found = probes @ gallery.T
    own = found.diagonal()
    assert own.tolist() == pytest.approx(golden["scores_of_own"], abs=1e-9)
    assert ranks(own, found).tolist() == golden["rank_of_own_from_0"]


def test_a_rate_that_no_observed_score_keeps_accepts_nobody():
    assert threshold_at(0.0, torch.tensor([0.1, 0.2]), torch.tensor([0.3, 0.3])) == math.inf
    assert threshold_at(1.0, torch.tensor([0.4]), torch.tensor([0.3, 0.5])) == pytest.approx(0.3)


def test_ties_with_an_impostor_are_not_accepted_beyond_the_rate():
    impostor = torch.tensor([0.5, 0.5, 0.1, 0.1])
    found = at_far(0.25, torch.tensor([0.5, 0.9]), impostor)  # one of four may be accepted, two tie
    assert (found.threshold, found.tar, found.far_reached) == pytest.approx((0.9, 0.5, 0.0))
