"""What the project's own records say is what stands beside them, byte for byte: as git has both, whatever
runs added in this checkout.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from midre_exp.records import Record, read_records
from midre_exp.report.__main__ import main
from midre_exp.report.claims.decisions import decide_all
from midre_exp.report.claims.definitions import load_claims
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.claims.render import as_json
from midre_exp.report.definitions import load_table
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables import render
from midre_exp.report.tables.publish import write_tables

ROOT, FOLDER = Path(__file__).parents[2], Path("results") / "mini"


@pytest.fixture(scope="module")
def mini(tmp_path_factory) -> Path:
    """The folder as it is committed, or staged to be; as it lies here where there is no git."""
    listed = subprocess.run(["git", "ls-files", "-z", FOLDER], cwd=ROOT, capture_output=True)
    if listed.returncode or not listed.stdout:
        return ROOT / FOLDER
    place = tmp_path_factory.mktemp("committed")
    write = ["git", "checkout-index", "-z", "--stdin", f"--prefix={place}/"]
    subprocess.run(write, cwd=ROOT, input=listed.stdout, check=True)
    return place / FOLDER


@pytest.fixture(scope="module")
def committed(mini) -> list[Record]:
    return read_records(mini).records


@pytest.mark.parametrize(
    "name", ["demo", "defenses", "lowres", "query", "highres", "table1", "table3", "table4", "table5"]
)
def test_a_table_follows_from_its_records(name, mini, committed, tmp_path):
    rows = pd.read_csv(mini / f"{name}.csv")[["setup", "attack", "target", "defense"]].to_dict("records")
    trusted = {"runtime": {"trusted_packages": []}}  # of a planned run; records keep other options of it
    runs = [PlannedRun((), {**record["config"], **trusted}, record) for record in committed]
    shown = [next(run for run in runs if run.row == row) for row in rows]
    definition = load_table(name)
    rendered = render.with_references(render.render_defenses(definition, shown), definition, shown)
    paths = write_tables(rendered, tmp_path, name)
    assert [path.suffix for path in paths] == [".md", ".csv", ".tex"]
    for path in paths:
        assert path.read_bytes() == (mini / path.name).read_bytes(), path.name


def test_the_claims_follow_from_their_records(mini, committed):
    """But for when each was registered, which git knows and not they."""
    decided = decide_all(load_claims("mini"), comparison_groups(committed)[0])
    there = {claim["name"]: claim for claim in json.loads((mini / "claims.json").read_text())["claims"]}
    assert set(there) == {decision.claim.name for decision in decided}
    for decision in decided:
        told, expected = as_json(decision), there[decision.claim.name]
        expected.pop("registered", None)
        assert rounded(told) == rounded(expected), decision.claim.name


def rounded(node: object) -> object:
    """Without what sums in another order change, for a comparison."""
    if isinstance(node, dict):
        return {name: rounded(value) for name, value in node.items()}
    if isinstance(node, list | tuple):
        return [rounded(value) for value in node]
    return round(node, 9) if isinstance(node, float) else node


def test_the_command_renders_committed_records_without_running_anything(mini, tmp_path, monkeypatch, capsys):
    """Needs what ``planned_runs.FORMER_NAMES`` says when an option of the demo's attack is renamed."""
    monkeypatch.setattr("midre_exp.report.__main__.launch", lambda _: pytest.fail("launched"))
    shutil.copytree(mini / "records", tmp_path / "mini" / "records")
    places = [f"paths.results={tmp_path}", f"paths.store={tmp_path / 'nothing'}"]
    assert main(["demo", "--no-run", *places]) == 0
    assert "not run yet" not in capsys.readouterr().out
    for ending in ("md", "csv", "tex"):
        assert (tmp_path / "mini" / f"demo.{ending}").read_bytes() == (mini / f"demo.{ending}").read_bytes()
    assert "<table" in (tmp_path / "mini" / "demo.html").read_text()
