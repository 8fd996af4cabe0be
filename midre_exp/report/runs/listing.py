"""``midre-exp report runs``: which runs there are records of, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from midre_exp.errors import ConfigError
from midre_exp.records import Record
from midre_exp.report.runs.captions import passed_over
from midre_exp.report.runs.defense_names import display_name, published_name
from midre_exp.report.runs.folders import FoundRecord, read_folders

#: What runs can be chosen by: the name in ``NAME=VALUE,VALUE`` and what a record has of it.
FILTERS: Mapping[str, Callable[[FoundRecord], Sequence[str]]] = {
    "scale": lambda one: [one.record["scale"]],
    "setup": lambda one: [one.record["setup"]["id"]],
    "data": lambda one: [one.record["data"]["name"]],
    "resolution": lambda one: [str(one.record["data"]["resolution"])],
    "attack": lambda one: [one.record["attack"]],
    "informed": lambda one: [str(is_informed(one.record)).lower()],
    "threat": lambda one: [one.record.get("threat", "white_box")],
    "target": lambda one: [one.record["target"]],
    "evaluator": lambda one: [one.record["evaluator"]],
    "defense": lambda one: defense_words(one.record),
    "seed": lambda one: [str(one.record["seed"])],
    "commit": lambda one: [str(one.record.get("commit"))],
    "key": lambda one: [one.record["key"]],
    "origin": lambda one: [one.origin or "here"],
}


def render_runs(words: Sequence[str], *, as_json: bool = False) -> list[FoundRecord]:
    """Print the runs that ``words`` ask for, folders and ``NAME=VALUE,VALUE``; returns them. Raises
    ConfigError for a name that is none of ``FILTERS`` and for a folder without records.
    """
    asked, folders = _split(words)
    found = read_folders(folders)
    chosen = [one for one in found.records if all(_fits(one, name, values) for name, values in asked.items())]
    if as_json:
        print(json.dumps([as_row(one) for one in chosen], indent=1, allow_nan=False))
        return chosen
    if chosen:
        lines = [_line(one) for one in chosen]
        print(tabulate(lines, headers="keys", tablefmt="simple", disable_numparse=True))
    print(f"{len(chosen)} of {len(found.records)} runs. {passed_over(found.passed_over)}".rstrip())
    return chosen


def is_informed(record: Record) -> bool:
    """Whether the attack knew the defense."""
    attack = record["config"].get("attack")
    return "informed" in record or (isinstance(attack, Mapping) and attack.get("informed") is True)


def defense_words(record: Record) -> list[str]:
    """All that the defense of a record may be called: by its label, by the paper's name with and without its
    range, and as on the command line.
    """
    parts = record["defense"]["parts"]
    name = published_name(parts)
    orders = {",".join(order) for order in ([*parts], sorted(parts))}
    words = [*parts] if len(parts) == 1 else [f"[{order}]" for order in orders]
    return [record["defense"]["label"], str(name), display_name(name), *words]


def as_row(one: FoundRecord) -> dict[str, Any]:
    """What a run was and what came of it, in plain values; percent are 0 to 100."""
    record = one.record
    return {
        **{name: choose(one)[0] for name, choose in FILTERS.items()},
        "informed": is_informed(record),
        "resolution": record["data"]["resolution"],
        "seed": record["seed"],
        "commit": record.get("commit"),
        "origin": one.origin,
        "device": record["device"],
        "metrics": record["metrics"],
        "counts": record["counts"],
        "alarms": record.get("alarms", {}),
        "path": str(one.path),
    }


def _split(words: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    asked: dict[str, list[str]] = {}
    folders = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            folders.append(word)
        elif name not in FILTERS:
            raise ConfigError(f"runs are chosen by {', '.join(FILTERS)}, not by {name}; correct {word}")
        else:
            asked.setdefault(name, []).extend(_values(value))
    return asked, folders


def _values(text: str) -> list[str]:
    """What commas outside of brackets divide."""
    found, depth = [""], 0
    for letter in text:
        depth += {"[": 1, "]": -1}.get(letter, 0)
        if letter == "," and depth == 0:
            found.append("")
        else:
            found[-1] += letter
    return [one.strip() for one in found]


def _fits(one: FoundRecord, name: str, values: Sequence[str]) -> bool:
    own = [_plain(word) for word in FILTERS[name](one)]
    if name in ("commit", "key"):
        return any(word.startswith(_plain(value)) for word in own for value in values)
    return any(_plain(value) in own for value in values)


def _plain(word: str) -> str:
    """Letter case and blanks make no difference."""
    return "".join(word.lower().split())


def _line(one: FoundRecord) -> dict[str, str]:
    record, metrics = one.record, one.record["metrics"]
    low, high = (metrics.get(f"att_acc1_{end}") for end in ("low", "high"))
    return {
        "scale": record["scale"],
        "setup": record["setup"]["id"],
        "attack": record["attack"] + (" informed" if is_informed(record) else ""),
        "target": record["target"],
        "defense": record["defense"]["label"],
        "seed": str(record["seed"]),
        "Acc": f"{metrics['acc']:.1f}",
        "AttAcc": "not measured" if "att_acc1" not in metrics else f"{metrics['att_acc1']:.1f}",
        "95 %": "" if low is None or high is None else f"{low:.1f} to {high:.1f}",
        "alarms": str(sum(map(len, record.get("alarms", {}).values())) or ""),
        "commit": str(record.get("commit") or "")[:12],
        "key": record["key"],
    }
