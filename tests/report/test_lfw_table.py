"""make lfw: what it runs, and that none of its files shows a person."""

from __future__ import annotations

import dataclasses

import pytest

from midre_exp.data.readers.fixtures import write_lfw
from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import OWN_CONFIGS
from midre_exp.report.__main__ import jobs_of
from midre_exp.report.definitions import load_table
from midre_exp.report.output import file_stem
from midre_exp.report.runs.planned_runs import plan_runs
from midre_exp.report.tables.render import render_table


@pytest.fixture
def jobs(tmp_path) -> list[list[str]]:
    write_lfw(tmp_path / "lfw", identities=3, images=30, layout="flat")
    places = [f"paths.results={tmp_path / 'results'}", f"paths.store={tmp_path / 'store'}"]
    return jobs_of(load_table("lfw"), ["scale=lfw", f"data.root={tmp_path / 'lfw'}", *places])


def test_every_run_starts_from_public_weights_and_asks_for_a_judge_worth_reading(jobs):
    assert len(jobs) == 24
    with packaged_configs():
        composer = packaged_composer()
        for job in jobs:
            settings = composer.settings(job)
            assert settings["target"]["weights"] == settings["evaluator"]["weights"] == "public"
            assert settings["evaluator"]["floor"] == 85
            assert settings["data"]["private"]["min_images"] == 30
            assert settings["target"]["recipe"] == settings["evaluator"]["recipe"]
            assert file_stem("lfw", settings, with_data=True) == "lfw"


def test_no_file_of_the_table_shows_a_person(jobs, tmp_path):
    definition = load_table("lfw")
    runs = [dataclasses.replace(run, diverged="the loss is not finite") for run in plan_runs(jobs[:2])]
    written = render_table(definition, runs, other_data=False)
    assert [path.name for path in written] == ["lfw.md", "lfw.csv", "lfw.tex"]
    assert sorted((tmp_path / "results").rglob("*.*")) == sorted(written)
    with_page = dataclasses.replace(definition, pictures=True)
    assert "lfw.html" in [path.name for path in render_table(with_page, runs, other_data=False)]


def test_whether_a_table_has_a_page_is_true_or_false(tmp_path, monkeypatch):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "mine.yaml").write_text("title: T\nsweep: [seed=0]\npictures: few\n")
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path))
    with pytest.raises(ConfigError, match="pictures is true or false, not few"):
        load_table("mine")
