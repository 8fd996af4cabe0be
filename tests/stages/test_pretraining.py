"""Public pre-training: when a run has it, what its key depends on, what starts from it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from midre_exp import stages
from midre_exp.cost.inputs import inputs_of, more_of_the_same
from midre_exp.cost.sizes import sizes_of
from midre_exp.defense import compose_defenses
from midre_exp.doctor.checks import Checks
from midre_exp.errors import ConfigError
from midre_exp.executor import Executor
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import without
from midre_exp.records.comparable import comparable_config
from midre_exp.report.runs.captions import circumstances
from midre_exp.run import run
from midre_exp.stages import make_plan, stale
from midre_exp.stages.parts import make_parts
from midre_exp.store.artifact import Artifact
from midre_exp.store.store import Store
from midre_exp.sweep.estimate import estimate, lines
from midre_exp.targets.assemble import assemble
from midre_exp.targets.training.module import ClassifierModule

PUBLIC = (
    "target.weights=public",
    "data.pretraining_identities=5",
    "data.pretraining_per_identity=4",
    "data.pretraining_test_per_identity=2",
    "target.pretraining.recipe.epochs=2",
    "target.pretraining.recipe.batch_size=8",
    "evaluator.pretraining.recipe.epochs=1",
    "evaluator.pretraining.recipe.batch_size=8",
)
EVALUATOR = (*PUBLIC, "evaluator.weights=public")


def keys(settings) -> dict[str, str]:
    return {name: stage.key for name, stage in make_plan(settings).stages.items()}


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# keys


def test_a_run_that_starts_from_other_weights_knows_nothing_of_it(tiny):
    usual = tiny()
    other = tiny(
        "target.pretraining.recipe.epochs=3", "target.pretraining.seed=5", "data.pretraining_identities=7"
    )
    assert keys(other) == keys(usual) and "pretraining" not in keys(usual)
    assert make_plan(other).key == make_plan(usual).key
    assert comparable_config(other) == comparable_config(usual)
    older = {role: without(usual[role], "pretraining") for role in ("target", "evaluator")}
    older["data"] = {key: value for key, value in usual["data"].items() if not key.startswith("pretraining")}
    assert keys({**usual, **older}) == keys(usual)
    assert comparable_config({**usual, **older}) == comparable_config(usual)


@pytest.mark.parametrize(
    "changed",
    [
        "defense=midre",
        "seed=1",
        "target.recipe.epochs=3",
        "data.identities=3 attack.identities=3",
        "attack=kedmi attack/prior=kedmi",
        "evaluator=resnet18",
        "evaluator.weights=null",
        "setup.id=other",
    ],
)
def test_it_is_shared_by_all_targets_of_a_network(tiny, changed):
    usual, other = keys(tiny(*EVALUATOR)), keys(tiny(*EVALUATOR, *changed.split()))
    assert (other["pretraining"] == usual["pretraining"] and other != usual) or changed == "setup.id=other"


@pytest.mark.parametrize(
    "changed",
    [
        "target.pretraining.recipe.epochs=3",
        "target.pretraining.recipe.optimizer.lr=0.01",
        "target/recipe@target.pretraining.recipe=lowres_sgd",
        "target.pretraining.seed=1",
        "target.model.width=0.25",
        "data.pretraining_identities=6",
        "data.pretraining_per_identity=5",
        "data.seed=1",
    ],
)
def test_network_recipe_and_people_make_another(tiny, changed):
    usual, other = keys(tiny(*PUBLIC)), keys(tiny(*PUBLIC, changed))
    assert other["pretraining"] != usual["pretraining"] and other["target"] != usual["target"]


def test_the_start_of_a_target_is_part_of_its_key(tiny):
    public, nothing = keys(tiny(*PUBLIC)), keys(tiny(*PUBLIC, "target.weights=null"))
    assert public["target"] != nothing["target"] and public["evaluator"] == nothing["evaluator"]


def test_an_evaluator_has_a_pretraining_of_its_own(tiny):
    found = keys(tiny(*EVALUATOR))
    assert [*found][:4] == ["pretraining", "target", "evaluator_pretraining", "evaluator"]
    other = keys(tiny(*EVALUATOR, "evaluator.seed=7"))
    assert other["evaluator_pretraining"] != found["evaluator_pretraining"]
    assert other["target"] == found["target"]
    assert "evaluator_pretraining" not in keys(tiny(*EVALUATOR, "attack.shard=1/2"))


def test_a_loaded_target_is_not_pretrained(tiny, tmp_path):
    (tmp_path / "target.pt").write_bytes(b"weights")
    assert "pretraining" not in keys(tiny(*PUBLIC, f"target.checkpoint={tmp_path / 'target.pt'}"))


def test_data_without_such_people_say_so(tiny):
    settings = tiny(*PUBLIC)
    settings["data"] = without(settings["data"], "pretraining")
    with pytest.raises(ConfigError, match="data=synthfaces has no identities to pre-train on"):
        make_plan(settings)


def test_a_target_without_a_recipe_for_it_says_so(tiny):
    settings = tiny(*PUBLIC)
    settings["target"] = {**settings["target"], "pretraining": {"seed": 0}}
    with pytest.raises(ConfigError, match=r"needs a recipe to pre-train resnet18 by.*target\.pretraining"):
        make_plan(settings)


def test_a_defense_that_does_not_fit_is_told_before_anything_is_trained(tiny):
    settings = tiny(*PUBLIC, "target=densenet121", "defense=tts")
    with pytest.raises(ConfigError, match="tts cannot train a DenseNet"):
        run(settings)
    assert not (Path(settings["paths"]["store"]) / "pretraining").exists()


# known to plan, doctor, estimate


def test_what_is_made_anew_includes_what_starts_from_it(tiny):
    settings = tiny(*EVALUATOR, "runtime.rebuild=[pretraining]")
    assert stale.to_rebuild(settings, make_plan(settings)) == {
        *("pretraining", "target", "attack", "metrics", "verdicts")
    }


def test_a_plan_lists_it_once(tiny):
    every = [tiny(*EVALUATOR, f"defense={name}") for name in ("nodef", "midre", "tldmi")]
    found = estimate([(settings, make_plan(settings)) for settings in every])
    uses = {entry.stage: len(entry.runs) for entry in found.stages if "pretraining" in entry.stage}
    assert uses == {"pretraining": 3, "evaluator_pretraining": 3}
    assert any("resnet18 on public identities" in line for line in lines(found))


def test_its_images_are_counted(tiny):
    sizes = sizes_of(tiny(*PUBLIC), lambda _, look: look())
    assert (sizes.pretraining_train, sizes.pretraining_test, sizes.pretraining_classes) == (20, 10, 5)
    assert sizes_of(tiny(), lambda _, look: look()).pretraining_train == 0


def test_it_is_forecast_by_its_epochs(tiny):
    one, other = (
        inputs_of("pretraining", tiny(*PUBLIC, f"target.pretraining.recipe.epochs={epochs}"))
        for epochs in (2, 6)
    )
    assert more_of_the_same("pretraining", other, one) == 3
    usual, public = (inputs_of("target", tiny(*PUBLIC, f"target.weights={w}")) for w in ("null", "public"))
    assert usual == public


def test_the_doctor_says_that_nobody_has_enough_images(tiny, tmp_path):
    for name in ("anna", "bert", "cleo", "dora"):
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "faces" / name / f"{number}.jpg").write_bytes(name.encode() + bytes([number]))
    overrides = [text for text in PUBLIC if not text.startswith("data.")]
    settings = tiny()
    paths = [f"paths.{name}={path}" for name, path in settings["paths"].items()]
    folder = ["data=folder", f"data.root={tmp_path / 'faces'}", "attack.identities=1", "attack.prior.steps=1"]
    with packaged_configs():
        settings = settings_of([*folder, *overrides, *paths, "runtime.device=cpu"])
    told = [one.text for one in Checks().requirements(settings) if "pre-train" in one.text]
    assert told and "no identities with enough images to pre-train on" in told[0]
    assert "the most are 3" in told[0]


# a run


def test_a_defense_freezes_what_the_pretraining_learned(tiny, caplog):
    settings = tiny(*EVALUATOR, "defense=tldmi")
    with caplog.at_level(logging.WARNING):
        record = read(run(settings))
    assert "nothing has trained" not in caplog.text
    store, plan = Store(settings["paths"]["store"]), make_plan(settings)
    start, target = (store.find(name, plan[name].key) for name in ("pretraining", "target"))
    before, after = start.tensors("weights"), target.tensors("weights")
    frozen = [key for key in before if key.startswith("layer1.") and key.endswith("weight")]
    assert frozen and all(torch.equal(before[key], after[key]) for key in frozen)
    assert before["fc.weight"].shape[0] == 5 and after["fc.weight"].shape[0] == 4
    told = record["start"]["target"]
    assert told["source"] == "public" and told["trained"] and told["sha256"]
    assert told["pretraining"] == {
        "key": plan["pretraining"].key,
        "data": record["start"]["evaluator"]["pretraining"]["data"],
        "identities": 5,
        "images": 20,
        "tested": 10,
        "acc": start.metrics["acc"],
    }
    assert "ResNet-18 pre-trained on 5 public identities to" in circumstances("", [record])


def built(settings) -> dict[str, Artifact]:
    """The pre-training and the target of a run, by name, and nothing else of it."""
    parts = make_parts(settings)
    with Executor(settings, make_plan(settings), parts) as build:
        start = build(stages.pretraining, parts.pretraining, parts.undefended)
        build(stages.target, parts.private, parts.defense, start)
    return build.artifacts


def test_as_many_public_identities_as_private_ones_give_no_head(tiny):
    made = built(tiny(*PUBLIC, "data.pretraining_identities=4", "target.recipe.optimizer.lr=1e-30"))
    before, after = (made[name].tensors("weights") for name in ("pretraining", "target"))
    assert torch.equal(before["conv1.weight"], after["conv1.weight"])  # the rate moves nothing
    assert before["fc.weight"].shape == after["fc.weight"].shape
    assert not torch.allclose(before["fc.weight"], after["fc.weight"])


def test_a_pretraining_that_was_interrupted_ends_like_an_unbroken_one(tiny, tmp_path, monkeypatch):
    settings = tiny(*PUBLIC)
    elsewhere = {name: str(tmp_path / "unbroken" / name) for name in ("store", "runs", "results")}
    unbroken = built({**settings, "paths": {**settings["paths"], **elsewhere}})
    starts, begin = [], ClassifierModule.on_train_epoch_start

    def interrupted(module) -> None:
        starts.append(module.current_epoch)
        if starts == [0, 1]:
            raise RuntimeError("killed")
        begin(module)

    monkeypatch.setattr(ClassifierModule, "on_train_epoch_start", interrupted)
    with pytest.raises(RuntimeError, match="killed"):
        built(settings)
    made = built(settings)
    assert starts[:3] == [0, 1, 1]  # the first epoch is not repeated
    for name in ("pretraining", "target"):
        assert made[name].manifest["files"] == unbroken[name].manifest["files"]


@pytest.mark.parametrize(
    ("network", "defense", "at_random"),
    [
        ("resnet18", "rolss", ("fc",)),
        ("resnet18", "tts", ("fc",)),
        ("maxvit", "ssf", ("classifier.5",)),
        ("densenet121", "rolss", ("classifier", "features.denseblock4", "features.norm5")),
    ],
)
def test_a_network_without_shortcuts_starts_from_the_whole_one(tiny, tmp_path, network, defense, at_random):
    chosen = (f"target={network}", "target.model.width=0.375")
    node, file = tiny(*chosen)["target"], tmp_path / "whole.safetensors"
    whole = assemble(node, 3, compose_defenses({}), seed=1)
    save_file(whole.state_dict(), file)
    cut = compose_defenses(tiny(*chosen, f"defense={defense}")["defense"])
    model = assemble(node, 3, cut, seed=2, weights=str(file), fresh_head=True)
    before = whole.state_dict()
    other = {
        key
        for key, tensor in model.state_dict().items()
        if tensor.shape != before[key].shape or not torch.equal(tensor, before[key])
    }
    assert other and all(key.startswith(at_random) for key in other)
