"""Attacks in rounds: which artifacts they share, what a shard makes, what a record tells."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from midre_exp.errors import ConfigError
from midre_exp.plan.rounds import at_round, base_of, named, round_in, rounds_of
from midre_exp.records import problem_of
from midre_exp.report.tables.comparison import caption, comparison, printable
from midre_exp.run import run
from midre_exp.stages import behind, make_plan, stages_of
from midre_exp.stages.attack import round_seed
from midre_exp.stages.tuned_prior import tuned_bytes
from midre_exp.store.names import stored_as
from midre_exp.store.store import Store
from midre_exp.tuning.style import StyleTuning
from tests.attacks.test_ppa import tiny_settings
from tests.conftest import resolved

TUNING = {
    "_target_": "midre_exp.tuning.StyleTuning",
    "base": "ppa",
    "rounds": 2,
    "distance": "discrepancy",
    "pictures": 2,
    "lr": 1e-2,
    "projection_steps": 2,
    "projection_lr": 0.01,
    "steps": 2,
}
BASES = {"ppdg_ppa": "ppa", "ppdg_plgmi": "plgmi", "ppdg_kedmi": "kedmi"}


def tuned(settings, **options):
    node = {**settings["attack"], "name": "ppdg_ppa", "tuning": {**TUNING, **options}}
    return {**settings, "attack": node}


@pytest.mark.parametrize("attack", BASES)
def test_the_first_round_is_the_attack_of_the_plain_run(attack):
    plain = make_plan(resolved(["scale=mini", f"attack={BASES[attack]}"]))
    plan = make_plan(resolved(["scale=mini", f"attack={attack}"]))
    assert plan["attack.round1"].key == plain["attack"].key
    assert plan["metrics.round1"].key == plain["metrics"].key
    for name in set(plain.stages) - {"attack", "metrics", "verdicts"}:
        assert plan[name].key == plain[name].key
    assert plan["attack"].key != plain["attack"].key
    assert plan.key != plain.key
    order = ["attack.round1", "tuned_prior", "attack", "metrics"]
    found = [name for name in plan.stages if name in order]
    assert found.index("attack.round1") < found.index("attack")
    assert plan["tuned_prior"].is_intermediate
    assert "tuned_prior" in plan["attack"].upstream


def test_one_round_is_the_plain_attack():
    settings = resolved(["scale=mini", "attack=ppdg_ppa", "attack.tuning.rounds=1"])
    plain = make_plan(resolved(["scale=mini", "attack=ppa"]))
    plan = make_plan(settings)
    assert {name: stage.key for name, stage in plan.stages.items()} == {
        name: stage.key for name, stage in plain.stages.items()
    }


def test_a_run_of_three_rounds_has_that_of_two_within():
    two = make_plan(resolved(["scale=mini", "attack=ppdg_ppa"]))
    three = make_plan(resolved(["scale=mini", "attack=ppdg_ppa", "attack.tuning.rounds=3"]))
    assert three["attack.round1"].key == two["attack.round1"].key
    assert three["tuned_prior.round2"].key == two["tuned_prior"].key
    assert three["attack.round2"].key == two["attack"].key
    assert three["metrics.round2"].key == two["metrics"].key
    assert three["tuned_prior"].key != two["tuned_prior"].key


@pytest.mark.parametrize(
    "option", ["distance=transport", "pictures=3", "projection_steps=7", "steps=9", "lr=0.001"]
)
def test_an_option_of_the_tuning_moves_what_follows_it_alone(option):
    plain = make_plan(resolved(["scale=mini", "attack=ppdg_ppa"]))
    other = make_plan(resolved(["scale=mini", "attack=ppdg_ppa", f"attack.tuning.{option}"]))
    moved = {name for name in plain.stages if plain[name].key != other[name].key}
    assert moved == {"tuned_prior", "attack", "metrics", "verdicts"}


def test_a_shard_names_its_part_of_every_round_and_the_whole_names_none():
    whole = make_plan(resolved(["scale=mini", "attack=ppdg_ppa"]))
    part = make_plan(resolved(["scale=mini", "attack=ppdg_ppa", "attack.shard=2/5"]))
    assert part["shard"].key == f"{whole['attack'].key}-2of5"
    assert part["shard.round1"].key == f"{whole['attack.round1'].key}-2of5"
    assert part["tuned_prior"].key == f"{whole['tuned_prior'].key}-2of5"
    assert part.of("attack.round1") is part["shard.round1"]
    assert part.of("attack") is part["shard"]


def test_names_of_rounds():
    settings = resolved(["scale=mini", "attack=ppdg_plgmi", "attack.tuning.rounds=3"])
    assert [named("attack", n, 3) for n in (1, 2, 3)] == ["attack.round1", "attack.round2", "attack"]
    assert [round_in(name) for name in ("attack.round2", "attack", "evaluator.resnet18")] == [2, None, None]
    assert stored_as("tuned_prior.round2") == "tuned_prior"
    assert stored_as("evaluator.resnet18") == "evaluator.resnet18"
    assert base_of(settings["attack"])["name"] == "plgmi"
    assert rounds_of(at_round(settings, 2)["attack"]) == 2
    for stage in stages_of(settings):
        kind, own = behind(stage.name, settings)
        assert kind == stored_as(stage.name)
        assert rounds_of(own["attack"]) == (round_in(stage.name) or 3)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["scale=synth", "attack/tuning=gan"],  # whose options mini has values for
            r"attack\.tuning tunes the GANs .* and attack\.prior is StyleGAN2Prior",
        ),
        (["attack.tuning.pictures=9"], r"attack\.tuning\.pictures=9 exceeds attack\.restarts=4"),
        (["attack.tuning.rounds=0"], r"attack\.tuning\.rounds=0"),
        (["attack.tuning.distance=l2"], r"attack\.tuning\.distance=l2"),
    ],
)
def test_what_cannot_be_tuned_is_told_before_anything_runs(overrides, sentence, tmp_path):
    paths = [f"paths.{name}={tmp_path / name}" for name in ("store", "runs", "results")]
    with pytest.raises(ConfigError, match=sentence):
        run(resolved(["scale=mini", "attack=ppdg_ppa", *overrides, *paths]))
    assert not list(tmp_path.glob("store/target"))


def test_a_whole_run_of_two_rounds(stocked, tmp_path):
    settings = tiny_settings(tmp_path)
    plain = json.loads(run(settings).read_text())
    record = json.loads(run(tuned(settings)).read_text())
    store = Store(settings["paths"]["store"])
    assert record["artifacts"]["attack.round1"] == plain["artifacts"]["attack"]
    assert record["seconds"]["attack.round1"] == plain["seconds"]["attack"]  # found, not made again
    # 4 identities of 2 reconstructions each; both rounds, each look at both sides of each, starts of each
    second = 4 * 6 * 2 + 4 * 2 * (3 + 2)
    assert record["queries"] == plain["queries"] + 4 * 2 * 2 + second
    of_each, of_first = (one["queries_per_identity"] for one in (record, plain))
    assert of_each["max"] - of_first["max"] == of_each["min"] - of_first["min"] == 4 + second // 4
    (first,) = record["rounds"]["earlier"]
    assert first["metrics"]["att_acc1"] == plain["metrics"]["att_acc1"]
    assert first["per_identity"] == plain["per_identity"] or "open_set" in plain
    assert first["queries"] == plain["queries"]
    assert record["metrics"]["att_acc1_round1"] == plain["metrics"]["att_acc1"]
    assert record["rounds"]["tuning"]["features"] == "the prior's own critic"
    assert record["rounds"]["tuning"]["pictures"] == 2

    assert "round 1" in printable(comparison([record]))
    assert "on features of the prior's own critic; round 1 is the base attack" in caption("t", [record])
    assert problem_of({**record, "rounds": {"base": "ppa", "tuning": {}, "earlier": []}}) is not None

    whole = store.find("attack", record["artifacts"]["attack"]).tensors("reconstructions")
    kept = store.find("tuned_prior", record["artifacts"]["tuned_prior"])
    names = [name for name in kept.manifest["files"] if name.startswith("identity-")]
    assert len(names) == 4
    size = sum((kept.path / name).stat().st_size for name in names)
    assert tuned_bytes(tuned(settings)) < size < tuned_bytes(tuned(settings)) + 4 * 16000  # and their names

    # in shards, without what the whole run left: the same numbers
    shutil.rmtree(kept.path)
    for key in (record["artifacts"]["attack"], record["artifacts"]["attack.round1"]):
        shutil.rmtree(store.where("attack", key))
    for number in (1, 2):
        part = tuned(settings)
        run({**part, "attack": {**part["attack"], "shard": f"{number}/2"}})
    again = json.loads(run(tuned(settings)).read_text())
    assert again["queries"] == record["queries"]
    merged = store.find("attack", again["artifacts"]["attack"])
    assert merged.metrics["shard_seconds"] > 0
    for name, value in merged.tensors("reconstructions").items():
        # generators that are tuned together round otherwise than alone, and Adam makes a step of its whole
        # rate of a gradient that is rounding alone: what follows is alike, not equal
        if name != "queries":
            gap = (value.double() - whole[name].double()).abs().mean()
            assert gap <= (2.0 if value.dtype == torch.uint8 else 0.01), name

    # nothing is made of a tuned prior that is gone, once the attack is there
    shutil.rmtree(store.where("tuned_prior", record["artifacts"]["tuned_prior"]))
    run(tuned(settings))
    assert store.find("tuned_prior", record["artifacts"]["tuned_prior"]) is None


def test_a_killed_stage_of_tuned_priors_keeps_those_that_are_done(stocked, tmp_path, monkeypatch):
    settings, real, asked = tuned(tiny_settings(tmp_path)), StyleTuning.tune, []
    monkeypatch.setattr(StyleTuning, "at_once", lambda self, material, taken: 2)
    monkeypatch.setattr("midre_exp.memory.footprint.planned", lambda work, most, *rest, **named: most)

    def killed(self, material, best):
        asked.append(best.labels.tolist())
        if len(asked) == 2:
            raise KeyboardInterrupt
        return real(self, material, best)

    monkeypatch.setattr(StyleTuning, "tune", killed)
    with pytest.raises(KeyboardInterrupt):
        run(settings)
    record = json.loads(run(settings).read_text())
    assert asked == [[0, 1], [2, 3], [2, 3]]
    store, key = Store(settings["paths"]["store"]), record["artifacts"]["tuned_prior"]

    def of_each():
        kept = store.find("tuned_prior", key)
        return [kept.tensors(f"identity-{one}") for one in range(4)]

    continued = of_each()
    for stage, name in (("tuned_prior", key), ("attack", record["artifacts"]["attack"])):
        shutil.rmtree(store.where(stage, name))
    whole = json.loads(run(settings).read_text())
    assert whole["queries"] == record["queries"] and whole["metrics"] == record["metrics"]
    for one, other in zip(continued, of_each(), strict=True):
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_no_tuning_steps_leave_the_base_attack_with_starts_of_its_round(stocked, tmp_path):
    settings = tiny_settings(tmp_path)
    settings["attack"]["search"]["z_seed"] = None  # so that starts differ by round
    untuned = tuned(settings, steps=0)
    record = json.loads(run(untuned).read_text())
    store = Store(settings["paths"]["store"])
    found = store.find("attack", record["artifacts"]["attack"]).tensors("reconstructions")

    from midre_exp.attack import build_attack
    from midre_exp.attack_run import run_attack
    from midre_exp.defense import compose_defenses
    from midre_exp.stages.classifier import Target
    from midre_exp.stages.prior import PriorStage
    from midre_exp.threat import Victim

    target = store.find("target", record["artifacts"]["target"])
    prior = store.find("prior", record["artifacts"]["prior"])
    classes = int(target.metrics["counts"]["private_identities"])
    attack = build_attack(settings["attack"])
    model = Target().load(settings, target, compose_defenses({})).eval()
    expected = run_attack(
        attack,
        Victim.of(model, classes, attack.threat),
        PriorStage().load(settings, prior, classes),
        seed=round_seed(untuned),
    ).tensors()
    # Adam makes whole steps of gradients that are rounding: single numbers differ by 0.003 on some processors
    assert (found["latents"] - expected["latents"]).abs().mean() < 1e-3
    assert torch.equal(found["selected"], expected["selected"])
    first = store.find("attack", record["artifacts"]["attack.round1"]).tensors("reconstructions")
    assert (first["latents"] - found["latents"]).abs().mean() > 1e-1
