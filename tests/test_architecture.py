"""The house: which room may import which. Every import is read, also those inside functions and those for
types alone, and a name that a package lends is followed to the module that holds it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("midre_exp", "attacks", "defenses")
#: Rooms that plan and launch thousands of runs, and must not wait for torch.
TORCH_FREE = (
    *("midre_exp.cards", "midre_exp.machine", "midre_exp.plan", "midre_exp.references", "midre_exp.store"),
    "midre_exp.sweep",
)
#: Who looks at the engine from outside; the engine never looks back.
ABOVE = ("midre_exp.report", "midre_exp.study", "midre_exp.doctor", "midre_exp.audit", "attacks", "defenses")
ROOT_FILES, LEVELS = 14, 14

Sources = dict[str, str]


class Arrow(NamedTuple):
    source: str
    target: str
    inside: bool  # a function


def sources() -> Sources:
    """Every module of ours by name, packages by that of their ``__init__``; stubs as ``NAME!``."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py*")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            if path.suffix == ".py":
                found[name] = path.read_text()
            elif path.suffix == ".pyi":
                found[f"{name}!"] = path.read_text()
    return found


@cache
def lent_by(package: str, stub: str) -> dict[str, str]:
    """The module behind every name that a package's stub lists."""
    return {
        f"{package}.{name.name}": f"{package}.{node.module}"
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom) and node.module
        for name in node.names
    }


class Imports(NamedTuple):
    names: list[tuple[str, bool]]  # what is imported, and whether inside a function
    attributes: list[str]  # what is read of an imported package, perhaps a name that it lends
    loads_torch: bool


@cache
def imports_of(text: str) -> Imports:
    tree = ast.parse(text)
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef))
        for node in ast.walk(function)
    }
    names: list[tuple[str, bool]] = []
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [(name.name, id(node) in inner) for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [(f"{node.module}.{name.name}", id(node) in inner) for name in node.names]
            aliases.update({n.asname or n.name: f"{node.module}.{n.name}" for n in node.names})
    attributes = [
        f"{aliases[node.value.id]}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases
    ]
    loaded = [n for n in tree.body if isinstance(n, (ast.Import, ast.ImportFrom))]
    loads_torch = any(ast.unparse(node).split()[1].split(".")[0] == "torch" for node in loaded)
    return Imports(names, attributes, loads_torch)


def arrows(files: Sources) -> list[Arrow]:
    names = {}
    for stub, text in files.items():
        if stub.endswith("!"):
            names.update(lent_by(stub[:-1], text))

    def module(name: str) -> str | None:
        while name:
            if name in names:
                return module(names[name])
            if name in files:
                return name
            name = name.rpartition(".")[0]
        return None

    found = []
    for source, text in files.items():
        if not source.endswith("!"):
            imports = imports_of(text)
            lent = [(name, False) for name in imports.attributes if name in names]
            for name, inside in [*imports.names, *lent]:
                target = module(name) if name.startswith(PACKAGES) else None
                if target is not None and target != source:
                    found.append(Arrow(source, target, inside))
    return found


def room(module: str, packages: set[str]) -> str:
    """The folder a module stands in; where a folder has folders, its own files are rooms of their own, as are
    commands (``__main__``), which stand above what they command.
    """
    parent = module if module in packages else module.rpartition(".")[0]
    has_rooms = any(name.rpartition(".")[0] == parent for name in packages)
    return module if has_rooms or not parent or module.endswith("__main__") else parent


def packages_of(files: Sources) -> set[str]:
    return {name.rpartition(".")[0] for name in files if not name.endswith("!")} - {""}


def circle(graph: Mapping[str, set[str]]) -> list[str] | None:
    """One circle in a graph, None if there is none."""
    state: dict[str, int] = {}

    def visit(node: str, path: list[str]) -> list[str] | None:
        state[node] = 1
        for other in sorted(graph.get(node, ())):
            if state.get(other) == 1:
                return [*path[path.index(other) :], other] if other in path else [node, other]
            if other not in state and (found := visit(other, [*path, other])):
                return found
        state[node] = 2
        return None

    for node in sorted(graph):
        if node not in state and (found := visit(node, [node])):
            return found
    return None


def graph_of(pairs: Iterable[tuple[str, str]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for source, target in pairs:
        if source != target:
            found.setdefault(source, set()).add(target)
    return found


def rooms_of(files: Sources) -> dict[str, set[str]]:
    packages = packages_of(files)
    return graph_of((room(a.source, packages), room(a.target, packages)) for a in arrows(files))


def complaints(files: Sources) -> list[str]:
    """Everything that breaks a rule of the house."""
    found = []
    every = arrows(files)
    for graph in (graph_of((a.source, a.target) for a in every), rooms_of(files)):
        around = circle(graph)
        if around:
            found.append("circle: " + " -> ".join(around))
    for source, target, inside in every:
        if not source.startswith(ABOVE) and target.startswith(ABOVE) and source != "midre_exp.__main__":
            found.append(f"the engine looks up: {source} -> {target}")
        for plugins in ("attacks", "defenses"):
            shared = (plugins, *(f"{plugins}.{name}" for name in ("base", "losses", "nodef", "composer")))
            if (
                source.startswith(f"{plugins}.")
                and target.startswith(f"{plugins}.")
                and target not in shared
                and not target.startswith(f"{plugins}.parts")
            ):
                found.append(f"a plugin uses another's file: {source} -> {target}")
        torch_free = source.startswith((*TORCH_FREE, "midre_exp.stages")) or source.endswith("__main__")
        if inside and not torch_free:
            found.append(f"an import inside a function: {source} -> {target}")
    for source, text in files.items():
        if source.startswith(TORCH_FREE) and not source.endswith("!") and imports_of(text).loads_torch:
            found.append(f"torch in a room without it: {source}")
    return found


def levels(files: Sources) -> int:
    """How many rooms lie below each other on the longest way: the engine's first folders and the files of its
    root; commands, which stand above what they command, are not counted.
    """

    def first_folder(module: str) -> str:
        names = module.split(".")
        return ".".join(names[:2] if names[0] == "midre_exp" else names[:1])

    every = [a for a in arrows(files) if not a.source.endswith("__main__")]
    graph = graph_of((first_folder(a.source), first_folder(a.target)) for a in every)
    assert circle(graph) is None

    @cache
    def depth(name: str) -> int:
        return 1 + max((depth(other) for other in graph.get(name, ())), default=0)

    return max(map(depth, graph))


def test_the_house_keeps_its_rules():
    assert complaints(sources()) == []


def test_the_root_is_no_corridor_and_the_house_not_too_high():
    root = [path.name for path in (ROOT / "midre_exp").glob("*.py")]
    assert len(root) <= ROOT_FILES, sorted(root)
    assert levels(sources()) <= LEVELS


@pytest.mark.parametrize(
    ("module", "line", "complaint"),
    [
        ("midre_exp.store.files", "from midre_exp.run import run", "circle"),
        ("midre_exp.errors", "def late():\n    from midre_exp.threat import Threat", "circle"),
        ("midre_exp.errors", "if TYPE_CHECKING:\n    from midre_exp.threat import Threat", "circle"),
        ("midre_exp.priors.base", "from midre_exp import targets\ntargets.build_target()", "circle"),
        ("midre_exp.sweep.finished", "import torch", "torch in a room without it"),
        ("midre_exp.runtime", "from midre_exp.report.configs import definitions", "the engine looks up"),
        ("midre_exp.executor", "from attacks import PPA", "the engine looks up"),
        ("attacks.gmi", "from attacks.ppa import PPA", "a plugin uses another's file"),
        ("defenses.midre", "from defenses import NLS", "a plugin uses another's file"),
        (
            "midre_exp.metrics.fid",
            "def f():\n    from midre_exp import errors",
            "an import inside a function",
        ),
    ],
)
def test_a_broken_rule_is_seen(module, line, complaint):
    files = sources()
    head, mark, rest = files[module].partition("from __future__ import annotations\n")
    files[module] = f"{head}{mark}\n{line}\n{rest}"
    if "build_target" in line:  # a circle by way of a lent name
        files["midre_exp.targets.factory"] += "\nfrom midre_exp.priors.base import Prior\n"
    assert any(text.startswith(complaint) for text in complaints(files))


@pytest.mark.parametrize("package", TORCH_FREE)
def test_rooms_that_plan_do_not_load_torch(package):
    folder = ROOT / package.replace(".", "/")
    modules = [f"{package}.{path.stem}" for path in folder.glob("*.py") if path.stem not in ("submitit",)]
    code = f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
