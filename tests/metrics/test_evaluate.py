from __future__ import annotations

import pytest
import torch
from torch import nn

from midre_exp.data.base import ImageSet
from midre_exp.metrics.base import Unavailable
from midre_exp.metrics.evaluate import evaluate
from midre_exp.targets.base import Output

SEEN = []


class Keep:
    """A metric that remembers what it was shown."""

    def __call__(self, seen):
        SEEN.append(seen)
        return {"kept": 1.0}


class Refuse:
    """A metric that cannot be computed."""

    def __call__(self, seen):
        raise Unavailable("nothing to measure with")


class Means(nn.Module):
    def forward(self, images, taps=()):
        features = images.mean((2, 3))
        return Output(features, features)


@pytest.fixture
def shown():
    """Four private images of each of three people, in turn, and reconstructions of people 0 and 2."""
    SEEN.clear()
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (12, 3, 6, 6), generator=draws, dtype=torch.uint8)
    private = ImageSet(images, torch.arange(12) % 3, ("a", "b", "c"))
    made = {
        "images": torch.randint(0, 256, (4, 3, 4, 4), generator=draws, dtype=torch.uint8),
        "labels": torch.tensor([0, 0, 2, 2]),
        "restarts": torch.tensor([0, 1, 0, 1]),
    }
    settings = {
        "image_to_evaluator": [{"_target_": "midre_exp.data.steps.Resize", "size": 6}],
        "measure": {name.lower(): {"_target_": f"{__name__}.{name}"} for name in ("Keep", "Refuse")},
    }
    found = evaluate(
        settings, made, Means(), private, device=torch.device("cpu"), allow=(__name__.split(".")[0],)
    )
    return private, made, found


def test_metrics_see_only_the_attacked_people_and_can_reach_their_pictures(shown):
    private, made, _ = shown
    (seen,) = SEEN
    assert seen.private_labels.tolist() == [0, 2] * 4
    assert seen.private_images is private.images  # not copied
    pictures = seen.private_images[seen.private_rows]
    torch.testing.assert_close(seen.private_features, pictures.float().div(255).mean((2, 3)))
    assert torch.equal(seen.labels, made["labels"])
    assert torch.equal(seen.successful, seen.logits.argmax(1) == seen.labels)


def test_a_metric_that_cannot_be_computed_is_kept_by_name_with_its_reason(shown):
    _, _, (numbers, missing, predicted) = shown
    assert numbers == {"kept": 1.0}
    assert missing == {"refuse": "nothing to measure with"}
    assert torch.equal(predicted, SEEN[0].logits.argmax(1))


def test_an_item_whose_attack_failed_counts_as_missed_even_if_the_evaluator_takes_it(shown):
    private, made, (_, _, predicted) = shown
    made["labels"] = predicted  # every item is a hit
    node = {
        "measure": {"top1": {"_target_": "midre_exp.metrics.accuracy.AttackAccuracy", "k": 1, "group": 60}}
    }
    node["image_to_evaluator"] = [{"_target_": "midre_exp.data.steps.Resize", "size": 6}]

    def judged(**more):
        return evaluate(node, {**made, **more}, Means(), private, device=torch.device("cpu"))

    assert judged()[0]["att_acc1"] == 100
    numbers, _, seen_as = judged(failed=torch.tensor([True, False, False, True]))
    assert numbers["att_acc1"] < 100
    assert torch.equal(seen_as, predicted)
