"""A plugin is the same wherever its class lies."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import attacks
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.public_names import by_public_name, public_names
from midre_exp.stages import make_plan
from tests import ready

ROOT = Path(attacks.__file__).parents[1]
PLAN = """
import json
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.stages import make_plan
import attacks
for named in ([], ["attack._target_=attacks.moved.BREPMI"]):
    with packaged_configs():
        settings = settings_of(["attack=brepmi", *named])
    keys = {stage.name: stage.key for stage in make_plan(settings).stages.values()}
    print(json.dumps([attacks.BREPMI.__module__, keys]))
"""


def test_a_class_that_moves_to_another_module_changes_no_stage_key(tmp_path):
    with packaged_configs():
        settings = settings_of(["attack=brepmi"])
    before = {stage.name: stage.key for stage in make_plan(settings).stages.values()}
    shutil.copytree(ROOT / "attacks", tmp_path / "attacks")
    (tmp_path / "attacks" / "brepmi.py").rename(tmp_path / "attacks" / "moved.py")
    stub = tmp_path / "attacks" / "__init__.pyi"
    stub.write_text(stub.read_text().replace("from .brepmi import", "from .moved import"))
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = ready.run(["-c", PLAN], cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    packaged, named = map(json.loads, done.stdout.splitlines())
    assert packaged == named == ["attacks.moved", before]


@pytest.mark.parametrize(
    ("written", "public"),
    [
        ("attacks.gmi.GMI", "attacks.GMI"),
        ("attacks.GMI", "attacks.GMI"),
        ("torch.optim.Adam", "torch.optim.Adam"),
        ("my_package.Mine", "my_package.Mine"),
    ],
)
def test_a_class_is_keyed_by_its_public_name_at_any_depth(written, public):
    node = {"a": [{"_target_": written, "name": written}]}
    assert by_public_name(node) == {"a": [{"_target_": public, "name": written}]}


def test_no_two_classes_share_a_public_name():
    names = list(public_names().values())
    assert len(names) > 50 and len(set(names)) == len(names)
