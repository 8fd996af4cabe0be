"""The README is a front door: short, and what it says is so."""

from __future__ import annotations

import re
from pathlib import Path

from docs import methods

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_is_a_front_door():
    assert len(README.splitlines()) <= 150
    assert max(len(line) for line in README.splitlines() if not line.startswith("|")) <= 120


def test_the_table_of_methods_is_that_of_their_pages():
    assert methods.table() in README, f"put this into README.md:\n{methods.table()}"


def test_the_table_of_the_readme_is_the_committed_one():
    table = (ROOT / "results" / "mini" / "demo.md").read_text().split("\n\n")[0]
    assert table in README
    assert table in (ROOT / "docs" / "getting_started.md").read_text()


def test_continuous_integration_calls_the_test_command_of_the_readme():
    (command,) = re.findall(r"^make .*$", (ROOT / ".ci" / "run").read_text(), re.M)
    assert re.search(rf"^ {{4}}{command}  ", README, re.M)


def test_the_map_of_the_engine_names_every_file_and_folder_once():
    map_ = (ROOT / "midre_exp" / "README.md").read_text()
    table = "\n".join(line for line in map_.splitlines() if "? |" in line)
    files = re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", table))  # without what is said of them
    assert sorted(files) == sorted(path.stem for path in (ROOT / "midre_exp").glob("[!_]*.py"))
    folders = re.findall(r"^\| `(\w+)/`", map_, re.M)
    assert sorted(folders) == sorted(path.parent.name for path in (ROOT / "midre_exp").glob("*/__init__.py"))
