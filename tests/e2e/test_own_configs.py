"""A folder of configs and a package of the user's own beside the framework: a run, a plan, a sweep on
workers, a table, the doctor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan import config
from midre_exp.plan.config import OWN_CONFIGS, config_files, own_configs
from midre_exp.targets import build_target
from tests.conftest import tiny_overrides

DEFENSE = """
from midre_exp.defense import Defense

class Nothing(Defense):
    label = "Nothing at all"
"""
FILES = {
    "mine/defense/nothing.yaml": "nothing:\n  _target_: my_package.Nothing\n",
    "mine/setup/mine.yaml": """# @package _global_
defaults:
  - demo
  - _self_
setup:
  id: mine
  title: A setup of one's own
""",
    "mine/table/mine.yaml": """
title: Ours beside nothing
sweep: [setup=mine, "defense=nodef,nothing", "runtime.trusted_packages=[my_package]"]
""",
    "mine/target/vgg16.yaml": "model: not read, because the packaged one wins\n",
    "my_package.py": DEFENSE,
}


@pytest.fixture
def place(tmp_path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def call(place: Path, module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        capture_output=True,
        text=True,
        cwd=place,
        env=os.environ | environment,
    )


@pytest.mark.slow
def test_a_table_of_ones_own_runs_on_workers_and_renders(place):
    done = call(
        place,
        "midre_exp.report",
        "mine",
        "--config-dir",
        "mine",
        "hydra/launcher=joblib",
        *tiny_overrides(place),
    )
    assert done.returncode == 0, done.stderr
    assert "Nothing at all" in (place / "results/mini/mine.md").read_text()
    (record,) = (
        json.loads(path.read_text()) for path in (place / "results/mini/records").glob("mine-nothing-*")
    )
    assert record["defense"]["parts"] == {"nothing": {"_target_": "my_package.Nothing"}}
    done = call(
        place,
        "midre_exp",
        "--plan",
        "setup=mine",
        "defense=nothing",
        "runtime.trusted_packages=[my_package]",
        *tiny_overrides(place),
        MIDRE_CONF="mine",
    )
    assert done.returncode == 0 and "1 finished before" in done.stdout, done.stderr
    done = call(
        place,
        "midre_exp",
        "--config-dir=mine",
        "setup=mine",
        "defense=nothing",
        "runtime.trusted_packages=[my_package]",
        *tiny_overrides(place),
    )
    assert done.returncode == 0 and "nothing to do" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "module, arguments",
    [
        ("midre_exp", ["setup=demo"]),
        ("midre_exp", ["--plan", "setup=demo"]),
        ("midre_exp.report", ["demo", "--no-run"]),
        ("midre_exp.doctor.__main__", ["S27"]),
    ],
)
def test_a_folder_that_is_not_there_is_one_sentence(tmp_path, module, arguments):
    done = call(tmp_path, module, *arguments, "--config-dir", "absent")
    assert done.returncode == 2 and not done.stdout
    (sentence,) = done.stderr.splitlines()
    assert "absent (--config-dir or MIDRE_CONF) is no folder" in sentence


@pytest.mark.parametrize("packaged, own", [("a", "z"), ("z", "a")])
def test_the_packaged_file_wins_wherever_the_folders_lie(tmp_path, monkeypatch, packaged, own):
    for folder in (packaged, own):
        (tmp_path / folder / "target").mkdir(parents=True)
        (tmp_path / folder / "target/vgg16.yaml").touch()
    monkeypatch.setattr(config, "CONF_DIR", tmp_path / packaged)
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path / own))
    assert config_files("target") == {"vgg16": tmp_path / packaged / "target/vgg16.yaml"}


def test_own_files_are_listed_and_never_replace_packaged_ones(place, monkeypatch):
    monkeypatch.setenv(OWN_CONFIGS, str(place / "mine"))
    assert {"nothing", "midre"} <= set(config_files("defense"))
    assert list(config_files("defense")) == sorted(config_files("defense"))
    assert config_files("target")["vgg16"].parent != place / "mine" / "target"
    assert build_target("vgg16", 3, width=0.1).head_name
    monkeypatch.setenv(OWN_CONFIGS, str(place / "my_package.py"))
    with pytest.raises(ConfigError, match="is no folder; correct it"):
        own_configs()
    monkeypatch.setenv(OWN_CONFIGS, "")
    assert own_configs() is None
