"""Gain at equal accuracy: the frontier, the column and the figure."""

from __future__ import annotations

from itertools import combinations, product

import matplotlib
import numpy as np
import pytest

from midre_exp.records.claims import REPORT_CONF
from midre_exp.report.claims.decisions import decide_all
from midre_exp.report.claims.definitions import known_defenses, load_claim
from midre_exp.report.claims.frontier import gain_of, interpolated
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.figures import Frontier
from midre_exp.report.figures.labels import text_box
from midre_exp.report.figures.style import LOOK
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.comparison import comparison
from midre_exp.report.tables.gains import printable_gains, with_gain
from tests.report.paper_records import PARTS, record

PARTS["early_stopping"] = {"_target_": "defenses.EarlyStopping", "share": 0.5}


def stopped(acc, att, share, **values):
    return record(acc, att, "early_stopping", share=share, **values)


FRONTIER = [record(96, 80), stopped(90, 60, 0.5), stopped(80, 30, 0.2)]


def gain(*records):
    (group,), _ = comparison_groups([*FRONTIER, *records])
    return gain_of(group, group.with_defense("MIDRE")[0])


def test_interpolation_by_hand():
    acc, att = np.array([[96.0], [80.0], [90.0]]), np.array([[80.0], [30.0], [60.0]])
    expected = {
        96: 80,
        97: 80,
        93: 70,
        90: 60,
        85: 45,
        80: 30,
        75: 15,
        60: 0,
    }
    for at, value in expected.items():
        assert interpolated(acc, att, np.array([float(at)]))[0] == pytest.approx(value), at
    # a point that is more accurate than NoDef does not count
    more = interpolated(np.array([[96.0], [98.0]]), np.array([[80.0], [10.0]]), np.array([97.0]))
    assert more[0] == 80.0


@pytest.mark.parametrize(
    "acc, att, position, value",
    [(93, 50, "within", 20), (93, 75, "within", -5), (98, 50, "above", 30), (70, 10, "below", None)],
)
def test_a_gain_is_read_off_the_frontier(acc, att, position, value):
    found = gain(record(acc, att, "midre"))
    assert found.position == position and found.value == (None if value is None else pytest.approx(value))
    if value is not None:
        low, high = found.interval
        assert low < value < high
        assert f"against {value + att:.2f} of the early-stopping frontier" in found.effect.detail


def test_a_point_of_the_frontier_gains_nothing_and_without_one_nothing_is_gained():
    (group,), _ = comparison_groups(FRONTIER)
    assert all(gain_of(group, defense) is None for defense in group.defenses)
    (alone,), _ = comparison_groups([record(96, 80), record(93, 50, "midre")])
    assert gain_of(alone, alone.with_defense("MIDRE")[0]) is None


def known_by_identity(take):
    """A frontier and MIDRE half way between two of its points, by identity; ``take``: points below it."""
    easy = np.random.default_rng(8).uniform(30, 70, 60)
    right = {96: 48, 90: 45, 93: 46}
    for names, acc, hits, share in (
        ((), 96, easy + 10, {}),
        (("early_stopping",), 90, easy - 10, {"share": 0.5}),
        (("midre",), 93, easy - take, {}),
    ):
        counts = {"right": [right[acc]] * 60, "images": [50] * 60}
        found = record(2.0 * right[acc], float(hits.mean()), *names, by_identity=hits.tolist(), **share)
        yield {**found, "test_per_identity": counts}


def test_gains_are_paired_identity_by_identity():
    (group,), _ = comparison_groups(list(known_by_identity(15)))
    found = gain_of(group, group.with_defense("MIDRE")[0])
    expected = -10 + 20 * 1 / 3 + 15  # 92 % lies a third of the way from 90 to 96
    assert found.value == pytest.approx(expected) and np.allclose(found.effect.draws, expected)
    assert found.effect.cells is not None and found.effect.cells.less(0).sum() == pytest.approx(expected)


def test_a_claim_at_equal_accuracy_is_answered():
    path = REPORT_CONF / "claim" / "equal-accuracy-narrow.yaml"
    claim = load_claim("equal", path, known_defenses())
    (found,) = decide_all([claim], comparison_groups(list(known_by_identity(15)))[0])
    assert found.answer == "supported" and found.corrected_p < 0.001
    (found,) = decide_all([claim], comparison_groups(list(known_by_identity(-15)))[0])
    assert found.answer == "contradicted"


def test_the_column_stands_where_a_group_has_a_frontier():
    arms = [record(96, 80), record(93, 50, "midre"), record(99, 50, "nls"), record(60, 5, "cutmix")]
    table = comparison(arms)
    assert with_gain(table, arms, []) is table
    wide = with_gain(table, arms, FRONTIER[1:])
    texts = printable_gains(wide)
    assert texts[0] == "" and texts[1].startswith("20.0 [") and texts[2].endswith("] above")
    assert texts[3] == "below" and list(wide["gain_at"]) == ["", "within", "above", "below"]


def synthetic():
    """Arms as the figure of scale evidence has them, of made-up numbers."""
    rng = np.random.default_rng(0)
    arms = [
        ((), 97, 0, {}),
        (("early_stopping",), 93, 9, {"share": 0.7}),
        (("early_stopping",), 87, 22, {"share": 0.4}),
        (("early_stopping",), 76, 46, {"share": 0.2}),
        (("midre",), 96, 14, {}),
        (("midre",), 90, 34, {"a_h": 0.8}),
        (("cutmix",), 97.5, -4, {}),
        (("nls",), 96.4, 6, {}),
        (("tldmi",), 95.5, 11, {}),
        (("bido",), 89, 20, {}),
    ]  # fmt: skip
    for attack, target in product(("ppa", "plgmi"), ("resnet18", "ir152")):
        easy = rng.uniform(50, 100, 60)
        for names, acc, take, values in arms:
            for seed in range(3):
                hits = 20 * rng.binomial(5, np.clip(easy - take, 0, 100) / 100)
                right = rng.binomial(20, acc / 100, 60)
                place = {"seed": seed, "attack": attack, "target": target, "setup": "evidence"}
                numbers = 5 * float(right.mean()), float(hits.mean())
                made = record(*numbers, *names, by_identity=hits.tolist(), **place, **values)
                yield {**made, "test_per_identity": {"right": right.tolist(), "images": [20] * 60}}


def test_the_figure_draws_a_panel_for_each_network_and_attack():
    runs = [PlannedRun((), made["config"], made) for made in synthetic()]
    with matplotlib.rc_context(LOOK):
        rendered = Frontier(columns=2).draw(runs, [], {})
    panels = [axes for axes in rendered.figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == [
        "PPA, ResNet-18", "PPA, IR152", "PLG-MI, ResNet-18", "PLG-MI, IR152",
    ]  # fmt: skip
    table = rendered.tables[""]
    assert len(table) == 40 and table["gain"].notna().sum() == 24
    for axes in panels:  # no name lies on another
        boxes = [text_box(text).extents for text in axes.texts]
        assert len(boxes) == 7
        for (x0, y0, x1, y1), (u0, v0, u1, v1) in combinations(boxes, 2):
            assert x1 <= u0 or u1 <= x0 or y1 <= v0 or v1 <= y0
