"""The README's promises that can be checked cheaply."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

from midre_exp.cards.table import table
from midre_exp.data.base import ImageSet
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build
from midre_exp.run import run
from midre_exp.targets.base import Output
from midre_exp.targets.training.batch import Batch, TrainingProgress

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str, name: str) -> str:
    """The block whose first line is a comment with the path of ``name``."""
    (found,) = re.findall(rf"```{language}\n(# [\w/]*{name}\.\w+\n.*?)```", README, re.S)
    return found


def test_the_defense_of_the_readme_works_as_printed(tmp_path, monkeypatch):
    (tmp_path / "label_smoothing.py").write_text(block("python", "label_smoothing"))
    monkeypatch.syspath_prepend(tmp_path)
    node = yaml.safe_load(block("yaml", "label_smoothing"))["label_smoothing"]
    node["_target_"] = node["_target_"].removeprefix("defenses.")
    defense = build(node, trusted=["label_smoothing"])
    logits, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    batch = Batch(torch.zeros(4, 3, 8, 8), labels, torch.arange(4))
    loss = defense.base_loss(Output(logits, logits), batch, TrainingProgress(0, 1))
    assert loss == pytest.approx(torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1))
    sys.modules.pop("label_smoothing")


def test_the_attack_of_the_readme_works_as_printed(stocked, tmp_path, monkeypatch, tiny):
    (tmp_path / "ascent.py").write_text(block("python", "ascent"))
    monkeypatch.syspath_prepend(tmp_path)
    node = yaml.safe_load(block("yaml", "ascent"))
    assert node.pop("defaults") == [{"prior": "gmi"}, "_self_"]
    settings = tiny("runtime.trusted_packages=[ascent]")
    kept = {name: settings["attack"][name] for name in ("prior", "identities", "restarts", "shard")}
    settings["attack"] = {**node, **kept, "_target_": "ascent.Ascent", "steps": 5}
    record = json.loads(run(settings).read_text())
    assert record["attack"] == "ascent"
    assert record["queries"] == 5 * kept["identities"] * kept["restarts"]
    sys.modules.pop("ascent")


def test_the_notebook_of_the_readme_attacks_a_network_of_ones_own(tmp_path, monkeypatch, capsys):
    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 10)

        def forward(self, images):
            return self.layer(images.mean((2, 3)))

    text = re.sub(r"steps=\d+", "steps=2", block("python", "own_network"))
    assert len(text.splitlines()) <= 18
    monkeypatch.chdir(tmp_path)
    images = torch.randint(256, (32, 3, 32, 32), dtype=torch.uint8)
    public = ImageSet(images, torch.zeros(32, dtype=torch.long), ("anybody",))
    names = {"network": Network(), "evaluator": Network(), "public": public}
    exec(compile(text, "own_network.py", "exec"), names)
    assert names["victim"].queries == 2 * len(names["found"].images) == 2 * 10 * 5
    assert capsys.readouterr().out.startswith("attack accuracy ")


def test_the_table_of_data_sets_is_that_of_the_cards():
    assert table() in README, f"put this into README.md:\n{table()}"


def commands() -> list[str]:
    return re.findall(r"^ {4}python -m midre_exp ([^#\n]+)", README, re.M)


@pytest.mark.parametrize("command", [text.strip() for text in commands()])
def test_every_command_of_the_readme_composes(command):
    words = [word.replace("PATH", "x") for word in shlex.split(command) if not word.startswith("-")]
    single = [re.sub(r"=([\w/]+),.*", r"=\1", word) for word in words if not word.startswith("hydra")]
    with packaged_configs():
        assert settings_of(single)["scale"] == "mini"


def test_every_make_target_and_path_of_the_readme_exists():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:^ {4}|`)make (\w+)", README, re.M):
        assert re.search(rf"^{target}:", makefile, re.M) or target == "PYTHON", target
    for path in re.findall(r"\]\(([\w./]+)\)", README):
        assert (ROOT / path).exists(), path


def test_the_table_of_the_readme_is_the_committed_one():
    table = (ROOT / "results" / "mini" / "demo.md").read_text().split("\n\n")[0]
    assert table in README


def test_the_map_of_the_engine_names_every_file_and_folder_once():
    map_ = (ROOT / "midre_exp" / "README.md").read_text()
    table = "\n".join(line for line in map_.splitlines() if "? |" in line)
    files = re.findall(r"`(\w+)`", re.sub(r"\([^)]*\)", "", table))  # without what is said of them
    assert sorted(files) == sorted(path.stem for path in (ROOT / "midre_exp").glob("[!_]*.py"))
    folders = re.findall(r"^\| `(\w+)/`", map_, re.M)
    assert sorted(folders) == sorted(path.parent.name for path in (ROOT / "midre_exp").glob("*/__init__.py"))
