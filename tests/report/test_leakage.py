"""Leakage over robust accuracy: the line, what lies off it, and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest

from midre_exp.errors import ConfigError
from midre_exp.records.claims import REPORT_CONF
from midre_exp.report.claims.decisions import decide
from midre_exp.report.claims.definitions import known_defenses, load_claim
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.claims.leakage_line import arms_of, line_draws, off_the_line, slope
from midre_exp.report.figures import Leakage
from midre_exp.report.figures.style import LOOK
from midre_exp.report.runs.planned_runs import PlannedRun
from tests.report.paper_records import PARTS, record

PARTS["early_stopping"] = {"_target_": "defenses.EarlyStopping", "share": 0.5}


def arm(robust: float, att: float, *names: str, acc: float = 95.0, **values: Any) -> dict[str, Any]:
    """One record of an arm whose target was diagnosed, robust accuracy known to half a point."""
    made = record(acc, att, *names, **values)
    told = {"robust_area": robust, "robust_area_low": robust - 0.5, "robust_area_high": robust + 0.5}
    return {**made, "metrics": {**made["metrics"], **told}}


LINE = [arm(40, 60), arm(20, 40, "nls"), arm(60, 80, "cutmix")]  # attack accuracy = 20 + robust accuracy


def group_of(*records: dict[str, Any]) -> Any:
    (group,), _ = comparison_groups(list(records))
    return group


def test_the_slope_is_that_of_least_squares_and_says_how_sure_it_is() -> None:
    found = slope(group_of(*LINE), "nothing")
    assert found is not None and found.value == pytest.approx(1) and "rank correlation 1.00" in found.detail
    low, high = np.quantile(found.draws, [0.025, 0.975])
    assert low < 1 < high and high - low < 0.6
    rng = np.random.default_rng(0)
    x, y = rng.uniform(0, 90, 6), rng.uniform(0, 100, 6)
    names = [(), ("nls",), ("cutmix",), ("midre",), ("bido",), ("tldmi",)]
    group = group_of(*(arm(a, b, *name) for a, b, name in zip(x, y, names, strict=True)))
    found = slope(group, "nothing")
    assert found is not None and found.value == pytest.approx(np.polyfit(x, y, 1)[0])
    for at, draw in ((0, 17), (1, 3999)):
        drawn_x, drawn_y = (
            [group.draws(each, name)[draw] for each in arms_of(group)] for name in ("robust_area", "att_acc1")
        )
        assert found.draws[draw] == pytest.approx(np.polyfit(drawn_x, drawn_y, 1)[0]), at


def test_with_accuracy_held_only_what_it_does_not_explain_counts() -> None:
    points = [(30, 75), (50, 92), (20, 70), (60, 90), (45, 95)]  # robust, accuracy
    names = [(), ("nls",), ("cutmix",), ("midre",), ("bido",)]

    def made(*numbers: tuple[float, float]) -> Any:
        return group_of(
            *(
                arm(robust, 0.2 * robust + 0.5 * acc, *name, acc=acc)
                for (robust, acc), name in zip(numbers, names, strict=False)
            )
        )

    found = slope(made(*points), "accuracy")
    assert found is not None and found.value == pytest.approx(0.2)
    plain = slope(made(*points), "nothing")
    assert plain is not None and abs(plain.value - 0.2) > 0.05
    assert slope(made(*points[:3]), "accuracy") is None  # three arms fix three numbers exactly


def test_there_is_no_line_through_two_arms_or_through_arms_of_one_robustness() -> None:
    assert slope(group_of(*LINE[:2]), "nothing") is None
    same = [arm(40, 60), arm(40, 50, "nls"), arm(40, 70, "cutmix")]
    assert slope(group_of(*same), "nothing") is None and line_draws(group_of(*same), np.array([1.0])) is None
    assert slope(group_of(record(95, 60), *LINE[1:]), "nothing") is None  # NoDef was not diagnosed


def test_stopped_and_deployed_arms_are_none() -> None:
    stopped, deployed = arm(1, 99, "early_stopping"), {**arm(1, 99, "bido"), "deployment": {}}
    group = group_of(*LINE, stopped, deployed)
    assert [each.label for each in arms_of(group)] == ["NoDef", "nls", "cutmix"]
    found = slope(group, "nothing")
    assert found is not None and found.value == pytest.approx(1)


@pytest.mark.parametrize("att", [30.0, 50.0, 70.0])
def test_what_lies_off_the_line_is_told_in_points(att: float) -> None:
    group = group_of(*LINE, arm(30, att, "midre"))
    found = off_the_line(group, group.with_defense("MIDRE")[0])
    assert found is not None and found.value == pytest.approx(att - 50)
    assert "against 50.00 of the line through 3 other arms" in found.detail
    low, high = np.quantile(found.draws, [0.025, 0.975])
    assert low < att - 50 < high
    both = group_of(*LINE, arm(30, att, "midre"), arm(10, 0, "midre", a_h=0.8))
    again = off_the_line(both, both.with_defense("MIDRE")[0])
    assert again is not None and again.value == pytest.approx(att - 50)  # another range is no other arm
    assert off_the_line(group_of(*LINE[:2], arm(30, att, "midre")), group.with_defense("MIDRE")[0]) is None


def test_by_identity_both_are_sums_over_identities() -> None:
    easy = np.random.default_rng(1).uniform(0, 60, 40)

    def known(robust: float, add: float, *names: str) -> dict[str, Any]:
        hits = easy + add
        return arm(robust, float(hits.mean()), *names, by_identity=hits.tolist())

    group = group_of(known(40, 20), known(20, 0, "nls"), known(60, 40, "cutmix"), known(30, 0, "midre"))
    found = slope(group, "nothing")
    off = off_the_line(group, group.with_defense("MIDRE")[0])
    for effect in (found, off):
        assert effect is not None and effect.cells is not None
        assert effect.cells.less(0).sum() == pytest.approx(effect.value)
    assert off is not None and off.value == pytest.approx(-10)


def claim(name: str) -> Any:
    return load_claim(name, REPORT_CONF / "claim" / f"{name}.yaml", known_defenses())


@pytest.mark.parametrize(
    ("name", "sign", "answer"),
    [
        ("leakage-follows-robustness", 1, "supported"),
        ("leakage-follows-robustness", -1, "contradicted"),
    ],
)
def test_whether_leakage_follows_robustness_is_answered(name: str, sign: int, answer: str) -> None:
    arms = [arm(40, 50), arm(10, 50 - 30 * sign, "nls"), arm(70, 50 + 30 * sign, "cutmix")]
    assert decide(claim(name), [group_of(*arms)]).answer == answer
    assert decide(claim(name), [group_of(*arms[:2])]).answer == "not measured"


@pytest.mark.parametrize(("att", "answer"), [(30, "supported"), (50, "undecided"), (70, "contradicted")])
def test_whether_midre_lies_on_the_line_is_answered(att: float, answer: str) -> None:
    group = group_of(*LINE, arm(30, att, "midre"))
    assert decide(claim("midre-off-the-line"), [group]).answer == answer


@pytest.mark.parametrize(("robust", "answer"), [(30, "supported"), (40, "undecided"), (50, "contradicted")])
def test_robust_accuracies_are_compared_by_their_own_intervals(robust: float, answer: str) -> None:
    group = group_of(*LINE, arm(robust, 50, "midre"))
    found = decide(claim("erasing-lowers-robustness"), [group])
    assert found.answer == answer
    assert found.overall.low is not None and found.overall.value is not None
    assert found.overall.value - found.overall.low == pytest.approx(0.5 * 2**0.5, abs=0.05)


def test_a_positive_factor_is_no_nls() -> None:
    group = group_of(record(95, 60), record(95, 70, "nls", alpha=0.1), record(95, 50, "nls"))
    found = decide(claim("label-smoothing-leaks"), [group])
    assert found.answer == "supported" and found.overall.value == pytest.approx(10)


def test_the_figure_draws_line_slope_and_what_is_left_out(tmp_path: Path) -> None:
    records = [*LINE, arm(30, 20, "midre"), arm(5, 5, "early_stopping"), record(95, 40, "bido")]
    other = [{**arm(40, 60, attack="ppa")}, arm(20, 40, "nls", attack="ppa")]
    runs = [PlannedRun((), made["config"], made) for made in [*records, *other]]
    with matplotlib.rc_context(LOOK):
        rendered = Leakage(columns=2).draw(runs, [], {})
    first, second = (axes.get_title(loc="left") for axes in rendered.figure.axes if axes.get_visible())
    assert first.startswith("PLG-MI, VGG16: ") and "[" in first and second == "PPA, VGG16: no line"
    table = rendered.tables[""].set_index("defense")
    assert len(table) == 6 and table.loc["midre", "off_the_line"] == pytest.approx(-30)
    assert np.isnan(table.loc["NoDef", "off_the_line"].iloc[1])
    assert "2 arms are not shown" in rendered.notes[1]
    with pytest.raises(ConfigError, match="figure leakage has no finished run with diagnostics yet"):
        Leakage().draw([PlannedRun((), made["config"], made) for made in (record(95, 40),)], [], {})
