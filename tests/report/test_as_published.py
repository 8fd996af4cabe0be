"""Published numbers stand beside the like of ours: official columns, marks and footnotes."""

from __future__ import annotations

from functools import cache

import pandas as pd
import pytest

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build
from midre_exp.report.definitions import load_figure, load_table
from midre_exp.report.runs.as_published import like_published, official_value
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import table_rows
from midre_exp.report.tables.render import OFFICIAL_COLUMNS, render_defenses
from tests.report.paper_records import record


@cache
def settings(*job: str) -> dict:
    with packaged_configs():
        return settings_of([*job])


def run(
    setup: str, defense: str, acc: float | None, att: float, *, scale: str = "mini", **metrics
) -> PlannedRun:
    """A run of a setup with a record of these numbers; ``acc`` None: without."""
    job = (f"setup={setup}", f"defense={defense}", f"scale={scale}")
    chosen = settings(*job)
    if acc is None:
        return PlannedRun(job, chosen, None)
    names = () if defense == "nodef" else (defense,)
    made = record(
        acc, att, *names, setup=setup, attack=chosen["attack"]["name"], target=chosen["target"]["name"]
    )
    made |= {"config": chosen, "scale": scale}
    made["metrics"] |= metrics
    made["defense"] = {"label": PlannedRun(job, chosen, None).label, "parts": chosen["defense"]}
    return PlannedRun(job, chosen, made)


def columns(name: str, runs: list[PlannedRun]) -> tuple[pd.DataFrame, str, list[str]]:
    rendered = render_defenses(load_table(name), runs)
    return rendered.shown.set_index("Defense"), rendered.caption, list(rendered.notes)


BEST = "accuracy_best_epoch_official"


def test_a_table_puts_the_best_epoch_beside_what_the_paper_prints():
    shown, caption, notes = columns(
        "table3",
        [
            run("S13a", "nodef", 86.0, 60.0, **{BEST: 88.0}),
            run("S13a", "nls", None, 0),
            run("S13a", "midre", 81.0, 40.0, **{BEST: 83.0}),
        ],
    )
    heads = list(shown.columns)
    assert heads[heads.index("official Acc") - 1] == "Acc"
    assert heads[heads.index("official Acc") + 1] == "paper Acc"
    assert list(shown["official Acc"]) == ["88.00", "", "83.00"]
    assert "official AttAcc" not in heads  # ours is what LOMMA prints
    assert list(shown["Δ"]) == ["", "", "4.00"] and list(shown["official Δ"]) == ["", "", "4.00"]
    assert OFFICIAL_COLUMNS in caption
    assert notes[0].startswith(f"official Acc (S13a; {BEST}): the accuracy of the epoch that is best")


def test_a_record_without_an_official_number_is_told_to_lack_it_and_gives_no_official_delta():
    shown, _, _ = columns(
        "table3", [run("S13a", "nodef", 86.0, 60.0, **{BEST: 88.0}), run("S13a", "midre", 81.0, 40.0)]
    )
    assert list(shown["official Acc"]) == ["88.00", "not measured"] and list(shown["official Δ"]) == ["", ""]


@pytest.mark.parametrize(("scale", "there"), [("mini", False), ("paper", True)])
def test_where_no_record_has_one_there_is_a_column_at_the_papers_scale_alone(scale, there):
    shown, caption, notes = columns("table4", [run("S27", "nodef", 97.0, 80.0, scale=scale)])
    assert ("official AttAcc" in shown) is there and (OFFICIAL_COLUMNS in caption) is there
    if there:
        assert list(shown["official AttAcc"]) == ["not measured"]
        assert "att_acc1_rebuilt_official" in notes[0] and "input transform" in notes[0]
        assert "official Acc" not in shown  # PPA's targets are of the last epoch, as ours


def test_a_table_of_two_families_has_our_own_number_where_the_official_program_prints_it():
    shown, _, notes = columns(
        "table5",
        [
            run("S29", "nodef", 96.0, 80.0, att_acc1_rebuilt_official=70.0),
            run("S13b", "nodef", 86.0, 60.0, **{BEST: 88.0}),
        ],
    )
    assert list(shown["official Acc"]) == ["96.00", "88.00"]
    assert list(shown["official AttAcc"]) == ["70.00", "60.00"]
    assert len([note for note in notes if note.startswith("official")]) == 2


@pytest.mark.parametrize(
    ("override", "metric", "names"),
    [
        ("setup=S36", "att_acc1", ("att_acc1_best_stage_rebuilt_official", "att_acc1_best_stage_official")),
        ("setup=S27", "att_acc1", ("att_acc1_rebuilt_official",)),
        ("setup=S33", "att_acc1", ("att_acc1_rebuilt_official",)),
        ("setup=S34", "att_acc1", None),
        ("setup=S19", "att_acc1", None),
        ("setup=S19", "acc", (BEST,)),
        ("setup=S27", "acc", None),
    ],
)
def test_what_a_published_number_is_like(override, metric, names):
    like = like_published(settings(override, "scale=paper"), metric)
    assert (like and like.names) == names


def test_a_run_that_selects_as_the_official_program_or_rebuilds_nothing_is_like_it_itself():
    chosen = settings("setup=S19", "target.recipe.select=best_test")
    assert like_published(chosen, "acc") is None
    chosen = settings("setup=S27", "evaluator.model.transform_input=false")
    assert like_published(chosen, "att_acc1") is None


def test_seeds_are_averaged_only_if_all_have_the_number():
    one, other = (run("S13a", "nodef", 80.0, 50.0, **{BEST: best}).record for best in (90.0, 80.0))
    bare = run("S13a", "nodef", 80.0, 50.0).record
    assert official_value([one, other], "acc") == 85.0
    assert official_value([one, bare], "acc") is None
    assert official_value([one, bare], "att_acc1") == 50.0


BEST_STAGE = "att_acc1_best_stage_official"


def figure(name: str, runs: list[PlannedRun]):
    definition = load_figure(name)
    rows = [row for table in definition.published for row in table_rows(table)]
    return build(definition.draw).draw(runs, rows, {})


def crosses(drawing) -> list[list[tuple[float, float]]]:
    return [
        [tuple(point) for line in axes.get_lines() if line.get_marker() == "+" for point in line.get_xydata()]
        for axes in drawing.figure.axes
    ]


def test_figure_7_puts_the_best_stage_beside_the_papers_drop_and_says_so():
    drawing = figure(
        "fig7",
        [
            run("S36", "nodef", 95.0, 60.0, **{BEST_STAGE: 70.0}),
            run("S36", "midre", 94.0, 30.0, **{BEST_STAGE: 45.0}),
            run("S37", "nodef", 95.0, 60.0),
        ],
    )
    acc, attacked, change = crosses(drawing)
    assert acc == [] and [y for _, y in attacked] == [70.0, 45.0] and [y for _, y in change] == [-25.0]
    (told,) = [note for note in drawing.notes if "Official attack accuracy" in note]
    assert "stage that the evaluator likes best" in told and told.endswith("It was not measured in S37.")
    table = drawing.tables[""]
    assert list(table["att_acc1_official"].dropna()) == [70.0, 45.0]
    assert "ours, as the official program prints" in [
        t.get_text() for t in drawing.figure.legends[0].get_texts()
    ]


@pytest.mark.parametrize("name", ["fig5", "fig2", "fig7"])
def test_figures_of_records_that_have_none_are_as_they_were(name):
    setup = "S36" if name == "fig7" else "S27"
    drawing = figure(name, [run(setup, "nodef", 95.0, 60.0)])
    assert not any(crosses(drawing)) and not any("official" in note for note in drawing.notes)
    assert not any("official" in column for column in drawing.tables[""].columns)


@pytest.mark.parametrize("name", ["fig5", "fig2"])
def test_a_point_of_ppa_has_the_rebuilt_judges_beside_it(name):
    drawing = figure(name, [run("S27", "nodef", 95.0, 60.0, att_acc1_rebuilt_official=50.0)])
    (found,) = [points for points in crosses(drawing) if points]
    assert found == [(95.0 if name == "fig5" else 0.0, 50.0)]
    assert any("input transform" in note for note in drawing.notes)
