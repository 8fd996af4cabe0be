"""The table of the first five minutes: its runs are what its yaml says, and share what no defense
changes.
"""

from __future__ import annotations

from collections import Counter

import pytest

from midre_exp.plan.keys import absent_data_allowed
from midre_exp.plan.scale import full_size_parts
from midre_exp.report.__main__ import jobs_of
from midre_exp.report.definitions import load_table
from midre_exp.report.runs.planned_runs import disambiguate, plan_runs
from midre_exp.stages import make_plan


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    place = tmp_path_factory.mktemp("first_look")
    places = [f"paths.{name}={place / name}" for name in ("store", "results", "runs")]
    return plan_runs(jobs_of(load_table("first_look"), places))


def test_each_defense_is_attacked_plainly_and_by_someone_who_knows_it(runs):
    assert [run.label for run in disambiguate(runs)] == [
        "NoDef",
        "MIDRE [0.1, 0.4]",
        "MIDRE [0.1, 0.8]",
        "MIDRE [0.1, 0.4] (attack.informed=True)",
        "MIDRE [0.1, 0.8] (attack.informed=True)",
    ]
    for run in runs:
        settings = run.settings
        assert settings["resolution"] == 64 and settings["attack"]["name"] == "ppa"
        assert settings["target"]["weights"] == settings["evaluator"]["weights"] == "public"
        assert settings["open_set"]["name"] == "verifier"
        assert settings["attack"]["identities"] == settings["data"]["identities"] == 20
        assert full_size_parts(settings) == []


def test_what_no_defense_changes_is_made_once(runs):
    with absent_data_allowed():
        plans = [make_plan(run.settings) for run in runs]
    made = Counter(stage for stage, _ in {(s.name, s.key) for plan in plans for s in plan.stages.values()})
    shared = ("pretraining", "evaluator_pretraining", "evaluator", "prior", "verifier", "candidates")
    assert {made[stage] for stage in shared} == {1}
    assert (made["target"], made["attack"], made["open_set"]) == (3, 5, 5)
