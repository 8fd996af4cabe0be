"""Distances to the nearest private image: against PPA's number and a plain table of all distances."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from midre_exp.metrics import grouping
from midre_exp.metrics.base import Evaluation
from midre_exp.metrics.distance import EvaluatorDistance, KnnDistance, nearest_private
from tests.golden.fill import golden


def seen(features, labels, private, private_labels) -> Evaluation:
    n, m = len(labels), len(private_labels)
    return Evaluation(
        images=torch.zeros(n, 3, 4, 4, dtype=torch.uint8),
        labels=labels,
        restarts=torch.arange(n),
        logits=torch.zeros(n, 3),
        features=features,
        private_features=private,
        private_labels=private_labels,
        private_images=torch.zeros(m, 3, 4, 4, dtype=torch.uint8),
        private_rows=torch.arange(m),
        device=torch.device("cpu"),
    )


def test_delta_eval_matches_ppas_number():
    wanted = golden("metrics_highres")["feature_distance"]
    private = torch.from_numpy(np.random.RandomState(63).standard_normal((6, 4))).float()
    fake = torch.from_numpy(np.random.RandomState(64).standard_normal((3, 4))).float()
    labels, private_labels = torch.zeros(3, dtype=torch.int64), torch.zeros(6, dtype=torch.int64)
    nearest = nearest_private(fake, labels, private, private_labels)
    assert nearest.tolist() == pytest.approx(wanted["min_squared_l2"], rel=1e-6)
    shown = seen(fake, labels, private, private_labels)
    assert EvaluatorDistance()(shown) == pytest.approx({"delta_eval": wanted["mean"]}, rel=1e-6)
    assert KnnDistance()(shown) == pytest.approx({"knn_dist": wanted["mean"]}, rel=1e-6)


@pytest.mark.parametrize("numbers", [2**25, 1])
def test_classes_side_by_side_equal_a_table_of_all_distances_bit_for_bit(numbers, monkeypatch):
    monkeypatch.setattr(grouping, "_NUMBERS", numbers)
    draws = torch.Generator().manual_seed(0)
    features, private = torch.randn(23, 37, generator=draws), torch.randn(50, 37, generator=draws)
    labels = (
        torch.randint(0, 5, (23,), generator=draws) * 3
    )  # classes 0, 3, .., 12; private images of others too
    private_labels = torch.cat([torch.arange(13), torch.randint(0, 13, (37,), generator=draws)])
    table = torch.cdist(features.double(), private.double(), compute_mode="donot_use_mm_for_euclid_dist")
    table = table.square().masked_fill(labels[:, None] != private_labels, float("inf"))
    assert torch.equal(nearest_private(features, labels, private, private_labels), table.amin(1))


def test_a_copy_of_a_private_image_of_the_own_identity_is_at_distance_0():
    private = 1000 + torch.rand(4, 8)
    labels = torch.arange(4)
    assert nearest_private(private, labels, private, labels).tolist() == [0] * 4
    assert bool((nearest_private(private, labels.flip(0), private, labels) > 0).all())
