"""The dashboard as data: each yaml of midre_exp/report/conf/dashboard is a view of the W&B project, with its
runs, its sections and their panels.

A W&B view has one selection of runs for all its panels, so what needs other runs is another view. Every name
in a yaml is PLACE:NAME, the place being one of ``PLACES``. ``workspace.py`` makes views of W&B's client
library from these.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import plain
from midre_exp.report.definitions import definitions
from midre_exp.stages import STAGES

#: Where a name is found: logged over time, in a run's summary, in its config, or known to W&B of every run.
PLACES = ("history", "summary", "config", "run")
#: What W&B knows of every run, by its own names.
RUN_FACTS = ("displayName", "group", "jobType", "tags", "state", "createdAt", "duration")
#: The job types that are logged: the stages.
JOB_TYPES = tuple(stage.name for stage in STAGES if not stage.is_intermediate)
#: The keys of each kind of panel that hold names, and the places these may be of.
KINDS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "lines": {"x": ("history",), "y": ("history",)},
    "scatter": {"x": ("summary", "config"), "y": ("summary", "config")},
    "bars": {"y": ("summary",)},
    "parallel": {"columns": ("summary", "config")},
    "images": {"names": ("history",)},
    "table": {"names": ("history",)},
}
#: Keys of a kind that may be left out. ``match`` stands for ``y``: every logged name that the regular
#: expression matches.
OPTIONS: Mapping[str, tuple[str, ...]] = {"lines": ("log_y", "match"), "scatter": ("log_x",)}
_ONE = ("x",)  # keys that hold one name, as ``y`` of a scatter plot and ``names`` of a table do
_MOST_COLUMNS = 4


@dataclass(frozen=True)
class Name:
    """What is shown: its place and its name there, as text PLACE:NAME."""

    place: str
    key: str

    def __str__(self) -> str:
        return f"{self.place}:{self.key}"


@dataclass(frozen=True)
class Panel:
    """A chart, picture or table; ``names`` by key of ``KINDS[kind]``."""

    kind: str
    title: str
    names: Mapping[str, tuple[Name, ...]]
    match: str | None = None
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Section:
    """Panels under a heading; ``about`` says how to read them."""

    title: str
    about: str
    columns: int
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class View:
    """A saved view: the runs of ``job_types``, in the groups of ``group_by``, with ``columns`` first in their
    table, and the sections.
    """

    name: str
    title: str
    job_types: tuple[str, ...]
    group_by: tuple[Name, ...]
    columns: tuple[Name, ...]
    sections: tuple[Section, ...]

    def names(self) -> Iterator[Name]:
        """Every name the view shows or sorts by, as often as it does."""
        yield from (*self.group_by, *self.columns)
        for section in self.sections:
            for panel in section.panels:
                for names in panel.names.values():
                    yield from names


def load_views() -> list[View]:
    """All views, in the order of their files. Raises ConfigError naming the file, the place in it and what
    belongs there.
    """
    files = definitions("dashboard")
    views = [_view(path) for path in files.values()]
    titles = [view.title for view in views]
    for view in views:
        if titles.count(view.title) > 1:
            raise ConfigError(
                f"{files[view.name]}: another view has the title {view.title!r}; give it its own"
            )
    return views


def _view(path: Path) -> View:
    where = str(path)
    loaded = _mapping(plain(OmegaConf.load(path)), where, ("title", "runs", "sections"))
    runs = _mapping(loaded["runs"], f"{where}: runs", ("job_types",), ("group_by", "columns"))
    job_types = _texts(runs["job_types"], f"{where}: runs.job_types")
    for job_type in job_types:
        if job_type not in JOB_TYPES:
            raise ConfigError(
                f"{where}: runs.job_types: {job_type} is no stage; use some of {', '.join(JOB_TYPES)}"
            )
    return View(
        name=path.stem,
        title=str(loaded["title"]),
        job_types=job_types,
        group_by=_names(runs.get("group_by", []), f"{where}: runs.group_by", ("summary", "config", "run")),
        columns=_names(runs.get("columns", []), f"{where}: runs.columns", ("summary", "run")),
        sections=tuple(
            _section(node, f"{where}: sections[{place}]")
            for place, node in enumerate(_list(loaded["sections"], f"{where}: sections"))
        ),
    )


def _section(node: Any, where: str) -> Section:
    node = _mapping(node, where, ("title", "about", "panels"), ("columns",))
    columns = node.get("columns", 3)
    if type(columns) is not int or not 1 <= columns <= _MOST_COLUMNS:
        raise ConfigError(f"{where}.columns is a number from 1 to {_MOST_COLUMNS}, not {columns}")
    panels = _list(node["panels"], f"{where}.panels")
    return Section(
        title=str(node["title"]),
        about=str(node["about"]),
        columns=columns,
        panels=tuple(_panel(panel, f"{where}.panels[{place}]") for place, panel in enumerate(panels)),
    )


def _panel(node: Any, where: str) -> Panel:
    kind = str(node.get("kind")) if isinstance(node, Mapping) else "none"
    if kind not in KINDS:
        raise ConfigError(f"{where}: kind is one of {', '.join(KINDS)}, not {kind}")
    places, options = dict(KINDS[kind]), OPTIONS.get(kind, ())
    if "match" in options and "match" in node:
        del places["y"]
    node = _mapping(node, where, ("kind", "title", *places), options)
    names = {key: _names(node[key], f"{where}.{key}", allowed) for key, allowed in places.items()}
    for key, found in names.items():
        single = key in _ONE or kind == "table" or (kind, key) == ("scatter", "y")
        if single and len(found) != 1:
            raise ConfigError(f"{where}.{key} is one name in a panel of kind {kind}, not {len(found)}")
    for option in ("log_x", "log_y"):
        if type(node.get(option, False)) is not bool:
            raise ConfigError(f"{where}.{option} is true or false, not {node[option]}")
    return Panel(
        kind=kind,
        title=str(node["title"]),
        names=names,
        match=_pattern(node.get("match"), f"{where}.match"),
        log_x=node.get("log_x", False),
        log_y=node.get("log_y", False),
    )


def _pattern(text: Any, where: str) -> str | None:
    if text is None:
        return None
    try:
        re.compile(str(text))
    except re.error as error:
        raise ConfigError(f"{where}: {text} is no regular expression ({error}); mend it") from error
    return str(text)


def _names(node: Any, where: str, places: Collection[str]) -> tuple[Name, ...]:
    """The names of a list or of a single text."""
    return tuple(_name(text, where, places) for text in _texts(node, where))


def _name(text: str, where: str, places: Collection[str]) -> Name:
    place, _, key = text.partition(":")
    if place not in places or not key:
        raise ConfigError(
            f"{where}: {text} is no name of this kind; write {' or '.join(places)}, a colon and the name"
        )
    if place == "run" and key not in RUN_FACTS:
        raise ConfigError(f"{where}: W&B knows no {text} of a run; use one of {', '.join(RUN_FACTS)}")
    return Name(place, key)


def _texts(node: Any, where: str) -> tuple[str, ...]:
    nodes = [node] if isinstance(node, str) else _list(node, where, empty=True)
    for text in nodes:
        if not isinstance(text, str):
            raise ConfigError(f"{where}: {text} is no text; write it in quotation marks")
    return tuple(nodes)


def _list(node: Any, where: str, *, empty: bool = False) -> list[Any]:
    if not isinstance(node, list) or not (node or empty):
        raise ConfigError(f"{where} is a list with something in it, not {node}")
    return node


def _mapping(
    node: Any, where: str, needed: Collection[str], optional: Collection[str] = ()
) -> Mapping[str, Any]:
    """``node`` if it is a mapping with all ``needed`` keys and no others than these and the ``optional``
    ones.
    """
    if not isinstance(node, Mapping) or not set(needed) <= set(node) <= {*needed, *optional}:
        may = f" and may have {', '.join(optional)}" if optional else ""
        has = ", ".join(map(str, node)) if isinstance(node, Mapping) else str(node)
        raise ConfigError(f"{where} needs {', '.join(needed)}{may}; it has {has or 'nothing'}")
    return node
