from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.metrics.accuracy import (
    AttackAccuracy,
    Confidence,
    accuracy_by_restart,
    identity_interval,
    topk_hits,
)
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.distance import KnnDistance, nearest_private

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "evaluation_lowres.json").read_text())


def evaluation(logits, labels, restarts, **more) -> Evaluation:
    n = len(labels)
    empty = {
        "images": torch.zeros(n, 3, 4, 4, dtype=torch.uint8),
        "features": torch.zeros(n, 2),
        "private_features": torch.zeros(1, 2),
        "private_labels": torch.zeros(1, dtype=torch.int64),
        "private_images": torch.zeros(1, 3, 4, 4, dtype=torch.uint8),
        "private_rows": torch.zeros(1, dtype=torch.int64),
        "device": torch.device("cpu"),
    }
    return Evaluation(logits=logits, labels=labels, restarts=restarts, **{**empty, **more})


def test_topk_matches_the_official_arithmetic():
    logits = torch.tensor(GOLDEN["accuracy"]["eval_logits"])
    labels = torch.tensor(GOLDEN["accuracy"]["labels"])
    assert float(topk_hits(logits, labels, 1).mean()) == pytest.approx(GOLDEN["accuracy"]["top1"])
    assert float(topk_hits(logits, labels, 5).mean()) == pytest.approx(GOLDEN["accuracy"]["top5"])


def test_aggregation_over_batches_and_restarts_matches_the_official_one():
    golden = GOLDEN["aggregation"]
    wanted = torch.tensor(golden["acc1"], dtype=torch.float64)  # [5 batches, 5 restarts], multiples of 1/60
    labels, restarts, hits = [], [], []
    for batch in range(5):
        for restart in range(5):
            right = round(float(wanted[batch, restart]) * 60)
            labels += range(batch * 60, batch * 60 + 60)
            restarts += [restart] * 60
            hits += [1.0] * right + [0.0] * (60 - right)
    labels, restarts = torch.tensor(labels), torch.tensor(restarts)
    hits = torch.tensor(hits, dtype=torch.float64)
    table = accuracy_by_restart(hits, labels, restarts, 60)
    assert torch.allclose(table, wanted)
    logits = torch.zeros(len(labels), 300)
    logits[torch.arange(len(labels)), torch.where(hits > 0, labels, (labels + 1) % 300)] = 1.0
    numbers = AttackAccuracy(k=1, group=60)(evaluation(logits, labels, restarts))
    assert numbers["att_acc1"] == pytest.approx(100 * golden["mean_acc1"])
    assert numbers["att_acc1_batch_std"] == pytest.approx(100 * golden["mean_of_batch_std"])
    assert numbers["att_acc1_std"] == pytest.approx(100 * golden["global_std_over_seed_means_for_comparison"])


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    generator = torch.Generator().manual_seed(1)
    covered = 0
    for trial in range(100):
        rate = torch.rand(
            60, 1, generator=generator
        )  # identities differ in how easy they are; the mean rate is 0.5
        hits = (torch.rand(60, 5, generator=generator) < rate).double().flatten()
        low, high = identity_interval(hits, torch.arange(60).repeat_interleave(5), draws=400, seed=trial)
        covered += low <= 0.5 <= high
    assert 86 <= covered <= 100


def test_the_interval_resamples_identities_not_images():
    labels = torch.arange(10).repeat_interleave(50)
    hits = (labels < 5).double()  # each identity succeeds always or never
    low, high = identity_interval(hits, labels)
    assert high - low > 0.4  # 500 independent images would give about 0.09


def test_single_restart_has_no_deviation_and_few_classes_no_top5():
    labels, restarts = torch.arange(6), torch.zeros(6, dtype=torch.int64)
    numbers = AttackAccuracy(k=1, group=60)(evaluation(torch.eye(6), labels, restarts))
    assert numbers["att_acc1"] == 100 and "att_acc1_std" not in numbers
    with pytest.raises(Unavailable, match="top-5"):
        AttackAccuracy(k=5, group=60)(
            evaluation(torch.eye(4), torch.arange(4), torch.zeros(4, dtype=torch.int64))
        )


def test_of_a_selection_everything_made_is_the_unfiltered_number():
    labels, restarts = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    everything = torch.eye(6)[torch.tensor([0, 1, 1, 0, 0, 0, 0, 1])], torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    kept = torch.eye(6)[torch.tensor([0, 0, 0, 1])]
    numbers = AttackAccuracy(k=1, group=60)(evaluation(kept, labels, restarts, unfiltered=everything))
    assert numbers["att_acc1"] == 75
    assert numbers["att_acc1_unfiltered"] == pytest.approx(100 * 5 / 8)
    assert "att_acc1_unfiltered" not in AttackAccuracy(k=1, group=60)(evaluation(kept, labels, restarts))


@pytest.mark.parametrize("selects", [True, False])
def test_unequal_numbers_of_restarts_and_identities_left_out_give_no_nan(selects):
    # identities 0 and 5 of batches 0 and 2 (of 2 identities each); none of batch 1; three restarts, but two
    # of identity 5
    labels, restarts = torch.tensor([0, 0, 0, 5, 5]), torch.tensor([0, 1, 2, 0, 1])
    logits = torch.eye(6)[torch.tensor([0, 1, 1, 5, 5])]
    more = {"unfiltered": (logits, labels)} if selects else {}
    numbers = AttackAccuracy(k=1, group=2)(evaluation(logits, labels, restarts, **more))
    assert all(value == value for value in numbers.values())
    assert numbers["att_acc1"] == pytest.approx(60)
    # hits of the two restarts that both have: identity 0 one of two, identity 5 both
    assert numbers["att_acc1_batch_std"] == pytest.approx(100 * (0.5**0.5 + 0) / 2)
    if selects:  # 100 % and 50 %; without a selection the third restart, of one identity, counts as ever
        assert numbers["att_acc1_std"] == pytest.approx(50 * 0.5**0.5)


def test_a_selection_with_one_picture_of_some_identity_has_no_deviation():
    labels, restarts = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0])
    logits = torch.eye(6)[labels]
    numbers = AttackAccuracy(k=1, group=60)(evaluation(logits, labels, restarts, unfiltered=(logits, labels)))
    assert numbers["att_acc1"] == 100 and not any(name.endswith("std") for name in numbers)


def test_confidence_is_that_of_the_label_over_all_and_over_hits():
    logits = torch.tensor([[0.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    shown = evaluation(
        logits, torch.tensor([1, 0, 0]), torch.zeros(3), confidence=torch.tensor([0.9, 0.2, 0.7])
    )
    numbers = Confidence()(shown)
    sure = [1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1)), 1 / (1 + math.exp(-3))]
    assert numbers == pytest.approx(
        {
            "confidence_target": 0.6,
            "confidence_target_hits": 0.8,
            "confidence_evaluator": sum(sure) / 3,
            "confidence_evaluator_hits": (sure[0] + sure[2]) / 2,
        }
    )
    missed = Confidence()(evaluation(logits, torch.tensor([0, 0, 1]), torch.zeros(3)))
    assert set(missed) == {"confidence_evaluator"}


def test_a_group_of_zero_is_refused():
    with pytest.raises(ConfigError, match="group=0"):
        AttackAccuracy(k=1, group=0)


def test_knn_distance_matches_the_official_one():
    golden = GOLDEN["knn_distance"]
    tensors = {
        "features": torch.tensor(golden["fake_features"]),
        "private_features": torch.tensor(golden["private_features"]),
    }
    labels, private = torch.tensor(golden["fake_labels"]), torch.tensor(golden["private_labels"])
    nearest = nearest_private(tensors["features"], labels, tensors["private_features"], private)
    assert nearest.tolist() == pytest.approx(golden["per_fake_min_squared_l2"], rel=1e-5)
    seen = evaluation(
        torch.zeros(6, 3), labels, torch.zeros(6, dtype=torch.int64), private_labels=private, **tensors
    )
    assert KnnDistance()(seen)["knn_dist"] == pytest.approx(golden["value"], rel=1e-5)


def test_knn_distance_of_an_identity_without_private_images_is_unavailable():
    with pytest.raises(Unavailable, match="no private training image"):
        nearest_private(torch.zeros(1, 2), torch.tensor([3]), torch.zeros(1, 2), torch.tensor([0]))
