"""Reconstructions judged as floats, rendered again from their latents."""

from __future__ import annotations

import pytest
import torch

from midre_exp.data.base import ImageSet
from midre_exp.data.transforms import CenterCrop, Resize
from midre_exp.errors import ConfigError
from midre_exp.metrics import evaluate, evaluate_stored
from midre_exp.metrics.evaluation import Floats
from tests.fidelity.recorded import RecordedStyle, Recording, attack, classifier

METRICS = "midre_exp.metrics."
MEASURE = {
    "top1": {"_target_": f"{METRICS}AttackAccuracy", "k": 1, "group": 6},
    "top5": {"_target_": f"{METRICS}AttackAccuracy", "k": 5, "group": 6},
    "confidence": {"_target_": f"{METRICS}Confidence"},
    "delta_eval": {"_target_": f"{METRICS}EvaluatorDistance"},
    "prdc": {"_target_": f"{METRICS}Prdc", "k": 3, "features": "evaluator"},
}
#: Of an evaluator that sees pictures as they are.
SETTINGS = {"image_to_evaluator": [], "measure": MEASURE}
NAMES = {
    "top1": "att_acc1",
    "top5": "att_acc5",
    "top1_all": "att_acc1_unfiltered",
    "top5_all": "att_acc5_unfiltered",
    "confidence": "confidence_evaluator",
    "delta_eval": "delta_eval",
    **{name: f"{name}_ppa_evaluator" for name in ("precision", "recall", "density", "coverage")},
}


@pytest.fixture(scope="module")
def ppa():
    """PPA's codes of the recorded run, what the attack stores of them, the judge and the private images."""
    run = Recording.of("ppa")
    meta = run.meta
    prior = RecordedStyle(run.tag, scale=meta["scale"])
    steps = (CenterCrop(size=meta["crop"]), Resize(size=meta["judge_size"]))
    method = attack("ppa", identities=meta["classes"], restarts=meta["candidates"], kept=meta["kept"])
    method.picture, method.eight_bits = steps, "truncated"
    labels = torch.arange(meta["classes"]).repeat_interleave(meta["candidates"])

    @torch.no_grad()
    def rendered(part: slice) -> torch.Tensor:
        return method.pictures(method.generated(prior, run["w"][part], labels[part]))

    stored = {
        "images": method.in_eight_bits(rendered(slice(None))),
        "labels": labels,
        "restarts": torch.arange(len(labels)) % meta["candidates"],
        "selected": run["selected"].bool(),
    }
    classes = torch.arange(meta["classes"]).repeat_interleave(10)
    private = ImageSet(run["private"], classes, tuple("abcdef"))
    judge = classifier(run, "J", "bias_judge", width=meta["judge_width"], normal=(0.5, 0.5))
    return run, stored, rendered, judge, private


def scores(stored, judge, private, floats=None):
    return evaluate_stored(SETTINGS, stored, judge, private, device=torch.device("cpu"), floats=floats)


@pytest.mark.parametrize("pictures", ["floats", "eight_bit"])
def test_numbers_of_a_style_attack_are_those_of_the_official_functions(ppa, pictures):
    run, stored, rendered, judge, private = ppa
    floats = Floats(rendered, 7) if pictures == "floats" else None
    found = scores(stored, judge, private, floats)
    assert not found.missing
    for name, expected in run.meta["metrics"][pictures].items():
        if name in NAMES:
            factor = 100 if name == "confidence" and found.numbers[NAMES[name]] > 1 else 1
            assert found.numbers[NAMES[name]] == pytest.approx(factor * expected, rel=2e-4, abs=1e-6), name


def test_floats_of_ones_own_are_judged_as_they_are_where_that_is_asked_for(ppa):
    run, stored, rendered, judge, private = ppa
    rows = stored["selected"].nonzero().squeeze(1)
    images, labels = rendered(slice(None))[rows], stored["labels"][rows]
    exact = evaluate(images, labels, judge, private=private, pictures="floats").numbers
    cut = evaluate(images, labels, judge, private=private).numbers
    assert exact["knn_dist"] == pytest.approx(run.meta["metrics"]["floats"]["delta_eval"], rel=2e-4)
    rounded = images.clamp(0, 1).mul(255).round().byte()
    assert cut == evaluate(rounded, labels, judge, private=private).numbers != exact


def test_less_memory_changes_no_number_and_only_what_counts_is_kept(ppa, monkeypatch):
    _, stored, rendered, judge, private = ppa
    asked = []

    def scarce(part: slice) -> torch.Tensor:
        if part.stop - part.start > 3:
            raise torch.OutOfMemoryError("none left")
        asked.append(part)
        return rendered(part)

    found, whole = (
        scores(stored, judge, private, Floats(scarce, 16)),
        scores(stored, judge, private, Floats(rendered, 48)),
    )
    assert max(part.stop - part.start for part in asked) == 2
    assert found.numbers == pytest.approx(whole.numbers, rel=1e-5)
    assert torch.equal(found.predicted, whole.predicted)


@pytest.mark.parametrize(
    ("change", "told"),
    [(lambda images: 1 - images, "levels apart"), (lambda images: images[..., 1:, 1:], "of 19 px")],
)
def test_latents_that_give_other_pictures_than_were_stored_are_refused(ppa, change, told):
    _, stored, rendered, judge, private = ppa
    with pytest.raises(ConfigError, match=f"{told}.*metrics.pictures=eight_bit"):
        scores(stored, judge, private, Floats(lambda part: change(rendered(part)), 16))
