from __future__ import annotations

import re
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.compose import expand, packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR
from midre_exp.records import record_path
from midre_exp.report import __main__ as command
from midre_exp.report.definitions import TableDefinition, load_table
from midre_exp.report.runs.defense_names import published_name
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import PlannedRun, disambiguate, plan_runs
from midre_exp.report.runs.published import table_rows
from midre_exp.report.tables.notes import remarks_of
from midre_exp.report.tables.render import render_table
from midre_exp.report.tables.setups import setup_table
from midre_exp.stages import make_plan
from midre_exp.store.files import write_json
from midre_exp.sweep.sweeper import listed_jobs
from tests.conftest import TINY, tiny_overrides
from tests.report.paper_records import record

ROOT = Path(__file__).parents[2]
RESULTS = ("table1", "table3", "table4", "table5")


@pytest.mark.parametrize("table", RESULTS)
def test_a_table_runs_exactly_what_the_paper_prints(table):
    definition = load_table(table)
    assert definition.published == table
    with packaged_configs():
        found = [settings_of([*job, "scale=paper"]) for sweep in definition.sweeps for job in expand(sweep)]
    runs = [(settings["setup"]["id"], published_name(settings["defense"])) for settings in found]
    printed = [(row.setup, row.defense) for row in table_rows(table)]
    assert len(runs) == len(printed) and set(runs) == set(printed)


@pytest.mark.parametrize("scale", ["mini", "synth"])
@pytest.mark.parametrize("setup", ["S13a", "S13b", "S19", "S27", "S29"])
def test_the_setups_of_the_tables_compose_at_the_other_scales_too(setup, scale):
    with packaged_configs():
        assert settings_of([f"setup={setup}", "defense=midre", f"scale={scale}"])["scale"] == scale


def test_table_2_runs_every_setup_undefended_and_defended_and_lomma_in_both_forms():
    ((setups, defenses), (both, wide)) = load_table("table2").sweeps
    assert wide == "defense=midre_wide"
    for name in setups.removeprefix("setup=").split(","):
        ranges = yaml.safe_load((CONF_DIR / "setup" / f"{name}.yaml").read_text())["setup"]["midre_ranges"]
        assert ([0.1, 0.8] in ranges) == (name in both)
    names = setups.removeprefix("setup=").split(",")
    bare = {path.stem for path in (CONF_DIR / "setup").glob("S*.yaml")} - {f"S{n}" for n in range(13, 19)}
    assert names == sorted(bare) and len({name[:3] for name in names}) == 37
    assert defenses == "defense=nodef,midre"


def setup_run(setup, defense, numbers, seed=0):
    """A run of a setup at mini, with accuracy and attack accuracy or, with None, without a record."""
    job = (f"setup={setup}", f"defense={defense}", f"seed={seed}")
    with packaged_configs():
        settings = settings_of(job)
    return PlannedRun(
        job, settings, numbers and record(*numbers, defense, setup=setup) | {"config": settings}
    )


def test_the_table_of_setups_has_a_line_for_each_with_means_over_seeds(tmp_path, capsys):
    runs = [
        setup_run("S13a", "nodef", (90.0, 60.0)),
        setup_run("S13a", "nodef", (94.0, 70.0), seed=1),
        setup_run("S13a", "midre", (88.0, 45.0)),
        setup_run("S34", "nodef", (90.0, 60.0)),
        setup_run("S34", "midre", None),
        setup_run("S34", "midre_wide", None),
    ]
    rows = setup_table(runs)
    assert list(rows.setup) == ["S13a", "S34", "S34"] and list(rows.runs) == [3, 1, 1]
    assert list(rows.MIDRE) == ["[0.1, 0.4]", "[0.1, 0.4]", "[0.1, 0.8]"] and list(rows.acc)[1:] == [90, 90]
    rows = rows.drop_duplicates("setup").set_index("setup")
    assert (rows.attack["S13a"], rows.target["S34"], rows.px["S34"]) == ("LOMMA+GMI", "InceptionV1", 160)
    assert (rows.acc["S13a"], rows.att_acc1["S13a"], rows.delta["S13a"]) == (92.0, 65.0, 5.0)
    assert pd.isna(rows.acc_defended["S34"]) and pd.isna(rows.delta["S34"])

    for run in runs:
        run.settings["paths"]["results"] = str(tmp_path)
    markdown = render_table(load_table("table2"), runs, other_data=False)[0].read_text()
    assert "| 92.00 |" in markdown and "nan" not in markdown and INCONSISTENCIES[21] in markdown
    assert (
        "not run yet: 2 of 6 runs; the first: python -m midre_exp setup=S34 defense=midre"
        in capsys.readouterr().out
    )
    bare = [PlannedRun(run.job, run.settings, None) for run in runs]
    assert (
        "Nothing has been run yet" in render_table(load_table("table2"), bare, other_data=True)[0].read_text()
    )


def test_a_line_of_the_setups_averages_only_seeds():
    twice = [setup_run("S34", "midre", (90.0, 60.0)) for _ in range(2)]
    with pytest.raises(ConfigError, match="let only seed= be swept"):
        setup_table(twice)


@pytest.fixture(scope="module")
def planned_runs(tmp_path_factory):
    """Table 3's first setup with records of NoDef and MIDRE, NLS missing."""
    tmp_path = tmp_path_factory.mktemp("table3")
    fixed = [f"paths.results={tmp_path}", f"paths.store={tmp_path / 'store'}", "runtime.threads=1"]
    small = [text for text in TINY if text.startswith("data.")]
    found = []
    for name, numbers in {"nodef": (90.0, 60.0), "nls": None, "midre": (80.0, 40.0)}.items():
        job = ("setup=S13a", f"defense={name}", *fixed, *small)
        with packaged_configs():
            settings = settings_of(job)
        run = None
        if numbers is not None:
            run = record(*numbers, setup="S13a", attack="lomma_gmi") | {"config": settings}
            run["defense"] = {
                "label": {"nodef": "NoDef", "midre": "MIDRE [0.1, 0.4]"}[name],
                "parts": settings["defense"],
            }
        found.append(PlannedRun(job, settings, run))
    return found


def test_ours_stand_beside_the_papers_with_missing_runs_and_footnotes(planned_runs, capsys):
    written = render_table(load_table("table3"), planned_runs, other_data=False)
    assert [path.name for path in written] == ["table3.md", "table3.csv", "table3.tex", "table3.html"]
    text, csv, tex, html = (path.read_text() for path in written)

    table = pd.read_csv(written[1], index_col="defense")
    assert list(table.index) == ["NoDef", "NLS -0.05", "MIDRE [0.1, 0.4]"]
    assert list(table.paper_acc) == [85.74, 80.02, 79.85]
    assert list(table.paper_att_acc1) == [53.64, 39.16, 26.62]
    assert table.delta["MIDRE [0.1, 0.4]"] == 2.0 and table.paper_delta["MIDRE [0.1, 0.4]"] == 4.59
    assert table.paper_delta_recomputed["MIDRE [0.1, 0.4]"] == pytest.approx(4.588, abs=0.001)
    assert table.seeds["NLS -0.05"] == 0 and pd.isna(table.acc["NLS -0.05"])

    head, _, first, second, third = (
        [planned_run.strip() for planned_run in line.split("|")[1:-1]] for line in text.splitlines()[:5]
    )
    assert head == [
        "Defense", "Acc", "paper Acc", "AttAcc", "95 % from", "to", "paper AttAcc", "paper ±",
        "Δ", "paper Δ", "n", "Notes",
    ]  # fmt: skip
    assert first == ["NoDef", "90.00", "85.74", "60.00", "56.0", "64.0", "53.64", "4.64", "", "", "1500", ""]
    assert second == ["NLS -0.05", "not run", "80.02", "", "", "", "39.16", "4.25", "", "2.53", "", ""]
    assert third[-4:] == ["2.00", "4.59", "1500", "a"]
    for shown in (text, html):
        shown = unescape(shown)
        assert f"a: {INCONSISTENCIES[5]}" in shown and INCONSISTENCIES[31] in shown
        assert "at this scale compare directions" in shown
    assert r"\item {}a: MIDRE" in tex and "paper" in tex and r"$\Delta$" in tex and r"\end{table}" in tex
    out = capsys.readouterr().out
    assert "not run yet: python -m midre_exp setup=S13a defense=nls" in out and "defense=nls" in html
    assert csv.count("\n") == 4


def test_nothing_run_still_shows_the_paper(planned_runs):
    bare = [PlannedRun(planned_run.job, planned_run.settings, None) for planned_run in planned_runs]
    written = render_table(load_table("table3"), bare, other_data=True)
    assert written[0].name == "table3-synthfaces.md"
    text = written[0].read_text()
    assert text.count("not run") == 3 and "26.62" in text and "no run has a record yet" in text
    with pytest.raises(ConfigError, match="table demo has no finished run"):
        render_table(load_table("demo"), bare, other_data=False)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(planned_runs):
    first = planned_runs[2]
    again = PlannedRun((*first.job, "attack.restarts=1"), first.settings, first.record)
    other_seed = PlannedRun((*first.job, "seed=1"), {**first.settings, "seed": 1}, first.record)
    labels = [planned_run.label for planned_run in disambiguate([planned_runs[0], first, again, other_seed])]
    assert labels == [
        "NoDef",
        "MIDRE [0.1, 0.4]",
        "MIDRE [0.1, 0.4] (attack.restarts=1)",
        "MIDRE [0.1, 0.4]",
    ]
    assert [planned_run.label for planned_run in disambiguate([first, other_seed])] == [
        "MIDRE [0.1, 0.4]"
    ] * 2


def test_a_record_is_found_by_key_and_without_the_data_by_its_config(tmp_path, monkeypatch):
    job = ["setup=demo", "defense=midre", *TINY, f"paths.results={tmp_path}"]
    (planned_run,) = plan_runs([job, ["hydra/launcher=joblib", *job]])
    assert (
        planned_run.record is None and planned_run.obstacle is None and "launcher" not in planned_run.command
    )
    with packaged_configs():
        settings = settings_of(job)
    elsewhere = {**settings, "paths": {**settings["paths"], "store": "far away"}, "speed": {}}
    run = record(90, 60, "midre") | {"config": elsewhere}
    write_json(record_path(tmp_path, settings, make_plan(settings)), run)
    assert plan_runs([job])[0].record == run

    def no_data(_):
        raise DataError("not here")

    monkeypatch.setattr("midre_exp.report.runs.planned_runs.make_plan", no_data)
    (found,) = plan_runs([job])
    assert found.record == run and str(found.obstacle) == "not here"
    (other,) = plan_runs([[*job, "attack.steps=4"]])
    assert other.record is None
    (other,) = plan_runs([[*job, "numerics=bf16"]])
    assert other.record == run and other.numerics_note.startswith(
        "Made with numerics float32, deterministic, not bf16, cudnn benchmark, channels last as asked"
    )
    assert remarks_of([other])[tuple(other.row.values())] == [other.numerics_note] and not found.numerics_note


def test_a_damaged_record_counts_as_missing_and_is_named(tmp_path, caplog):
    job = ["setup=demo", *TINY, f"paths.results={tmp_path}"]
    path = plan_runs([job])[0].path
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert plan_runs([job])[0].record is None
    assert path.name in caplog.text


def test_scales_are_never_mixed(tmp_path):
    job = ["setup=demo", f"paths.results={tmp_path}"]
    with pytest.raises(ConfigError, match="one scale, not of mini and synth"):
        plan_runs([[*job, "scale=mini"], [*job, "scale=synth"]])


@pytest.fixture
def two_sweeps(monkeypatch):
    """A table of two sweeps, one run each, in place of every other."""
    definition = TableDefinition("t", "T", (("setup=S19",), ("setup=S19", "defense=midre")), "table3")
    monkeypatch.setattr(command, "load_definition", lambda _: definition)
    return definition


def test_missing_data_is_one_sentence_and_nothing_is_launched(two_sweeps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "launch", lambda _: pytest.fail("launched"))
    assert command.main(["t", "scale=paper", f"paths.results={tmp_path}", f"paths.data={tmp_path}"]) == 2
    assert capsys.readouterr().err.startswith("midre_exp: CelebA is incomplete")


def launched_jobs(words: list[str]) -> list[list[str]]:
    """What a command of the report hands to the sweeper, as the sweeper reads it."""
    (parsed,) = OverridesParser.create().parse_overrides(words[1:2])
    assert parsed.key_or_group == "hydra.sweeper.jobs"
    return listed_jobs(Path(parsed.value()))


@pytest.mark.parametrize("succeeds", [False, True])
def test_what_tables_lack_is_one_sweep_and_what_has_no_run_is_not_rendered(
    two_sweeps, tmp_path, monkeypatch, capsys, succeeds
):
    launched = []

    def launch(words):
        assert words[0] == "-m" and words[2:] == ["hydra/launcher=joblib"]
        launched.extend(launched_jobs(words))
        if succeeds:  # a record of one of the runs
            planned_run = plan_runs(launched[:1])[0]
            write_json(planned_run.path, record(90, 60, setup="S19") | {"config": planned_run.settings})
        return 2

    monkeypatch.setattr(command, "launch", launch)
    small = [text for text in TINY if text.startswith("data.")]
    folder = tmp_path / "it's, [mine]=1"
    places = [f"paths.{name}={command.quoted(str(folder))}" for name in ("results", "store", "runs")]
    overrides = ["scale=mini", *places, *small]
    assert command.main(["t", *overrides, "hydra/launcher=joblib"]) == 2
    assert launched == [[*sweep, *overrides] for sweep in two_sweeps.sweeps]
    assert "2 runs: 0 finished before, 2 to do" in capsys.readouterr().out
    assert (folder / "mini" / "t.md").exists() == succeeds


def test_several_tables_share_their_runs_and_finished_ones_launch_nothing(tmp_path, monkeypatch, capsys):
    tables = {
        "one": TableDefinition("one", "One", (("setup=demo",),)),
        "two": TableDefinition(
            "two", "Two", (("setup=demo", "defense=nodef,midre"), ("setup=demo", "seed=1"))
        ),
    }
    monkeypatch.setattr(command, "load_definition", tables.__getitem__)
    launched = []

    def launch(words):
        launched.append(launched_jobs(words))
        for planned_run in plan_runs(launched[-1]):
            write_json(planned_run.path, record(90, 60, setup="demo") | {"config": planned_run.settings})
        return 0

    monkeypatch.setattr(command, "launch", launch)
    overrides = tiny_overrides(tmp_path)
    assert command.main(["one", "two", *overrides]) == 0
    expected = [["setup=demo"], ["setup=demo", "defense=midre"], ["setup=demo", "seed=1"]]
    assert launched == [[expand([*job, *overrides])[0] for job in expected]]
    assert {path.name for path in (tmp_path / "results" / "mini").glob("*.md")} == {"one.md", "two.md"}
    monkeypatch.setattr("midre_exp.report.runs.planned_runs.is_finished", lambda settings, plan: True)
    assert command.main(["one", "two", *overrides]) == 0
    assert len(launched) == 1 and "3 runs: 3 finished before, 0 to do" in capsys.readouterr().out


def test_a_plan_tells_of_all_tables_and_launches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "launch", lambda _: pytest.fail("launched"))
    overrides = [f"paths.results={tmp_path}", f"paths.store={tmp_path}", "hydra/launcher=joblib"]
    assert command.main(["table3", "fig6", "claims", "--plan", *overrides]) == 0
    out = capsys.readouterr().out
    runs = sum(len(command.jobs_of(command.load_definition(name), ())) for name in ("table3", "fig6"))
    assert f"{runs} runs planned: 0 finished before, 0 repeated, {runs} to do" in out
    assert "surrogates" in out and not (tmp_path / "mini").exists()


def test_tables_come_before_claims_and_something_has_to_be_named(two_sweeps, tmp_path, monkeypatch, capsys):
    done = []
    monkeypatch.setattr(
        command,
        "make",
        lambda names, overrides, launch_missing, **_: done.append((names, overrides, launch_missing)) or 2,
    )
    monkeypatch.setattr(
        "midre_exp.report.claims.render.render_claims", lambda overrides: done.append(overrides)
    )
    assert command.main(["t", "claims", "seed=1", "--no-run", "~data"]) == 2
    assert done == [(["t"], ["seed=1", "~data"], False), ["seed=1", "~data"]]
    assert command.main(["seed=1"]) == 2
    assert "no table is named" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "cannot be read"),
        ("{}", "is no list of jobs"),
        ('["setup=demo"]', "is no list of jobs"),
        (None, "cannot be read"),
    ],
)
def test_a_list_of_jobs_that_is_none_is_named(tmp_path, content, message):
    file = tmp_path / "jobs.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=rf"jobs\.json {message}"):
        listed_jobs(file)


def test_jobs_of_a_file_take_no_further_overrides(tmp_path):
    with pytest.raises(ConfigError, match="seed=1 cannot be added"):
        listed_jobs(tmp_path / "jobs.json", ["seed=1"])


@pytest.mark.parametrize(
    "content, message",
    [
        ({"title": "t", "sweep": ["setup=demo"], "sweeps": []}, "one of sweep, sweeps,"),
        ({"sweep": ["setup=demo"]}, "needs a title"),
        ({"title": "t", "sweep": ["setup=demo"], "footnotes": []}, "it has footnotes"),
        (
            {"title": "t", "sweep": ["setup=demo"], "rows": "runs"},
            "rows is one of defenses, setups, convergence, traits, diagnostics, run, not runs",
        ),
        ({"title": "t", "sweep": ["setup=demo"], "inconsistencies": [77]}, "inconsistency 77"),
    ],
)
def test_a_wrong_definition_is_named(tmp_path, monkeypatch, content, message):
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "mine.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.setattr("midre_exp.report.definitions.REPORT_CONF", tmp_path)
    with pytest.raises(ConfigError, match=message):
        load_table("mine")


def test_an_unknown_table_names_the_known_ones():
    with pytest.raises(ConfigError, match="table1, table2, table3, table4, table5"):
        load_table("table6")


def test_make_has_a_target_for_every_table_and_hands_on_scale_and_launcher():
    makefile = (ROOT / "Makefile").read_text()
    for name in [*(f"table{n}" for n in range(1, 6)), "claims"]:
        assert re.search(rf"^{name}:.*##", makefile, re.M), name
    assert "midre_exp.report $@ scale=$(SCALE) hydra/launcher=$(LAUNCHER) $(ARGS)" in makefile
