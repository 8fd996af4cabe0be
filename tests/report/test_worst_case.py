"""Suites of attacks in tables, claims and the figure."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest

from midre_exp.errors import ConfigError
from midre_exp.records.claims import REPORT_CONF
from midre_exp.records.schema import problem_of
from midre_exp.report.claims.contrasts import Difference, InformedGain, Where
from midre_exp.report.claims.definitions import known_defenses, load_claim
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.figures import Attackers
from midre_exp.report.figures.style import LOOK
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.comparison import comparison, printable
from midre_exp.report.tables.worst_case import (
    printable_worst_case,
    remarks_of_suites,
    silent_parts,
    suites_of_rows,
    with_worst_case,
)
from tests.report.paper_records import record

SPREAD = np.linspace(-15, 15, 20)


def single(acc, att, *names, key="0" * 16, **values):
    found = record(acc, att, *names, **values)
    return {**found, "artifacts": {**found["artifacts"], "target": key, "evaluator": "e" * 16}}


def suite(acc, plain, informed, *names, worst=None, alarms=(), **values):
    """The record of a suite whose attackers find so much of every identity on average."""
    worst = max(plain, informed) + 10 if worst is None else worst
    found = single(acc, worst, *names, attack="worst_low", **values)
    members = {
        name: {
            "attack": attack,
            "key": key * 16,
            "overrides": [f"attack={attack}", *(["attack.informed=true"] if name == "ppa_informed" else [])],
            "counts": True,
            "att_acc1": value,
        }
        for name, attack, key, value in (
            ("ppa", "plgmi", "1", plain),
            ("ppa_informed", "plgmi", "2", informed),
            ("brepmi", "brepmi", "3", 5.0),
        )
    }
    number = {"value": worst, "low": worst - 4, "high": worst + 4}
    return {
        **found,
        "metrics": {**found["metrics"], "plain": plain, "informed": informed},
        "per_identity": {
            "att_acc1": (worst + SPREAD / 3).tolist(),
            "plain": (plain + SPREAD).tolist(),
            "informed": (informed + SPREAD).tolist(),
        },
        "suite": {
            "leading": "ppa",
            "best": "ppa_informed",
            "members": members,
            "aggregates": {"mean_of_identity_maxima": number},
            "alarms": {f"a{i}": text for i, text in enumerate(alarms)},
            "silent": [],
        },
        **({"alarms": {"suite": list(alarms)}} if alarms else {}),
    }


def run_of(one):
    settings = {
        **one["config"],
        "setup": one["setup"],
        "seed": one["seed"],
        "scale": "mini",
        "attack": {"name": one["attack"]},
        "target": {"name": one["target"]},
        "defense": one["defense"]["parts"],
        "runtime": {"trusted_packages": []},
    }
    return PlannedRun(("a",), settings, one)


def test_a_suite_needs_no_artifact_of_an_attack_and_a_run_does():
    one = suite(90, 50, 60, "midre")
    del one["artifacts"]["attack"], one["artifacts"]["metrics"]
    assert problem_of(one) is None
    assert problem_of({k: v for k, v in one.items() if k != "suite"}) == "it has no artifacts.attack"
    assert "suite.members" in problem_of({**one, "suite": {**one["suite"], "members": [1]}})


def test_rows_gain_the_worst_case_of_the_suite_that_attacked_the_same_targets():
    rows = [single(95, 80, key="a" * 16), single(93, 50, "midre", key="b" * 16)]
    rows += [single(93, 20, "midre", key="b" * 16, attack="rlbmi")]
    suites = [suite(93, 50, 62.5, "midre", key="b" * 16), suite(95, 80, 80, key="f" * 16)]
    found = suites_of_rows(rows, suites)
    assert list(found) == [("S19", "plgmi", "vgg16", "midre")]  # another target, and no member of that name
    table = with_worst_case(comparison(rows), found)
    shown = printable_worst_case(table)
    assert shown["worst case"] == ["", "72.5 [68.5, 76.5]", ""]
    assert shown["by which attack"] == ["", "ppa_informed 62.5", ""]
    assert with_worst_case(comparison(rows), {}).equals(comparison(rows))


def test_a_table_of_suites_tells_its_attackers():
    shown = printable(comparison([suite(95, 80, 80), suite(93, 50, 60, "midre")]))
    assert list(shown["plain"]) == ["80.0", "50.0"] and list(shown["informed"]) == ["80.0", "60.0"]
    assert list(shown["Δ"])[1] == "10.00"  # of the worst cases, 90 and 70, for 2 points
    assert "plain" not in printable(comparison([single(95, 80)]))


def test_alarms_of_a_suite_mark_the_rows_of_its_members():
    row, one = single(93, 50, "midre"), suite(93, 50, 60, "midre", alarms=["gradients mislead"])
    found = suites_of_rows([row], [one])
    (told,) = remarks_of_suites([run_of(row)], found).values()
    assert told == ["suite worst_low: gradients mislead"]
    assert remarks_of_suites([run_of(one)], {tuple(run_of(one).row.values()): [one]}) == {
        tuple(run_of(one).row.values()): []  # its own alarms are told already
    }


def test_a_defense_that_says_nothing_of_informed_attackers_is_told():
    mine = {
        "defense": {
            "nosy": {"_target_": "tests.plugins.NosyDefense", "strength": 1},
            "midre": {"_target_": "defenses.MIDRE"},
            "unknown": {"_target_": "nobody.Knows"},
        },
        "runtime": {"trusted_packages": ["tests"]},
    }
    assert silent_parts(mine) == ["nosy"]


def groups(*records):
    return comparison_groups(list(records))[0]


def test_claims_look_at_suites_only_where_they_are_named():
    (group,) = groups(suite(95, 80, 80), suite(93, 50, 60, "midre"))
    assert group.is_of_suites and not Where().holds(group) and not Where(target="vgg16").holds(group)
    assert Where(attack="worst_low").holds(group) and not Where(attack="plgmi").holds(group)
    (plain,) = groups(single(95, 80))
    assert Where().holds(plain)


def test_what_a_suite_varied_is_told_by_the_suite_alone():
    plain, informed = single(93, 50, "midre"), single(93, 60, "midre")
    plain["key"], informed["key"] = "1" * 16, "2" * 16
    found = groups(informed, plain, suite(93, 50, 60, "midre"))
    singles = [d.records for group in found if group.attack == "plgmi" for d in group.defenses]
    assert singles == [(plain,)]


def test_the_gain_of_an_informed_attacker_is_paired_by_identity():
    found = groups(suite(95, 80, 80), suite(93, 50, 58, "midre"), single(93, 50, "midre"))
    (effect,) = InformedGain("MIDRE").effects(found)
    assert effect.value == pytest.approx(8) and "informed 58.00 against plain 50.00" in effect.detail
    assert np.ptp(effect.draws) < 1e-9  # the same identities in every draw
    assert effect.cells is not None and effect.cells.less(0).sum() == pytest.approx(8)
    assert "equal" not in effect.detail and "queries" not in effect.detail
    dear = suite(93, 50, 58, "midre")
    dear["metrics"]["informed_equal"] = 52.5
    (effect,) = InformedGain("MIDRE").effects(groups(suite(95, 80, 80), dear))
    assert "8 times the queries; with an eighth of the steps 52.50" in effect.detail
    (other,) = Difference("MIDRE", "NoDef", "informed").effects(found)
    assert other.value == pytest.approx(58 - 80)


@pytest.mark.parametrize(
    "name", ["informed-gains-little", "survives-informed", "survives-worst-case", "equal-accuracy-worst-case"]
)
def test_the_claims_on_suites_are_registered(name):
    claim = load_claim(name, REPORT_CONF / "claim" / f"{name}.yaml", known_defenses())
    assert claim.scales == ("evidence",) and claim.where.attack is not None
    measured = claim.effects(groups(suite(95, 80, 80), suite(93, 50, 58, "midre")))
    assert bool(measured) == (name != "equal-accuracy-worst-case")  # which needs early stopping


def test_the_figure_has_three_bars_for_each_defense():
    runs = [run_of(one) for one in (suite(95, 80, 80), suite(93, 50, 60, "midre"))]
    with matplotlib.rc_context(LOOK):
        drawn = Attackers().draw(runs, [], {})
        (axes,) = [axes for axes in drawn.figure.axes if axes.get_visible()]
        heights = sorted(bar.get_height() for bar in axes.patches)
    assert heights == [50, 60, 70, 80, 80, 90]
    assert "8 times the queries" in drawn.notes[0] and "an eighth of its steps" not in drawn.notes[0]
    table = drawn.tables[""]
    assert list(table["informed"]) == [80, 60] and (table["informed_low"] < table["informed"]).all()
    for run, value in zip(runs, (80, 55), strict=True):
        run.record["metrics"]["informed_equal"] = value
        run.record["per_identity"]["informed_equal"] = (value + SPREAD).tolist()
    with matplotlib.rc_context(LOOK):
        drawn = Attackers().draw(runs, [], {})
    assert "it finds, in percent, 80.0 of NoDef" in drawn.notes[0] and "55.0 of " in drawn.notes[0]
    assert list(drawn.tables[""]["informed_equal"]) == [80, 55]
    with pytest.raises(ConfigError, match="worst_low or worst_high"):
        Attackers().draw([run_of(single(95, 80))], [], {})
