"""Open-set verification and traits as stages: what their keys depend on, what they leave alone, what a record
tells, and data that cannot have them.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from midre_exp.cost.programs import count_stage
from midre_exp.cost.sizes import sizes_of
from midre_exp.data import FaceFolder
from midre_exp.doctor.checks import Checks
from midre_exp.errors import ConfigError
from midre_exp.leakage.network import FaceNetwork
from midre_exp.leakage.training import Course, fit
from midre_exp.plan.config import without
from midre_exp.plan.keys import absent_data_allowed
from midre_exp.records import problem_of
from midre_exp.records.comparable import comparable_config
from midre_exp.report.claims.contrasts import Difference
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.tables.comparison import caption, comparison, printable
from midre_exp.report.tables.leakage import _rows
from midre_exp.report.tables.leakage import printable as printable_traits
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.stages import make_plan
from midre_exp.stages.attack import AttackStage
from midre_exp.stages.traits import require_known_traits
from midre_exp.sweep.estimate import estimate, lines
from midre_exp.sweep.finished import is_finished
from tests.conftest import resolved, tiny_overrides

OPEN_SET = (
    "open_set=verifier",
    "data.verification_identities=60",
    "data.verification_per_identity=3",
    "data.verification_test_per_identity=1",
    "open_set.epochs=1",
    "open_set.batch_size=32",
    "open_set.held_out=0.5",
)
TRAITS = ("traits=default", "data.trait_identities=60", "traits.epochs=1", "traits.batch_size=32")
NEW = {"verifier", "open_set", "trait_reader", "traits"}


def keys(settings) -> dict[str, str]:
    return {name: stage.key for name, stage in make_plan(settings).stages.items()}


# keys


def test_a_run_without_them_knows_nothing_of_them(tiny):
    usual, other = tiny(), tiny("data.verification_identities=55", "data.trait_identities=70")
    assert keys(usual) == keys(other) and not NEW & {*keys(usual)}
    assert make_plan(usual).key == make_plan(other).key
    assert comparable_config(usual) == comparable_config(other)
    older = without(usual, "open_set", "traits")
    older["data"] = {
        key: value for key, value in usual["data"].items() if not key.startswith(("verification", "trait"))
    }
    assert keys(older) == keys(usual) and comparable_config(older) == comparable_config(usual)


def test_they_stand_behind_an_attack_that_stays(tiny):
    usual, judged = keys(tiny()), keys(tiny(*OPEN_SET, *TRAITS))
    assert {name: key for name, key in judged.items() if name in usual} == usual
    assert {*judged} - {*usual} == NEW
    # a run is the same one with them and without
    assert make_plan(tiny(*OPEN_SET)).key == make_plan(tiny()).key
    assert comparable_config(tiny(*OPEN_SET, *TRAITS)) == comparable_config(tiny())


@pytest.mark.parametrize(
    "changed", ["defense=midre", "seed=1", "target.recipe.epochs=3", "attack.steps=4", "evaluator=resnet18"]
)
def test_one_verifier_and_one_reader_serve_all_runs(tiny, changed):
    usual, other = keys(tiny(*OPEN_SET, *TRAITS)), keys(tiny(*OPEN_SET, *TRAITS, changed))
    assert all(other[name] == usual[name] for name in ("verifier", "trait_reader"))
    assert (other["open_set"] == usual["open_set"]) == (changed == "evaluator=resnet18")


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ("open_set.epochs=2", {"verifier", "open_set", "traits"}),
        ("data.verification_identities=61", {"verifier", "open_set", "traits"}),
        ("open_set.far=[0.1]", {"open_set", "traits"}),
        ("open_set.most_eer=50", set()),
        ("traits.seed=1", {"trait_reader", "traits"}),
        ("data.seed=1", NEW | {"target", "evaluator", "prior", "attack", "metrics"}),
    ],
)
def test_what_a_key_depends_on(tiny, changed, moves):
    usual, other = keys(tiny(*OPEN_SET, *TRAITS)), keys(tiny(*OPEN_SET, *TRAITS, changed))
    moved = {name for name in usual if usual[name] != other[name]}
    assert moved - {"features", "verdicts"} == moves


def test_a_part_of_an_attack_is_judged_by_nobody(tiny):
    assert not NEW & {*keys(tiny(*OPEN_SET, *TRAITS, "attack.shard=1/2"))}


# mistakes


@pytest.mark.parametrize(
    ("job", "told"),
    [
        (("data=celeba_celeba", "open_set=verifier"), "data=celeba_celeba has no people that a verifier"),
        (("data=celeba_celeba", "traits=default"), "data=celeba_celeba does not know the true traits"),
        (("open_set=verifier", "open_set.far=[0]"), "open_set.far"),
        (("open_set=verifier", "open_set.held_out=1"), "open_set.held_out"),
        (("traits=default", "traits.lr=fast"), "traits.lr"),
    ],
)
def test_what_cannot_be_is_told_when_it_is_planned(job, told):
    with absent_data_allowed(), pytest.raises(ConfigError, match=told.replace("[", r"\[")):
        make_plan(resolved(["setup=custom", *job]))


def test_data_without_known_traits_are_refused_in_a_sentence(tmp_path):
    options = {"private": None, "private_share": 0.5, "test_share": 0.2, "crop": "none", "seed": 0}
    faces = FaceFolder(root=str(tmp_path), size=32, **options)
    settings = {"traits": {"name": "default"}, "data": {"name": "folder"}}
    with pytest.raises(ConfigError, match=r"data=folder does not know; use data=synthfaces .* traits=null"):
        require_known_traits(settings, faces)


def test_a_size_that_does_not_halve_to_the_last_map_is_refused(tiny, stocked):
    with pytest.raises(ConfigError, match=r"open_set\.pixels=24"):
        run(tiny(*OPEN_SET, "open_set.pixels=24"))


# a run


@pytest.fixture(scope="module")
def judged(whole_run, tmp_path_factory) -> tuple[dict, Path]:
    """The record of a tiny run with both, on what a run without them left, and its store."""
    folder = tmp_path_factory.mktemp("judged")
    shutil.copytree(whole_run, folder / "store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("midre_exp.plan.imported._imported", {})
        patch.setattr(AttackStage, "make", _never)
        path = run(resolved([*tiny_overrides(folder), *OPEN_SET, *TRAITS, "open_set.far=[0.01,0.0001]"]))
    return json.loads(path.read_text()), folder / "store"


def _never(*_: object, **__: object) -> None:
    raise AssertionError("the attack is repeated")


def test_stored_reconstructions_are_judged_without_their_attack(judged):
    record, store = judged
    block = record["open_set"]
    assert problem_of(record) is None
    assert (block["identities"], block["reconstructions"], block["decoys"]) == (4, 8, 30)
    told = block["tar"]["0.01"]
    assert told["low"] <= told["value"] <= told["high"]
    assert max(told[f"false_{kind}"] for kind in ("photographs", "decoys", "others")) <= 1
    assert "0.0001" not in block["tar"] and "impostor pairs" in block["missing"]["tar@0.0001"]
    assert block["verifier"]["people"] == "of their own" and block["verifier"]["identities"] == 30
    assert len(record["per_identity"]["tar@0.01"]) == len(record["per_identity"]["att_acc1"]) == 4
    (verdicts,) = store.glob("open_set/*/verdicts.safetensors")
    tensors = load_file(verdicts)
    assert tensors["own"].shape == tensors["rank"].shape == (8,)
    assert 100 * float(tensors["accepted@0.01"].double().mean()) == pytest.approx(told["value"])


def test_a_run_without_them_keeps_what_the_record_tells_and_is_not_finished_by_it(judged):
    record, store = judged
    usual = resolved(tiny_overrides(store.parent))
    assert is_finished(usual, make_plan(usual))
    run(usual)
    path = next((store.parent / "results").rglob("records/*.json"))
    assert json.loads(path.read_text())["open_set"] == record["open_set"]
    other = resolved([*tiny_overrides(store.parent), *OPEN_SET, "open_set.seed=1"])
    assert not is_finished(other, make_plan(other))


def test_the_record_tells_of_traits(judged):
    block = judged[0]["traits"]
    assert block["reader"]["identities"] == 48 and block["reader"]["held_out"] == 12
    assert set(block["by_trait"]) >= {"skin_tone", "age", "age_group", "sex", "hair", "glasses"}
    assert all("reader" in row and "readable" in row for row in block["by_trait"].values())


def test_a_verifier_that_tells_nobody_apart_is_an_alarm(judged):
    record = judged[0]
    assert record["open_set"]["verifier"]["eer"] > 5  # after one epoch
    assert "may not be read" in record["alarms"]["open_set"][0]


def test_tables_have_columns_for_them(judged):
    record = judged[0]
    shown = printable(comparison([record]))
    assert shown["TAR@FAR 1e-2"][0] == f"{record['open_set']['tar']['0.01']['value']:.1f}"
    assert shown["rank"][0] == f"{record['open_set']['rank']['median']:.0f}"
    assert shown["traits"][0] == str(record["traits"]["recovered"]) and "TAR@FAR 1e-3" not in shown
    assert "learnt from 30 people of their own" in caption("Title", [record])
    usual = {**without(record, "open_set", "traits"), "metrics": unjudged(record)}
    assert "rank" not in printable(comparison([usual])) and "verifier" not in caption("Title", [usual])


def unjudged(record: dict) -> dict[str, float]:
    """The metrics of a record without what judges beside the evaluator say."""
    new = ("tar@", "rank", "traits_")
    return {name: value for name, value in record["metrics"].items() if not name.startswith(new)}


def test_claims_may_be_of_verified_reconstructions(judged):
    record = judged[0]
    assert record["metrics"]["tar@0.01"] == record["open_set"]["tar"]["0.01"]["value"]
    defended = {
        **record,
        "key": "0" * 16,
        "defense": {"label": "CutMix", "parts": {"cutmix": {}}},
        "metrics": {**record["metrics"], "tar@0.01": 0.0},
        "per_identity": {**record["per_identity"], "tar@0.01": [0.0] * 4},
    }
    claim = Difference(first="cutmix", second="NoDef", metric="tar@0.01")
    groups, _ = comparison_groups([record, defended])
    (effect,) = claim.effects(groups)
    assert effect.value == -record["metrics"]["tar@0.01"]
    blind = {**defended, "metrics": unjudged(defended)}
    assert not [*claim.effects(comparison_groups([record, blind])[0])]
    # of two records of a run the one that more judges looked at
    groups, _ = comparison_groups([blind, defended, record, {**record, "metrics": unjudged(record)}])
    assert len([*claim.effects(groups)]) == 1


def test_the_table_of_traits_has_a_row_for_each(judged):
    record = judged[0]
    shown = printable_traits(pd.DataFrame(_rows({"NoDef": [record]})), ["NoDef"])
    assert len(shown) == len(record["traits"]["by_trait"])
    unread = [name for name, row in record["traits"]["by_trait"].items() if not row["readable"]]
    assert all(f"{name} (unreadable)" in set(shown["trait"]) for name in unread)


@pytest.mark.parametrize(
    ("place", "value"), [("rank", {}), ("tar", {"0.01": {}}), ("verifier", {"eer": "low"}), ("tar", [])]
)
def test_a_block_without_its_numbers_is_no_record(judged, place, value):
    record = {**judged[0], "open_set": {**judged[0]["open_set"], place: value}}
    assert "open_set" in str(problem_of(record))


# estimates


def test_estimates_and_checks_know_them(tiny):
    settings = tiny(*OPEN_SET, *TRAITS)
    sizes = sizes_of(settings, lambda key, look: look())
    assert sizes is not None
    assert (sizes.verification_images, sizes.verification_classes, sizes.trait_images) == (240, 60, 60)
    text = "\n".join(lines(estimate([(settings, make_plan(settings))])))
    assert all(name in text for name in NEW)
    assert not [found for found in Checks().requirements(settings) if found.blocks]
    assert all(count_stage(name, settings, sizes).flops > 0 for name in NEW)


# training


def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path):
    images = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8)
    course = Course(epochs=2, batch_size=8, lr=1e-2, weight_decay=0.0, seed=0)

    class Killed(Exception):
        pass

    def train(folder: Path, kill_at: int | None) -> FaceNetwork:
        folder.mkdir(exist_ok=True)
        torch.manual_seed(0)
        network, seen = FaceNetwork(pixels=8, outputs=2, normed=True), [0]

        def loss(shown: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
            seen[0] += 1
            if seen[0] == kill_at:
                raise Killed
            return (network(shown).square().mean(1) * rows).mean()

        fit(
            network,
            images,
            loss,
            course,
            key="open_set",
            mirrors=True,
            title="training",
            work=folder,
            runtime=Runtime(checkpoint_seconds=0, quiet=True),
        )
        return network

    whole = train(tmp_path / "whole", None).state_dict()
    with pytest.raises(Killed):
        train(tmp_path / "killed", 6)
    again = train(tmp_path / "killed", None).state_dict()
    assert all(torch.equal(whole[name], again[name]) for name in whole)
