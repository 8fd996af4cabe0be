from __future__ import annotations

import pytest
import torch
from torch import nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import DivergedError
from midre_exp.metrics import evaluate, evaluate_stored, hits_by_identity
from midre_exp.metrics.base import Unavailable
from midre_exp.metrics.evaluation import places
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
    """Four private images of each of three identities, in turn, and reconstructions of identities 0 and 2."""
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
        "image_to_evaluator": [{"_target_": "midre_exp.data.transforms.Resize", "size": 6}],
        "measure": {name.lower(): {"_target_": f"{__name__}.{name}"} for name in ("Keep", "Refuse")},
    }
    settings["measure"]["left_out"] = None
    found = evaluate_stored(
        settings, made, Means(), private, device=torch.device("cpu"), trusted=(__name__.split(".")[0],)
    )
    return private, made, found


def test_metrics_see_only_the_attacked_identities_and_can_reach_their_pictures(shown):
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
    node = {"measure": {"top1": {"_target_": "midre_exp.metrics.AttackAccuracy", "k": 1, "group": 60}}}
    node["image_to_evaluator"] = [{"_target_": "midre_exp.data.transforms.Resize", "size": 6}]

    def scores(**more):
        return evaluate_stored(node, {**made, **more}, Means(), private, device=torch.device("cpu"))

    assert scores()[0]["att_acc1"] == 100
    numbers, _, seen_as = scores(failed=torch.tensor([True, False, False, True]))
    assert numbers["att_acc1"] < 100
    assert torch.equal(seen_as, predicted)


def measured(private, made, *names, **more):
    """What the evaluator ``Means`` makes of it, by classes of this file or paths of metrics."""
    node = {
        "image_to_evaluator": [{"_target_": "midre_exp.data.transforms.Resize", "size": 6}],
        "measure": {name: {"_target_": name if "." in name else f"{__name__}.{name}"} for name in names},
    }
    SEEN.clear()
    return evaluate_stored(
        node,
        {**made, **more},
        Means(),
        private,
        device=torch.device("cpu"),
        trusted=(__name__.split(".")[0],),
    )


def test_of_an_attack_that_selects_only_the_selected_are_measured(shown):
    private, made, (_, _, predicted) = shown
    (whole,) = SEEN
    selected = torch.tensor([False, True, True, False])
    sure = torch.tensor([0.1, 0.2, 0.3, 0.4])
    *_, seen_as = measured(private, made, "Keep", selected=selected, confidence=sure)
    (seen,) = SEEN
    assert torch.equal(seen.images, made["images"][1:3])
    assert torch.equal(seen.logits, whole.logits[1:3]) and torch.equal(seen.features, whole.features[1:3])
    assert seen.labels.tolist() == [0, 2] and seen.restarts.tolist() == [0, 0]
    assert torch.equal(seen.confidence, sure[1:3])
    assert torch.equal(seen.unfiltered[0], whole.logits) and torch.equal(seen.unfiltered[1], made["labels"])
    assert torch.equal(seen_as, predicted)  # of every item
    assert whole.unfiltered is None


def test_identities_of_which_nothing_is_selected_are_not_compared_with(shown):
    private, made, _ = shown
    measured(private, made, "Keep", selected=torch.tensor([False, False, True, True]))
    assert SEEN[0].private_labels.unique().tolist() == [2]


def test_a_selection_of_everything_measures_what_no_selection_does(shown):
    private, made, _ = shown
    (whole,) = SEEN
    measured(private, made, "Keep", selected=torch.ones(4, dtype=torch.bool))
    (seen,) = SEEN
    assert seen.images is made["images"]  # not copied
    for name in ("labels", "restarts", "logits", "features", "private_rows"):
        assert torch.equal(getattr(seen, name), getattr(whole, name))


def test_an_attack_that_selects_nothing_has_no_numbers_but_a_reason(shown):
    private, made, (_, _, predicted) = shown
    numbers, missing, seen_as = measured(private, made, "Keep", selected=torch.zeros(4, dtype=torch.bool))
    assert numbers == {} and missing == {"Keep": "the attack selected no reconstruction"}
    assert torch.equal(seen_as, predicted)


def test_selected_items_are_counted_anew_within_their_label():
    labels = torch.tensor([7, 2, 7, 2, 2, 7, 4])
    restarts = torch.tensor([5, 0, 3, 9, 4, 8, 6])
    assert places(labels, restarts).tolist() == [1, 0, 0, 2, 1, 2, 0]


def test_phases_of_the_selected_are_classified_through_the_same_steps(shown):
    private, made, _ = shown
    other = made["images"].flip(0)
    stages = torch.stack([other, made["images"]], 1)
    name = "midre_exp.metrics.PhaseAccuracy"
    selected = torch.tensor([True, False, True, True])
    numbers, missing, seen_as = measured(private, made, name, selected=selected, stages=stages)
    hits = seen_as == made["labels"], seen_as.flip(0) == made["labels"]
    assert numbers["att_acc1_stage1"] == pytest.approx(100 * float(hits[0][selected].double().mean()))
    assert numbers["att_acc1_stage0"] == pytest.approx(100 * float(hits[1][selected].double().mean()))
    assert missing == {}
    assert measured(private, made, name)[:2] == ({}, {})  # no stages, no noise


def test_hits_by_identity_count_what_is_selected_and_did_not_fail():
    made = {
        "labels": torch.tensor([0, 0, 2, 2, 5, 5]),
        "selected": torch.tensor([True, True, True, False, True, True]),
        "failed": torch.tensor([False, True, False, False, False, False]),
    }
    predicted = torch.tensor([0, 0, 2, 2, 1, 5])
    assert hits_by_identity(made, predicted) == [50.0, 100.0, 50.0]
    assert hits_by_identity({"labels": made["labels"]}, predicted) == [100.0, 100.0, 50.0]


@pytest.mark.parametrize("answers", ["logits", "output"])
def test_ones_own_evaluator_scores_a_tensor_of_reconstructions_in_three_lines(answers):
    draws = torch.Generator().manual_seed(0)
    colours = torch.eye(3)[:, :, None, None]  # class c is of colour c
    private = ImageSet((255 * colours.repeat(4, 1, 6, 6)).to(torch.uint8), torch.arange(12) % 3, tuple("abc"))

    class Evaluator(nn.Module):
        def forward(self, images):
            features = images.mean((2, 3))
            return features if answers == "logits" else Output(features, features)

    images = 0.9 * colours[[0, 1, 2, 0]].expand(-1, -1, 4, 4) + 0.1 * torch.rand(4, 3, 4, 4, generator=draws)
    labels = torch.tensor([0, 1, 2, 1])

    numbers, missing, predicted = evaluate(images, labels, Evaluator(), private=private)

    assert predicted.tolist() == [0, 1, 2, 0]
    assert numbers["att_acc1"] == 75 and 0.5 < numbers["confidence_evaluator_hits"] < 1
    assert "top5" in missing
    if answers == "logits":
        assert (
            missing["knn"] == missing["fid_evaluator"] == "the evaluator gives logits alone and no features"
        )
    else:
        seen = images.mul(255).round().float().div(255).mean((2, 3))
        nearest = (seen - torch.eye(3)[labels]).square().sum(1)
        assert numbers["knn_dist"] == pytest.approx(nearest.mean().item(), rel=1e-5)
    alone = evaluate(images.mul(255).to(torch.uint8), labels, Evaluator())
    assert alone.numbers["att_acc1"] == 75 and set(alone.missing) == {"top5"}


class Half:
    """A metric of which one number is none."""

    def __call__(self, seen):
        return {"good": 1.0, "bad": float("nan"), "endless": float("inf")}


class Broken(Means):
    """An evaluator that has no answer to the last image."""

    def forward(self, images, taps=()):
        output = super().forward(images)
        return output._replace(logits=output.logits + torch.tensor(torch.nan))


def test_a_number_that_is_none_is_missing_with_its_reason(shown):
    private, made, _ = shown
    found = evaluate(made["images"], made["labels"], Means(), private=private, metrics={"half": Half()})
    assert found.numbers == {"good": 1.0}
    assert found.missing == {"half": "it is no finite number: bad is nan, endless is inf"}


def test_an_evaluator_without_an_answer_and_images_without_numbers_are_refused(shown):
    private, made, _ = shown
    with pytest.raises(DivergedError, match="the evaluator's view of reconstructions has diverged"):
        evaluate(made["images"], made["labels"], Broken(), private=private)
    with pytest.raises(DivergedError, match="these reconstructions diverged"):
        evaluate(made["images"] * torch.tensor(torch.nan), made["labels"], Means())
