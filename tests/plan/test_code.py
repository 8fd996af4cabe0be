"""What counts as the code of a class: told from files, without importing any."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from midre_exp.plan import code
from midre_exp.plan.code import Sources, own_names
from midre_exp.plan.source import normalised
from midre_exp.stages import make_plan


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """``lab(files)`` writes modules of one's own and gives what tells the digest of a dotted name in them."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(files: dict[str, str]):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(textwrap.dedent(text))

        def digest(name: str) -> str:
            found = Sources().own_code({"_target_": name}, [name.split(".")[0]])
            return found[name]

        return digest

    write.folder = tmp_path
    return write


def files_of(name: str, *trusted: str) -> set[str]:
    return set(Sources().own([name], trusted or [name.split(".")[0]]))


def test_comments_docstrings_and_layout_do_not_count():
    one = normalised('"""Old."""\ndef f(a):\n    """Twice."""\n    return 2 * a\n')
    assert one == normalised("# why\ndef f(a):\n\n    return (2 *\n        a)  # twice\n")
    assert one != normalised("def f(a):\n    return 3 * a\n")
    assert normalised("x = [[], 1]") != normalised("x = [1]")


def test_a_single_file_counts_and_what_it_imports_of_ones_own(lab):
    digest = lab(
        {"solo_lab.py": "import torch, solo_tools\nfrom defenses import NoDef\nclass Mine(NoDef): ..."}
    )
    lab({"solo_tools.py": "RATE = 1"})
    before = digest("solo_lab.Mine")
    assert files_of("solo_lab.Mine") == {"solo_lab.py", "solo_tools.py"}  # neither torch nor ours
    lab({"solo_tools.py": "RATE = 1  # per step"})
    assert digest("solo_lab.Mine") == before
    lab({"solo_tools.py": "RATE = 2"})
    assert digest("solo_lab.Mine") != before
    assert "solo_lab" not in sys.modules and "solo_tools" not in sys.modules


PACKAGE = {
    "deep_lab/__init__.py": "from .smoothing import Smoothing",
    "deep_lab/smoothing.py": "from . import rates\nfrom .parts.maths import *\nclass Smoothing: ...",
    "deep_lab/rates.py": "LOW = 1",
    "deep_lab/parts/__init__.py": "",
    "deep_lab/parts/maths.py": "from ..far import away\nimport deep_lab.dotted",
    "deep_lab/far/__init__.py": "from deep_lab.far.away import road",
    "deep_lab/far/away.py": "road = 1",
    "deep_lab/dotted.py": "",
    "deep_lab/unused.py": "RATE = 1",
}


def test_a_package_counts_as_far_as_it_is_imported(lab):
    digest = lab(PACKAGE)
    everything = set(PACKAGE) - {"deep_lab/unused.py"}
    assert files_of("deep_lab.Smoothing") == files_of("deep_lab.smoothing.Smoothing") == everything
    before = digest("deep_lab.Smoothing")
    lab({"deep_lab/unused.py": "RATE = 2"})
    assert digest("deep_lab.Smoothing") == before
    for name in everything:
        lab({name: PACKAGE[name] + "\nMORE = 1"})
        assert digest("deep_lab.Smoothing") != before, name
        lab({name: PACKAGE[name]})
    assert digest("deep_lab.Smoothing") == before


@pytest.mark.parametrize(
    "init",
    [
        "import importlib\ndef __getattr__(name): return importlib.import_module('lazy_lab.' + name)",
        "import lazy_loader\n__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)",
        "exec('from lazy_lab.hidden import Mine')",
        "",  # the name comes from nowhere one can see
    ],
)
def test_where_imports_cannot_be_seen_the_whole_package_counts(lab, init):
    lab({"lazy_lab/__init__.py": init, "lazy_lab/hidden.py": "class Mine: ...", "lazy_lab/a/b.py": ""})
    assert files_of("lazy_lab.Mine") >= {"lazy_lab/hidden.py", "lazy_lab/a/b.py"}


def test_namespace_packages_and_extensions(lab):
    digest = lab({"space_lab/inner/mine.py": "from . import fast\nclass Mine: ..."})
    binary = lab.folder / f"space_lab/inner/fast{code._SUFFIXES[0]}"
    binary.write_bytes(b"\x7fELF one")
    assert files_of("space_lab.inner.mine.Mine") == {"space_lab/inner/mine.py", "space_lab/inner/fast.so"}
    before = digest("space_lab.inner.mine.Mine")
    binary.write_bytes(b"\x7fELF two")
    assert digest("space_lab.inner.mine.Mine") != before


def test_an_installed_package_counts_as_a_whole_without_being_parsed(lab):
    lab({"site-packages/bought/__init__.py": "raise SystemExit", "site-packages/bought/x.py": "not python ("})
    sys.path.insert(0, str(lab.folder / "site-packages"))
    try:
        assert files_of("bought.x.Mine") == {"bought/__init__.py", "bought/x.py"}
    finally:
        sys.path.pop(0)


def test_functions_and_names_that_are_no_targets_count_too():
    node = {"loss": {"_target_": "own.loss", "_partial_": True}, "rule": "own.rules.halve", "title": "own"}
    assert own_names({**node, "x": {"_target_": "torch.nn.ReLU"}, "y": "a.b"}, ["own"]) == {
        "own.loss",
        "own.rules.halve",
    }


def test_broken_source_is_a_digest_and_no_error(lab):
    digest = lab({"broken_lab.py": "def ("})
    before = digest("broken_lab.Mine")
    lab({"broken_lab.py": "def (("})
    assert digest("broken_lab.Mine") != before


def test_own_code_changes_exactly_the_keys_it_matters_to(lab, tiny):
    defense = "from midre_exp.defense import Defense\nclass Mine(Defense):\n    label = {!r}\n"
    lab({"key_lab.py": defense.format("one")})
    config = ["runtime.trusted_packages=[key_lab]", "+defense.mine={_target_:key_lab.Mine}"]

    def keys():
        return {name: stage.key for name, stage in make_plan(tiny(*config)).stages.items()}

    before = keys()
    lab({"key_lab.py": "# a remark\n" + defense.format("one")})
    assert keys() == before
    lab({"key_lab.py": defense.format("two")})
    after = keys()
    assert {name for name in before if before[name] != after[name]} == {
        "target",
        "attack",
        "metrics",
        "verdicts",
    }


def test_what_is_decoded_by_a_class_of_ones_own_is_cached_by_its_code(lab, tmp_path):
    lab({"pixel_lab.py": "class Mine: ..."})
    mine = type("Mine", (), {"__module__": "pixel_lab"})
    before = code.code_of_classes([mine, Sources])
    assert before.keys() == {"code"} and before["code"].keys() == {"pixel_lab.Mine"}
    lab({"pixel_lab.py": "class Mine: x = 1"})
    assert code.code_of_classes([mine]) != before and code.code_of_classes([Sources]) == {}


def test_the_code_of_a_stage_is_what_it_is_made_by(tiny):
    plan, other = make_plan(tiny("defense=midre")), make_plan(tiny())
    names = {name: set(Sources().all({*s.names, *s.makers}, ())) for name, s in plan.stages.items()}
    assert {"defenses/midre.py", "midre_exp/targets/architectures/resnet.py"} <= names["target"]
    assert "midre_exp/data/synthetic/renderer.py" in names["target"]
    assert "defenses/bido.py" not in names["target"] and "attacks/gmi.py" not in names["target"]
    assert {"attacks/gmi.py", "midre_exp/loop.py", "midre_exp/priors/gmi.py"} <= names["attack"]
    assert "defenses/midre.py" in names["attack"] and "defenses/midre.py" not in names["evaluator"]
    assert "midre_exp/targets/training/module.py" not in names["attack"]
    assert {"midre_exp/metrics/accuracy.py", "midre_exp/metrics/evaluation.py"} <= names["metrics"]
    assert not any(
        name.startswith(("midre_exp/store", "midre_exp/plan")) for n in names.values() for name in n
    )
    assert plan["evaluator"].code == other["evaluator"].code and plan["target"].code != other["target"].code


def test_no_torch_is_loaded_to_tell_code():
    script = (
        "import sys; from midre_exp.plan.code import Sources\n"
        "Sources().code(['defenses.MIDRE', 'attacks.PPA'], []); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2]).returncode == 0
