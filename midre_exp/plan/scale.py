"""What a scale has values for (``conf/scale/<group>/<scale>_<choice>.yaml``), and which parts it lacks.

A target, evaluator or prior of one's own gets the values of the one its yaml is made from (its defaults
list), an attack of one's own those of the prior it searches. What has none keeps the size of its own yaml,
which a run and ``--plan`` tell at a scale that reduces everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from midre_exp.plan.config import CONF_DIR, config_files
from midre_exp.plan.suite import is_suite_file

#: The groups that choose a part, by the group of their scale's values.
_CHOSEN_BY = {"target": ("target", "evaluator"), "prior": ("attack/prior",), "attack": ("attack",)}


def scaled(scale: str, group: str, choice: str) -> str:
    """The name of a scale's values for a choice: its own, else those of the nearest yaml that its defaults
    lists lead to; without any, what they would be called.
    """
    values = config_files(f"scale/{group}")
    for name in lineage(group, choice):
        if f"{scale}_{name}" in values:
            return f"{scale}_{name}"
    return f"{scale}_{choice}"


def full_size_parts(settings: Mapping[str, Any]) -> list[str]:
    """A sentence for each part of a run that its scale has no values for, though it has for all packaged ones
    of that kind.
    """
    scale, attack = str(settings["scale"]), settings["attack"]
    parts = [
        ("target", "target", settings["target"].get("name")),
        ("evaluator", "target", settings["evaluator"].get("name")),
        ("attack.prior", "prior", (attack.get("prior") or {}).get("name")),
        ("attack", "attack", attack.get("name")),
        *(("judge", "target", node.get("name")) for node in (settings.get("jury") or {}).values()),
    ]
    return [
        f"{key} {name} keeps the size of its own yaml: scale {scale} has no values for it; give some in "
        f"scale/{group}/{scale}_{name}.yaml of a config folder (--config-dir)"
        for key, group, name in parts
        if name is not None and _reduces(scale, group) and not _has_values(scale, group, str(name))
    ]


def _has_values(scale: str, group: str, name: str) -> bool:
    return scaled(scale, group, name) in config_files(f"scale/{group}")


def _reduces(scale: str, group: str) -> bool:
    """Whether a scale has values for every packaged choice of a group."""
    main = _CHOSEN_BY[group][0]
    choices = [path.stem for path in (CONF_DIR / main).glob("*.yaml") if not is_suite_file(path)]
    values = {path.stem for path in (CONF_DIR / "scale" / group).glob("*.yaml")}
    return all(f"{scale}_{name}" in values for name in choices)


def lineage(group: str, choice: str) -> Iterator[str]:
    """A choice and, but for attacks, those that its yaml is made from, nearest first."""
    seen: set[str] = set()
    waiting = [choice]
    while waiting:
        name = waiting.pop(0)
        if name in seen:
            continue
        seen.add(name)
        yield name
        if group != "attack":
            for chosen_by in _CHOSEN_BY[group]:
                path = config_files(chosen_by).get(name)
                waiting += [] if path is None else _made_from(path, path.stat().st_mtime_ns)


@cache  # a sweep asks for each of its runs
def _made_from(path: Path, changed: int) -> list[str]:
    """The choices of its own kind in a yaml's defaults list: ``NAME`` or ``/target@_here_: NAME``;
    ``changed``: when the file last was.
    """
    found = []
    content = OmegaConf.load(path)
    for entry in (OmegaConf.select(content, "defaults") or []) if OmegaConf.is_dict(content) else []:
        if isinstance(entry, str):
            name = entry.partition("@")[0].rpartition("/")[2]
            found += [] if name == "_self_" else [name]
        else:
            found += [
                str(name)
                for key, name in entry.items()
                if str(key).partition("@")[0].endswith(("target", "evaluator"))
            ]
    return found


def chosen(group: str, *, _root_: Mapping[str, Any]) -> str:
    """The choice of a group in a defaults list, whatever dots its name has; ``none`` without one."""
    return str(_root_.get(group) or "none")


def register() -> None:
    """Let configs use ``scaled`` as ``${scaled:SCALE,GROUP,CHOICE}``, ``chosen`` as ``${chosen:GROUP}``."""
    OmegaConf.register_new_resolver("scaled", scaled, replace=True)
    OmegaConf.register_new_resolver("chosen", chosen, replace=True)
