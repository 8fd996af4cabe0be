"""A user's own metric in a column of a table, on demand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from midre_exp.errors import ConfigError
from midre_exp.report.__main__ import main
from midre_exp.report.definitions import load_table
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.render import render_defenses
from tests.report.test_what_is_written import planned


def scored() -> list[PlannedRun]:
    """NoDef of two seeds and MIDRE, with a number of a metric that is not ours."""
    runs = [planned("nodef", (90.0, 60.0), seed=seed) for seed in (0, 1)] + [planned("midre", (88.0, 40.0))]
    for run, score in zip(runs, (0.001234567, 0.003, 1234.5), strict=True):
        run.record["metrics"]["my_score"] = score
    return runs


def test_an_own_metric_is_a_column_where_it_is_asked_for():
    demo = load_table("table3")
    assert "my_score" not in render_defenses(demo, scored()).shown
    table = render_defenses(replace(demo, metrics=("my_score", "att_acc1")), scored())
    assert list(table.shown["my_score"]) == ["0.002117", "1234"]  # the mean over seeds
    assert list(table.values["my_score"]) == pytest.approx([0.0021172835, 1234.5])
    assert list(table.shown).count("AttAcc") == 1 and "att_acc1" not in table.shown  # ours has its heading


def test_what_the_attackers_stages_took_is_a_column_where_it_is_asked_for():
    runs = scored()
    for run, prior in zip(runs, (10.0, 30.0, 5.0), strict=True):
        rounds = {"attack.round1": 1.0, "tuned_prior.round1": 2.0, "attack": 4.0}
        run.record["seconds"] = {"target": 100.0, "evaluator": 100.0, "prior": prior, **rounds}
    assert "attacker_seconds" not in render_defenses(load_table("table3"), runs).shown
    table = render_defenses(replace(load_table("table3"), metrics=("attacker_seconds",)), runs)
    assert list(table.values["attacker_seconds"]) == pytest.approx([27, 12])


def test_a_metric_that_no_record_has_is_refused_with_those_there_are():
    demo = replace(load_table("table3"), metrics=("my_scor",))
    with pytest.raises(ConfigError, match=r"no record has a metric my_scor; they have .*my_score"):
        render_defenses(demo, scored())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["fig2", "--metrics", "my_score"], "fig2 is a figure; --metrics and --columns go with tables"),
        (["table2", "--metrics", "my_score"], "--metrics goes with tables of defenses"),
    ],
)
def test_what_shows_no_metrics_says_so_before_anything_runs(words, told, capsys):
    assert main(words) == 2 and told in capsys.readouterr().err
