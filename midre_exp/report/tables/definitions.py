"""The definition of a table: a yaml in midre_exp/report/conf/table.

``title``, and one of: ``sweep``, the overrides of one sweep; ``sweeps``, a list of such lists. ``rows:
setups`` makes one line of each setup, described as the paper's Table 2 does, instead of one of each run.
``published`` names the table of results/published.csv whose numbers stand beside ours; ``inconsistencies``
are numbers of midre_exp/report/runs/inconsistencies.py that concern the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import plain
from midre_exp.report.configs import definitions
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES

KEYS = ("title", "sweep", "sweeps", "rows", "published", "inconsistencies")
ROWS = ("runs", "setups")


@dataclass(frozen=True)
class Definition:
    """A table as its yaml has it; ``rows`` is one of ``ROWS``."""

    name: str
    title: str
    sweeps: tuple[tuple[str, ...], ...]
    published: str | None = None
    inconsistencies: tuple[int, ...] = ()
    rows: str = "runs"


def load_definition(name: str) -> Definition:
    """The definition of a table. Raises ConfigError listing the tables there are, or naming the key of the
    yaml that is wrong.
    """
    path = definitions("table").get(name)
    if path is None:
        known = [f"{group}s: {', '.join(definitions(group))}" for group in ("table", "figure")]
        raise ConfigError(f"there is no table or figure {name}; {'; '.join(known)}")
    loaded: dict[str, Any] = plain(OmegaConf.load(path))
    unknown = [key for key in loaded if key not in KEYS]
    if unknown or "title" not in loaded or ("sweep" in loaded) == ("sweeps" in loaded):
        raise ConfigError(
            f"{path} needs a title and one of sweep, sweeps, and may have rows, published and inconsistencies"
            + (f"; it has {', '.join(unknown)}" if unknown else "")
        )
    if loaded.get("rows", ROWS[0]) not in ROWS:
        raise ConfigError(f"{path}: rows is one of {', '.join(ROWS)}, not {loaded['rows']}")
    numbers = tuple(int(number) for number in loaded.get("inconsistencies", ()))
    if missing := [number for number in numbers if number not in INCONSISTENCIES]:
        raise ConfigError(
            f"{path}: inconsistency {missing[0]} is not in midre_exp/report/runs/inconsistencies.py"
        )
    sweeps = [loaded["sweep"]] if "sweep" in loaded else loaded["sweeps"]
    return Definition(
        name=name,
        title=str(loaded["title"]),
        sweeps=tuple(tuple(str(part) for part in sweep) for sweep in sweeps),
        published=loaded.get("published"),
        inconsistencies=numbers,
        rows=loaded.get("rows", ROWS[0]),
    )
