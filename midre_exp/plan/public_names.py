"""The public names of plugins: what ``_target_`` says in a yaml and what a key holds, wherever a class lies.

Each package below lists its names in its ``__init__.pyi``, which also makes them importable. A config that
names the module of a class instead means the same class, and gets the same key.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PACKAGES = (
    "attacks",
    "defenses",
    "midre_exp.data",
    "midre_exp.data.transforms",
    "midre_exp.diagnostics",
    "midre_exp.metrics",
    "midre_exp.priors",
    "midre_exp.report.figures",
    "midre_exp.surrogates",
    "midre_exp.targets",
    "midre_exp.tuning",
)


@cache
def public_names() -> dict[str, str]:
    """The full name of every public class or function, by module, to its public one."""
    found = {}
    for package in PACKAGES:
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # a plugin folder that an installation left out
            continue
        for node in ast.parse(Path(spec.origin).with_suffix(".pyi").read_text()).body:
            if isinstance(node, ast.ImportFrom):
                for name in node.names:
                    found[f"{package}.{node.module}.{name.name}"] = f"{package}.{name.name}"
    return found


def by_public_name(node: Any) -> Any:
    """A plain config with every ``_target_`` of ours under its public name."""
    if isinstance(node, Mapping):
        return {
            key: public_names().get(value, value)
            if key == "_target_" and isinstance(value, str)
            else by_public_name(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [by_public_name(value) for value in node]
    return node
