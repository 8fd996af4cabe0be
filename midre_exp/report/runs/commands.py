"""The command that makes a run again, from what its record holds.

It is put together from the choices of a record (setup, attack, target, defense, seed, judges) and the values
of its defense that differ from those in conf/defense. Single values of other parts that were given on a
command line (``attack.steps=50``) cannot be told from those of a setup or scale without composing both: they
stand in the record's ``config`` alone.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from midre_exp.plan.config import config_files, read_yaml
from midre_exp.plan.vary import DEFAULT
from midre_exp.records import Record
from midre_exp.records.comparable import is_own_folder, numerics_of
from midre_exp.report.runs.listing import is_informed

#: The choices that a setup makes, by what a record calls them.
_CHOICES = ("data", "target", "evaluator", "attack")
#: Judges beside the evaluator, whose config has its own name.
_NAMED = ("open_set", "traits", "diagnostics")


def command_of(records: Sequence[Record]) -> str | None:
    """What makes the runs of one attack on one defended target, one for each seed; None where setup or
    defense is none of conf.
    """
    first = records[0]
    words = _words(first)
    if words is None:
        return None
    seeds = sorted({int(record["seed"]) for record in records})
    several = len(seeds) > 1
    words.append(f"seed={','.join(map(str, seeds))}")
    return shlex.join(["midre-exp", "sweep" if several else "run", *words])


def _words(record: Record) -> list[str] | None:
    setup, config, parts = record["setup"]["id"], record["config"], record["defense"]["parts"]
    if setup not in config_files("setup") or not all(_known(name) for name in parts):
        return None
    scale = record["scale"]
    chosen = {
        **_chosen_by("setup", setup),
        **(_chosen_by("scale", scale) if scale in config_files("scale") else {}),
    }
    told: Mapping[str, Any] = record
    names = {"data": record["data"]["name"], **{name: told[name] for name in _CHOICES[1:]}}
    words = [f"setup={setup}", f"scale={scale}"]
    for group, name in names.items():
        if chosen.get(group) != name:
            words.append(f"{group}={name}")
    private = config["data"].get("private")
    if isinstance(private, Mapping) and is_own_folder(private):
        words.append("data.root=FOLDER")
    words.append(f"defense={next(iter(parts))}" if len(parts) == 1 else f"defense=[{','.join(parts)}]")
    for name, part in parts.items():
        words += [f"defense.{name}.{key}={value}" for key, value in _changed(part, _yaml(name))]
    vary = record.get("vary", list(DEFAULT))
    if tuple(vary) != DEFAULT:
        words.append(f"vary=[{','.join(vary)}]")
    if is_informed(record):
        words.append("attack.informed=true")
    for name in _NAMED:
        node = config.get(name)
        if isinstance(node, Mapping) and isinstance(node.get("name"), str):
            words.append(f"{name}={node['name']}")
    if isinstance(config.get("jury"), Mapping) and config["jury"]:
        words.append(f"jury=[{','.join(config['jury'])}]")
    if "numerics" in config and not numerics_of(config).startswith("float32"):
        words.append(f"numerics={numerics_of(config).split(',')[0]}")
    return words


def _known(defense: str) -> bool:
    path = config_files("defense").get(defense)
    return path is not None and defense in _plain(path)


def _yaml(defense: str) -> Mapping[str, Any]:
    node: Mapping[str, Any] = _plain(config_files("defense")[defense])[defense]
    return node


@cache
def _plain(path: Path) -> Mapping[str, Any]:
    """A yaml of conf as it is written, without what it takes from others."""
    node = read_yaml(path)
    return {str(key): value for key, value in node.items()} if isinstance(node, dict) else {}


@cache
def _chosen_by(kind: str, name: str) -> dict[str, str]:
    """What a setup or a scale chooses, by group."""
    found: dict[str, str] = {}
    for line in _plain(config_files(kind)[name]).get("defaults", ()):
        if isinstance(line, Mapping):
            for key, choice in line.items():
                group = str(key).removeprefix("override").strip().removeprefix("/")
                if group in _CHOICES:
                    found[group] = str(choice)
    return found


def _changed(
    given: Mapping[str, Any], written: Mapping[str, Any], place: str = ""
) -> Iterator[tuple[str, str]]:
    """Each value of a part that is not as its yaml says. What the yaml takes from another key, and what it
    does not have, is left out.
    """
    for key, value in given.items():
        default = written.get(key)
        if key not in written or _is_taken(default) or value == default:
            continue
        if isinstance(value, Mapping) and isinstance(default, Mapping):
            yield from _changed(value, default, f"{place}{key}.")
        elif isinstance(value, (int, float, bool, list)) or value is None:
            yield f"{place}{key}", json.dumps(value).replace(" ", "")
        elif isinstance(value, str) and key != "_target_":
            yield f"{place}{key}", value


def _is_taken(value: object) -> bool:
    return "${" in json.dumps(value, default=str)
