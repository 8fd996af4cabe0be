"""Config folders of somebody else: what Hydra itself would carry out is refused before it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.config import OWN_CONFIGS
from midre_exp.plan.config_dir import check_command, check_folder

CALL = "{x: {_target_: torch.nn.init.torch.hub.load, repo_or_dir: REPO, model: evil, source: local}}"
GLOBAL = "# @package _global_\n"
EVIL = {
    "callbacks": ("setup/evil.yaml", f"{GLOBAL}hydra:\n  callbacks: {CALL}\n"),
    "callbacks of a package": ("setup/evil.yaml", f"# @package hydra.callbacks\nx: {CALL}\n"),
    "callbacks at the root": ("evil.yaml", f"hydra: {{callbacks: {CALL}}}\n"),
    "a group of callbacks": ("hydra/callbacks/evil.yaml", f"x: {CALL}\n"),
    "chosen callbacks": ("setup/evil.yaml", "defaults: [/hydra/callbacks: evil]\n"),
    "placed callbacks": ("data/evil.yaml", "defaults: ['/thing@hydra.callbacks: x']\n"),
    "placed at the root": ("data/evil.yaml", "defaults: ['/thing@_global_.hydra: x']\n"),
    "a chosen launcher": ("setup/evil.yaml", f"{GLOBAL}defaults: [override /hydra/launcher: mine]\n"),
    "an interpolated group": ("setup/evil.yaml", "defaults: ['/${oc.env:X}: mine']\n"),
    "a launcher's target": ("hydra/launcher/evil.yaml", "_target_: os.system\n"),
    "a launcher elsewhere": ("hydra/launcher/evil.yaml", f"{GLOBAL}hydra: {{job: {{env_set: {{A: b}}}}}}\n"),
    "a sweeper": ("hydra/sweeper/evil.yaml", "_target_: subprocess.run\n"),
    "the environment of jobs": (
        "setup/evil.yaml",
        f"{GLOBAL}hydra: {{job: {{env_set: {{PYTHONPATH: x}}}}}}\n",
    ),
    "a search path": ("setup/evil.yaml", f"{GLOBAL}hydra: {{searchpath: [file:///tmp]}}\n"),
    "trust": ("setup/evil.yaml", f"{GLOBAL}runtime: {{trusted_packages: [os]}}\n"),
    "trust of a package": ("setup/evil.yaml", "# @package runtime\ntrusted_packages: [os]\n"),
}


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", EVIL)
def test_a_folder_carries_nothing_for_hydra(tmp_path, name):
    file, text = EVIL[name]
    folder = write(tmp_path, file, text)
    with pytest.raises(ConfigError, match=rf"{Path(file).name} .*a config folder may not"):
        check_folder(folder, ["my_package"])


def test_a_folder_carries_choices_launchers_and_what_is_trusted(tmp_path):
    write(tmp_path, "setup/mine.yaml", f"{GLOBAL}defaults: [demo, _self_]\nsetup: {{id: mine}}\n")
    write(tmp_path, "data/hydrangea.yaml", "name: hydra\nroot: hydra/data\n")
    write(
        tmp_path, "hydra/launcher/lab.yaml", "defaults: [slurm]\npartition: gpu\nsetup: [module load cuda]\n"
    )
    write(tmp_path, "table/mine.yaml", "title: x\nsweep: ['runtime.trusted_packages=[mine]']\n")
    check_folder(tmp_path, [])
    write(tmp_path, "setup/told.yaml", f"{GLOBAL}hydra: {{callbacks: {{x: {{_target_: mine.Told}}}}}}\n")
    with pytest.raises(ConfigError, match=r"runtime\.trusted_packages=\[mine\]"):
        check_folder(tmp_path, [])
    check_folder(tmp_path, ["mine"])


@pytest.mark.parametrize("flag", ["--config-path=x", "-cn", "--experimental-rerun", "hydra.searchpath=[x]"])
def test_other_ways_to_other_configs_are_refused(flag):
    with pytest.raises(ConfigError, match="by --config-dir"):
        check_command([flag])


@pytest.mark.parametrize("flags", [["--config-dir=mine"], ["-cd", "mine"], []])
def test_callbacks_of_a_folder_never_run(tmp_path, flags):
    repository = write(
        tmp_path / "repo", "hubconf.py", f"open({str(tmp_path / 'ran')!r}, 'w')\ndef evil(): pass\n"
    )
    name, text = EVIL["callbacks"]
    write(tmp_path / "mine", name, text.replace("REPO", str(repository)))
    command = [sys.executable, "-m", "midre_exp", *flags, "setup=evil"]
    environment = os.environ | {"PYTHONPATH": str(Path.cwd())} | ({} if flags else {OWN_CONFIGS: "mine"})
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (sentence,) = done.stderr.splitlines()
    assert "torch.nn.init.torch.hub.load" in sentence and "runtime.trusted_packages" in sentence
    assert not (tmp_path / "ran").exists()
