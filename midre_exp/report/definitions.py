"""What tables and figures show, as data: each is a yaml in ``conf`` beside this file, or in the user's own
config folder under another name.

Of both: ``title``; ``sweeps``, lists of overrides, one list for each sweep; ``inconsistencies``, numbers of
midre_exp/report/runs/inconsistencies.py that concern the whole of it; ``lengths``, so many times the epochs
of its target each run is trained for, one run for each.

- ``table/NAME.yaml``: ``sweep`` may stand for a single one of ``sweeps``. ``rows: setups`` makes one line of
  each setup, described as the paper's Table 2 does, instead of one of each defense, ``rows: convergence``
  one of each length with the verdict whether the training was long enough, ``rows: traits`` one of each
  trait, ``rows: diagnostics`` one of each defense with what its targets are like; ``rows: run`` is of
  whatever run the command asks for, and its page names people. ``published`` names the table of
  results/published.csv whose numbers stand beside ours. ``pictures: false``: no page, which would show
  reconstructions of private people. ``metrics``: numbers of the records to show in columns of their own, by
  the names their metrics give them, those of a plug-in too. ``columns``: the headings that LaTeX shows, where
  it is not to choose.
- ``claim/NAME.yaml``: midre_exp/report/claims/definitions.py.
- ``figure/NAME.yaml``: ``draw``, the kind of plot by ``_target_`` with its options; ``published``, the tables
  of results/published.csv whose points are drawn beside ours; ``mentioned``, those whose numbers belong to no
  known setup and can only be told in the caption.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import config_files, plain
from midre_exp.records.claims import REPORT_CONF
from midre_exp.report.runs.convergence import LONGER
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES

TABLE_KEYS = (
    "title",
    "sweep",
    "sweeps",
    "rows",
    "published",
    "inconsistencies",
    "lengths",
    "pictures",
    "metrics",
    "columns",
)
ROWS = ("defenses", "setups", "convergence", "traits", "diagnostics", "run")
WITH_METRICS = ("defenses", "run")  # rows that may show further metrics
FIGURE_KEYS = ("title", "sweeps", "draw")
FIGURE_OPTIONS = ("published", "mentioned", "inconsistencies", "lengths")

Sweeps = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class TableDefinition:
    """A table as its yaml has it."""

    name: str
    title: str
    sweeps: Sweeps
    published: str | None = None
    inconsistencies: tuple[int, ...] = ()
    rows: str = "defenses"  # one of ``ROWS``
    lengths: tuple[float, ...] = ()
    pictures: bool = True  # whether a page with reconstructions is written
    metrics: tuple[str, ...] = ()  # names of the records' metrics that are shown besides the usual ones
    columns: tuple[str, ...] = ()  # headings that LaTeX shows, in this order; none: it chooses


@dataclass(frozen=True)
class FigureDefinition:
    """A figure as its yaml has it."""

    name: str
    title: str
    sweeps: Sweeps
    draw: dict[str, Any]
    published: tuple[str, ...] = ()
    mentioned: tuple[str, ...] = ()
    inconsistencies: tuple[int, ...] = ()
    lengths: tuple[float, ...] = ()


def definitions(kind: str) -> dict[str, Path]:
    """The yaml of every ``table``, ``figure`` or ``dashboard`` view by name, sorted."""
    return config_files(kind, REPORT_CONF)


def known_definitions() -> str:
    """The names of all tables and figures, for a sentence."""
    return "; ".join(f"{kind}s: {', '.join(definitions(kind))}" for kind in ("table", "figure"))


def load_definition(name: str) -> TableDefinition | FigureDefinition:
    """The table or figure of that name. Raises ConfigError naming those there are, or the key of the yaml
    that is wrong.
    """
    return load_figure(name) if name in definitions("figure") else load_table(name)


def load_table(name: str) -> TableDefinition:
    """The definition of a table. Raises ConfigError as ``load_definition``."""
    path = definitions("table").get(name)
    if path is None:
        raise ConfigError(f"there is no table or figure {name}; there are {known_definitions()}")
    node: dict[str, Any] = plain(OmegaConf.load(path))
    unknown = [key for key in node if key not in TABLE_KEYS]
    if unknown or "title" not in node or ("sweep" in node) == ("sweeps" in node):
        raise ConfigError(
            f"{path} needs a title and one of sweep, sweeps, and may have {', '.join(TABLE_KEYS[3:])}"
            + (f"; it has {', '.join(unknown)}" if unknown else "")
        )
    rows = node.get("rows", ROWS[0])
    if rows not in ROWS:
        raise ConfigError(f"{path}: rows is one of {', '.join(ROWS)}, not {rows}")
    pictures = node.get("pictures", True)
    if not isinstance(pictures, bool):
        raise ConfigError(f"{path}: pictures is true or false, not {pictures}")
    for key in ("metrics", "columns"):
        if not isinstance(node.get(key, []), list):
            raise ConfigError(f"{path}: {key} is a list of names, not {node[key]}")
    if node.get("metrics") and rows not in WITH_METRICS:
        raise ConfigError(f"{path}: metrics goes with rows: {' or '.join(WITH_METRICS)}, not {rows}")
    return TableDefinition(
        name=name,
        title=str(node["title"]),
        sweeps=_sweeps([node["sweep"]] if "sweep" in node else node["sweeps"]),
        published=node.get("published"),
        inconsistencies=_inconsistencies(node, path),
        rows=rows,
        lengths=_lengths(node, path, needed=rows == "convergence"),
        pictures=pictures,
        metrics=tuple(map(str, node.get("metrics", ()))),
        columns=tuple(map(str, node.get("columns", ()))),
    )


def load_figure(name: str) -> FigureDefinition:
    """The definition of a figure there is. Raises ConfigError naming the key of the yaml that is wrong."""
    path = definitions("figure")[name]
    node: dict[str, Any] = plain(OmegaConf.load(path))
    if not set(FIGURE_KEYS) <= set(node) <= {*FIGURE_KEYS, *FIGURE_OPTIONS}:
        raise ConfigError(
            f"{path} needs {', '.join(FIGURE_KEYS)} and may have {', '.join(FIGURE_OPTIONS)}; "
            f"it has {', '.join(node)}"
        )
    return FigureDefinition(
        name=name,
        title=str(node["title"]),
        sweeps=_sweeps(node["sweeps"]),
        draw=node["draw"],
        published=tuple(node.get("published", ())),
        mentioned=tuple(node.get("mentioned", ())),
        inconsistencies=_inconsistencies(node, path),
        lengths=_lengths(node, path),
    )


def _sweeps(lists: list[list[Any]]) -> Sweeps:
    return tuple(tuple(str(override) for override in sweep) for sweep in lists)


def _inconsistencies(node: dict[str, Any], path: Path) -> tuple[int, ...]:
    numbers = tuple(int(number) for number in node.get("inconsistencies", ()))
    if unknown := [number for number in numbers if number not in INCONSISTENCIES]:
        raise ConfigError(
            f"{path}: inconsistency {unknown[0]} is not in midre_exp/report/runs/inconsistencies.py"
        )
    return numbers


def _lengths(node: dict[str, Any], path: Path, *, needed: bool = False) -> tuple[float, ...]:
    """In rising order. Raises ConfigError for what are no lengths, and where lengths that the rule of
    convergence needs are not among them.
    """
    lengths = node.get("lengths", [])
    if not isinstance(lengths, list) or not all(isinstance(length, (int, float)) for length in lengths):
        raise ConfigError(f"{path}: lengths is a list of numbers, not {lengths}")
    if any(length <= 0 for length in lengths) or (needed and not {1, LONGER} <= set(lengths)):
        raise ConfigError(f"{path}: lengths are numbers above 0, of convergence 1 and {LONGER} among them")
    return tuple(sorted(map(float, lengths)))
