from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.report import definitions as kinds
from midre_exp.report.__main__ import jobs_of
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.claims.render import render_claims
from midre_exp.report.definitions import TableDefinition, load_figure, load_table
from midre_exp.report.figures.render import render_figure
from midre_exp.report.runs import convergence
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.convergence import points_of, verdict
from midre_exp.report.tables.render import render_table
from midre_exp.store.files import write_json
from tests.report.paper_records import record

TABLE = replace(load_table("convergence"), lengths=(0.5, 1, 1.5))


def arm(
    results: Path, defense: str, epochs: int | None, numbers: tuple[float, float, float] | None, **values: Any
) -> PlannedRun:
    """A run of the table at scale mini after so many epochs (None: its own 18), with train acc, accuracy and
    attack accuracy, or without a record.
    """
    job = ["setup=evidence", f"defense={defense}", f"paths.results={results}"]
    job += [] if epochs is None else [f"target.recipe.epochs={epochs}"]
    with packaged_configs():
        settings = settings_of(job)
    made = None
    if numbers is not None:
        train_acc, acc, att = numbers
        made = record(acc, att, setup="evidence", attack="ppa", target="resnet18", **values)
        label = {"nodef": "NoDef", "midre": "MIDRE [0.1, 0.4]", "early_stopping": "Early stopping 0.5"}
        made["defense"] = {"label": label[defense], "parts": settings["defense"]}
        made["metrics"]["train_acc"] = train_acc
        made["config"] = settings
    return PlannedRun(tuple(job), settings, made)


@pytest.fixture
def runs(tmp_path: Path) -> list[PlannedRun]:
    """Undefended targets that a longer training does not change, and erased ones that it does."""
    nodef = {9: (90.0, 90.0, 60.0), None: (99.0, 95.0, 70.0), 27: (100.0, 95.5, 72.0)}
    midre = {9: (50.0, 80.0, 40.0), None: (80.0, 90.0, 50.0), 27: (90.0, 93.0, 51.0)}
    return [
        arm(tmp_path, defense, epochs, numbers)
        for defense, all_of in (("nodef", nodef), ("midre", midre))
        for epochs, numbers in all_of.items()
    ]


def test_each_run_of_the_table_is_trained_for_every_length_of_its_own_recipe() -> None:
    narrow = TableDefinition("t", "T", (("setup=evidence", "defense=nodef"),), lengths=(0.25, 1.0, 1.5))
    jobs = jobs_of(narrow, ["target=resnet18,ir152", "target.recipe.epochs=10", "hydra/launcher=joblib"])
    assert [job[-1] for job in jobs] == 2 * [
        "target.recipe.epochs=2", "hydra/launcher=joblib", "target.recipe.epochs=15"
    ]  # fmt: skip
    assert jobs_of(TableDefinition("t", "T", (("setup=evidence",),)), []) == [["setup=evidence"]]


def test_an_arm_has_converged_when_half_as_many_epochs_again_stay_within_its_intervals(runs) -> None:
    nodef, midre = points_of(runs, TABLE.lengths).values()
    assert [(point.length, point.epochs) for point in nodef] == [(0.5, 9), (1.0, 18), (1.5, 27)]
    assert verdict(nodef) == ("converged", [])
    low, high = midre[1].intervals["acc"]
    assert verdict(midre) == ("not converged", ["acc"]) and not low <= 93.0 <= high
    assert verdict(nodef[:2]) == ("not tested", []) == verdict(nodef[2:])


def test_the_table_its_verdicts_and_its_figure_are_written_and_other_tables_read_them(
    runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convergence.verdicts(tmp_path / "mini") == {}
    demo = [run for run in runs if "target.recipe.epochs" not in " ".join(run.job)]
    before = render_table(load_table("demo"), demo, other_data=False)[0].read_text()
    assert convergence.NOT_MEASURED in before and convergence.UNCONVERGED not in before
    assert f"1: {convergence.UNDERFITTED}" in before and " train acc |" in before

    written = render_table(TABLE, runs, other_data=False)
    assert [path.name for path in written] == [
        "convergence.md", "convergence.csv", "convergence.tex", "convergence.html", "convergence.json"
    ]  # fmt: skip
    text = written[0].read_text()
    assert "ResNet-18: long enough for 1 of 2 arms; not converged: MIDRE [0.1, 0.4]." in text
    table = pd.read_csv(written[1])
    assert list(table[table.length == 1].verdict) == ["converged", "not converged"]
    assert list(table.train_acc) == [90, 99, 100, 50, 80, 90]
    kept = json.loads(written[-1].read_text())
    assert [row["verdict"] for row in kept["trainings"]] == ["converged", "not converged"]

    after = render_table(load_table("demo"), demo, other_data=False)
    csv = pd.read_csv(after[1], index_col="defense")
    assert pd.isna(csv.notes["NoDef"]) and convergence.UNCONVERGED in csv.notes["MIDRE [0.1, 0.4]"]
    for path in after:
        text = path.read_text()
        assert convergence.NOT_MEASURED not in text and "half as many epochs again" in text

    for number, run in enumerate(demo):
        write_json(tmp_path / "mini" / "records" / f"{number}.json", run.record)
    claims = render_claims([f"paths.results={tmp_path}"])[0].read_text()
    assert f"MIDRE [0.1, 0.4]{convergence.MARK}" in claims
    assert (
        "Trainings too short by the rule of the table convergence: MIDRE [0.1, 0.4] of ResNet-18." in claims
    )

    curves = load_figure("lengths")
    curves = replace(curves, lengths=TABLE.lengths, draw={**curves.draw, "lengths": TABLE.lengths})
    figure = render_figure(curves, runs, other_data=False)
    points = pd.read_csv(tmp_path / "mini" / "lengths.csv")
    assert len(points) == 6 and (tmp_path / "mini" / "lengths.png") in figure


def test_whose_target_stopped_early_is_not_marked_and_who_was_not_tested_is(runs, tmp_path: Path) -> None:
    render_table(TABLE, runs, other_data=False)
    known = convergence.verdicts(tmp_path / "mini")
    stopped = arm(tmp_path, "early_stopping", None, (60.0, 80.0, 40.0)).record
    other = arm(tmp_path, "nodef", 5, (96.0, 80.0, 40.0)).record
    assert convergence.doubts([stopped], known) == []
    assert convergence.doubts([other], known) == [convergence.UNTESTED]
    (group, *_), _ = comparison_groups([stopped])
    assert group.defenses[0].shown == "Early stopping 0.5"


def test_the_mean_over_seeds_must_fit_what_it_was_shown(tmp_path: Path) -> None:
    pair = [arm(tmp_path, "midre", None, (fit, 90.0, 50.0)).record for fit in (96.0, 93.0)]
    assert convergence.fit_of(pair) == 94.5 and convergence.underfits(pair)
    mixed = record(90, 60, "cutmix")
    mixed["metrics"]["train_acc"] = 80.0
    assert not convergence.underfits([mixed]) and convergence.doubts([mixed], {}) == [convergence.MIXED]
    published = record(90, 60)
    assert convergence.fit_of([published]) is None and convergence.doubts([published], {}) == []
    assert convergence.told_once([published], {}) == ""


def test_a_file_of_verdicts_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "convergence.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"convergence.json holds no verdicts on trainings; delete it"):
        convergence.verdicts(tmp_path)


@pytest.mark.parametrize("lengths", ["[1, -2]", "long", "[0.5, 1]"])
def test_lengths_that_are_none_or_leave_the_rule_out_are_refused(
    lengths: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"title: T\nrows: convergence\nlengths: {lengths}\nsweep: [setup=evidence]\n")
    monkeypatch.setattr(kinds, "definitions", lambda kind: {"mine": path} if kind == "table" else {})
    with pytest.raises(ConfigError, match="lengths"):
        load_table("mine")
