"""What a config may name, and what it may not, whatever the text looks like."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import sys
import types
from importlib import import_module
from pathlib import Path

import pytest
import torch

import attacks
import defenses
import midre_exp
from midre_exp.attack import Attack
from midre_exp.data import Dataset
from midre_exp.data.transforms import Augmentation, Transform
from midre_exp.defense import Defense
from midre_exp.errors import ConfigError
from midre_exp.metrics import Metric
from midre_exp.plan.config import build
from midre_exp.plan.keys import uses_target
from midre_exp.plan.trust import check_targets, named_class
from midre_exp.priors import Prior
from midre_exp.report.figures.style import Plot
from midre_exp.surrogates import Surrogates
from midre_exp.targets import Classifier
from midre_exp.targets.predict import Step

KINDS = (Attack, Dataset, Defense, Prior, Surrogates, Classifier, Transform, Augmentation, Metric, Plot, Step)
TORCH_KINDS = (torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler)
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", [None, Dataset, Attack, Step, torch.optim.Optimizer])
@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "torch.nn.init.torch.load", "f": "{trace}", "weights_only": False},
        {
            "_target_": "torch.nn.init.torch.hub.load",
            "repo_or_dir": "{trace}",
            "source": "local",
            "model": "x",
        },
        {"_target_": "torch.optim.sgd.torch.load", "f": "{trace}", "weights_only": False},
        {"_target_": "torch.optim.lr_scheduler.partial", "_args_": ["{trace}"]},
        {"_target_": "torch.optim.Optimizer.register_optimizer_step_pre_hook"},
        {"_target_": "midre_exp.store.files.write_atomic", "path": "{trace}", "content": "x"},
        {"_target_": "midre_exp.store.files.write_atomic", "_partial_": True, "path": "{trace}"},
        {"_target_": "midre_exp.store.files.remove_file", "path": "{trace}"},
        {"_target_": "midre_exp.store.files.os.symlink", "src": "/etc/passwd", "dst": "{trace}"},
        {"_target_": "midre_exp.store.files.os.getenv", "key": "HOME"},
        {"_target_": "midre_exp.store.files.Path.touch", "self": "{trace}"},
        {"_target_": "midre_exp.store.store.Store", "root": "{trace}"},
        {"_target_": "midre_exp.plan.config.build", "node": {"_target_": "os.mkdir", "path": "{trace}"}},
        {"_target_": "attacks.build_attack", "name": "gmi"},
        {"_target_": "attacks.GMI.invert"},
        {"_target_": "pytorch_lightning.Trainer", "default_root_dir": "{trace}"},
        {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1},
        {"_target_": "attacks_of_mine.Evil"},
        {"_target_": "attacks..GMI"},
        {"_target_": "attacks.__builtins__.eval", "_args_": ["1"]},
    ],
)
def test_nothing_but_a_part_of_a_run_can_be_built(tmp_path: Path, node, kind):
    trace = tmp_path / "trace"
    node = {
        key: str(trace) if value == "{trace}" else [str(trace)] if value == ["{trace}"] else value
        for key, value in node.items()
    }
    with pytest.raises(ConfigError, match=r"_target_ \S"):
        build(node) if kind is None else build(node, kind=kind)
    with pytest.raises(ConfigError):  # nor anywhere inside of a part
        build({"_target_": "midre_exp.data.transforms.HorizontalFlip", "p": [{"x": node}]})
    assert not trace.exists() and not trace.is_symlink()


def _objects() -> list[tuple[str, object]]:
    """Everything in every module of ours, imported things too, each under the first of its names."""
    found: dict[int, tuple[str, object]] = {}
    for package in (midre_exp, attacks, defenses):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if module.name.endswith("__main__") or "submitit" in module.name:
                continue
            for name, value in vars(import_module(module.name)).items():
                found.setdefault(id(value), (f"{module.name}.{name}", value))
    return list(found.values())


def test_no_function_or_class_outside_of_the_kinds_can_be_named():
    """Of all that our modules hold and import, subclasses of a kind pass, and what is called like one."""
    passed: set[object] = set()
    functions = set()
    for name, value in _objects():
        for kind in (*KINDS, *TORCH_KINDS):
            for partial in ({}, {"_partial_": True}):
                try:
                    check_targets({"_target_": name, **partial}, kind)
                except ConfigError:
                    continue
                passed.add(value)
                if not isinstance(value, type):
                    functions.add(value)
                    assert kind is Step and partial, (name, kind)
    assert {attacks.GMI, defenses.MIDRE, midre_exp.data.SynthFaces, midre_exp.metrics.Fid} <= passed
    subclasses = tuple(kind for kind in (*KINDS, *TORCH_KINDS) if kind is not Step and not _is_protocol(kind))
    for value in passed - functions:
        called = inspect.signature(value.__call__) if not issubclass(value, subclasses) else None
        assert called is None or list(called.parameters) in (
            ["self", "evaluation"],
            ["self", "images"],
            ["self", "x"],
            ["self", "images", "generator"],
            ["self", "logits"],
        ), value
    for function in functions:  # each a function of a tensor to a tensor, called by nobody but the attack
        first, *_ = inspect.signature(function).parameters.values()
        assert first.annotation in ("Tensor", torch.Tensor), function
    dangerous = ("path", "root", "file", "folder", "command", "store")
    assert not [one for one in functions if set(inspect.signature(one).parameters) & {*dangerous}]


def _is_protocol(kind: object) -> bool:
    return bool(getattr(kind, "_is_protocol", False))


def test_a_part_in_the_wrong_place_is_told_by_the_kind_of_the_place():
    with pytest.raises(
        ConfigError, match=r"attacks\.GMI cannot be used here; its place takes .*priors\.Prior"
    ):
        build({"_target_": "attacks.GMI"}, kind=Prior)
    with pytest.raises(ConfigError, match=r"its place takes attacks\.losses\.IdentityLoss"):
        check_targets({"_target_": "attacks.GMI", "identity_loss": {"_target_": "attacks.SAC"}}, Attack)
    with pytest.raises(ConfigError, match=r"7 is no midre_exp\.data\.Dataset; give a node"):
        build(7, kind=Dataset)
    assert named_class("attacks.gmi.GMI", Attack) is attacks.GMI


def test_users_trust_packages_by_name_and_these_alone(tmp_path, monkeypatch):
    (tmp_path / "lent.py").write_text("from shutil import rmtree\nfrom attacks import GMI\nx = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"defined in shutil, .*runtime\.trusted_packages=\[shutil\]"):
        build({"_target_": "lent.rmtree", "path": str(tmp_path)}, trusted=["lent"])
    with pytest.raises(ConfigError, match="neither a class nor a function"):
        build({"_target_": "lent.x"}, trusted=["lent"])
    assert named_class("lent.GMI", Attack, ["lent"]) is attacks.GMI
    with pytest.raises(
        ConfigError, match=r"makes a Counter, which does not derive from midre_exp\.data\.Dataset"
    ):
        monkeypatch.setattr(sys.modules["lent"], "make", _maker("lent"), raising=False)
        build({"_target_": "lent.make"}, kind=Dataset, trusted=["lent"])
    with pytest.raises(ConfigError, match="its place takes"):  # trusting us again opens nothing
        build({"_target_": "midre_exp.store.files.remove_file", "path": "x"}, trusted=["midre_exp"])


def _maker(module: str) -> types.FunctionType:
    def make():
        return __import__("collections").Counter()

    make.__module__ = module
    return make


def test_planning_imports_nothing_that_is_not_trusted(tmp_path, monkeypatch):
    (tmp_path / "foreign_prior.py").write_text("raise SystemExit('was imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"foreign_prior\.P is not allowed"):
        uses_target({"_target_": "foreign_prior.P"})
    assert "foreign_prior" not in sys.modules


def test_every_caller_states_the_kind():
    for folder in ("midre_exp", "attacks", "defenses"):
        for path in (ROOT / folder).rglob("*.py"):
            for call in ast.walk(ast.parse(path.read_text())):
                named = (
                    isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "build"
                )
                if named and "from midre_exp.plan.config import" in path.read_text():
                    assert "kind" in [word.arg for word in call.keywords] or path.name == "run.py", path
