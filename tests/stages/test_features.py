"""What networks see in private images is computed once for all runs that compare with it, and changes no
number.
"""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

from midre_exp import metrics, stages
from midre_exp.data.base import ImageSet
from midre_exp.data.synthetic import renderer
from midre_exp.metrics.extractors import Extractor, extractors, of_clouds
from midre_exp.metrics.inception import InceptionFeatures
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.stages import make_plan
from midre_exp.stages.parts import make_parts
from midre_exp.store.store import Store
from midre_exp.sweep.finished import is_finished
from midre_exp.targets.base import Output

CPU = torch.device("cpu")
SHORT = ("target.recipe.epochs=1", "attack.prior.steps=2", "attack.steps=1", "attack.restarts=1")


def counted(monkeypatch, owner, name):
    """The arguments of every call."""
    calls, honest = [], getattr(owner, name)

    def call(*args, **options):
        calls.append(args)
        return honest(*args, **options)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_two_runs_render_once_and_look_once_and_the_numbers_are_those_of_runs_that_do_not_share(
    tiny, monkeypatch
):
    painted = counted(monkeypatch, renderer, "paint")
    looked = counted(monkeypatch, metrics, "private_features")
    records = [json.loads(run(tiny(f"defense={name}", *SHORT)).read_text()) for name in ("nodef", "midre")]
    settings = tiny("defense=midre", *SHORT)
    assert len(looked) == 1
    assert sum(len(traits) for traits, *_ in painted) == 16 + 8 + 32  # train, test and public, all of 32 px
    keys = [record["artifacts"]["features"] for record in records]
    assert keys[0] == keys[1] and "features" in records[1]["seconds"]

    store = Store(settings["paths"]["store"])
    shutil.rmtree(store.root / "features")  # a finished run does without it
    assert is_finished(settings, make_plan(settings))
    run(settings)
    assert not (store.root / "features").exists() and len(looked) == 1

    attack, evaluator, kept = (
        store.find(stage, records[1]["artifacts"][stage]) for stage in ("attack", "evaluator", "metrics")
    )
    parts = make_parts(settings)
    alone = metrics.evaluate_stored(
        settings["metrics"],
        attack.tensors("reconstructions"),
        stages.evaluator.load(settings, evaluator, parts.undefended),
        parts.evaluation.load("train"),
        device=CPU,
    )
    assert alone.numbers and alone.numbers == {name: kept.metrics[name] for name in alone.numbers}
    assert alone.missing == kept.metrics["missing"]


def changed(tiny, *overrides: str) -> bool:
    """Whether an override makes other features."""
    return make_plan(tiny())["features"].key != make_plan(tiny(*overrides))["features"].key


def test_the_key_holds_what_the_features_are_of_and_no_more(tiny):
    same = (
        *("seed=1", "defense=midre", "target=vgg16", "attack.steps=9", "attack.restarts=3"),
        "metrics.measure.top1.group=9",
    )
    assert [override for override in same if changed(tiny, override)] == []
    other = ("evaluator.recipe.epochs=9", "attack.identities=3", "data.train_per_identity=5")
    assert all(changed(tiny, override) for override in other)
    assert changed(tiny, "metrics.measure.fid_evaluator=null")  # whose cloud is kept


def test_nothing_is_looked_at_where_no_metric_compares(tiny):
    alone = [f"metrics.measure.{name}=null" for name in ("knn", "fid_evaluator")]
    assert "features" not in make_plan(tiny(*alone)).stages
    assert "features" not in make_plan(tiny("attack.shard=1/2")).stages


def test_judges_and_priors_are_shared_over_attacks_targets_defenses_and_seeds():
    """Of runs with the same data: the prior unless it is trained against the target."""
    with packaged_configs():
        plans = [
            make_plan(settings_of([*line.split(), "scale=mini"]))
            for line in (
                "setup=S01 defense=nodef seed=0",
                "setup=S01 defense=midre seed=1",
                "setup=S02 defense=bido",
                "setup=S25 defense=nodef",
                "setup=S13a defense=nodef",
            )
        ]
    for stage in ("evaluator", "prior", "features"):
        assert len({plan[stage].key for plan in plans}) == 1, stage
    assert len({plan["target"].key for plan in plans}) == 3


def test_extractors_are_read_off_the_metrics_once_each():
    with packaged_configs():
        paper = settings_of(["setup=S27", "scale=paper"])["metrics"]["measure"]
        mini = settings_of(["setup=S27", "scale=mini"])["metrics"]["measure"]
    evaluator, face = Extractor("evaluator"), Extractor("face", "vggface2")
    plain, official = (Extractor("inception", "imagenet", flag) for flag in (False, True))
    of_ppa = Extractor("inception", "pytorch_fid", program="ppa")
    assert extractors(paper) == [evaluator, face, plain, official, of_ppa]
    assert of_clouds(paper) == [plain, official, evaluator, of_ppa]
    assert extractors(mini) == [evaluator]  # no weights are chosen
    assert extractors({"own": {"_target_": "mine.Metric"}, "none": None}) == [evaluator]
    assert extractors({"top1": {"_target_": "midre_exp.metrics.AttackAccuracy"}}) == []


class Colours(nn.Module):
    """Features are the mean colours and their squares."""

    def forward(self, images, taps=()):
        mean = images.mean((2, 3))
        return Output(mean, torch.cat((mean, mean.square()), 1))


@pytest.fixture
def measured(monkeypatch):
    """Scores of reconstructions of three identities of four, and what is known of private images."""
    monkeypatch.setattr(InceptionFeatures, "network", lambda self: Colours())
    draws = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (40, 3, 8, 8), generator=draws, dtype=torch.uint8)
    private = ImageSet(images, torch.arange(40) % 4, tuple("abcd"))
    made = {
        "images": torch.randint(0, 256, (15, 3, 6, 6), generator=draws, dtype=torch.uint8),
        "labels": torch.arange(15) % 3,
        "restarts": torch.arange(15) // 3,
    }
    ours = "midre_exp.metrics."
    measure = {
        "knn": {"_target_": f"{ours}KnnDistance"},
        "fid_evaluator": {"_target_": f"{ours}EvaluatorFid"},
        "fid": {"_target_": f"{ours}Fid", "weights": "imagenet", "images": "all"},
        "prdc": {
            "_target_": f"{ours}Prdc",
            "k": 3,
            "features": "inception",
            "weights": "imagenet",
            "official_range": True,
        },
    }
    node = {
        "image_to_evaluator": [{"_target_": "midre_exp.data.transforms.Resize", "size": 8}],
        "measure": measure,
    }

    def measure_with(known=None, **more):
        return metrics.evaluate_stored(node, {**made, **more}, Colours(), private, device=CPU, known=known)

    rows = (private.labels < 3).nonzero().squeeze(1)
    known, missing = metrics.private_features(measure, Colours(), images, rows, pixels=6, runtime=Runtime())
    assert missing == {} and len(known.of) == 3 and len(known.clouds) == 2
    return measure_with, known


def test_numbers_with_known_features_are_the_same_to_the_last_bit(measured, monkeypatch):
    measure, known = measured
    fresh = measure()
    assert {"knn_dist", "fid_evaluator", "fid_all", "recall"} <= set(fresh.numbers)
    shown = counted(monkeypatch, metrics.judge, "predict")
    seen = counted(monkeypatch, metrics.inception, "predict")
    assert measure(known).numbers == fresh.numbers
    assert len(shown) == 1 and {len(images) for _, images, _ in seen} == {15}  # reconstructions alone


def test_a_selection_without_an_identity_is_compared_with_the_rest(measured):
    measure, known = measured
    some = torch.arange(15) % 3 != 1
    assert measure(known, selected=some).numbers == measure(selected=some).numbers


def test_what_is_not_known_is_computed(measured):
    measure, known = measured
    fewer = metrics.PrivateFeatures(known.rows[:5], 6, {k: v[:5] for k, v in known.of.items()}, known.clouds)
    other = metrics.PrivateFeatures(known.rows, 7, known.of, known.clouds)  # Inception would see another size
    empty = metrics.PrivateFeatures(known.rows[:0], 6, {}, {})
    assert [measure(each).numbers for each in (fewer, other, empty)] == [measure().numbers] * 3


def test_weights_that_are_not_there_are_told_by_the_metric(measured, monkeypatch):
    measure, _ = measured

    def missing(self):
        raise metrics.Unavailable("no weights")

    monkeypatch.setattr(InceptionFeatures, "network", missing)
    node = {"fid": {"_target_": "midre_exp.metrics.Fid", "weights": "imagenet"}}
    images, rows = torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4)
    found, told = metrics.private_features(node, Colours(), images, rows, pixels=6, runtime=Runtime())
    assert told == {"inception": "no weights"} and found.of == {}
    assert measure(found).missing["fid"] == "no weights"
