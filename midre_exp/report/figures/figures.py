"""``python -m midre_exp.report fig2``: a figure of the paper from records, as SVG, PDF and PNG with its
numbers and caption beside it.

A figure is a yaml in midre_exp/report/conf/figure: ``title``; ``sweeps``, lists of overrides as of a table; ``draw``, the kind
of figure by ``_target_`` with its options; ``published``, the tables of results/published.csv whose points
are drawn beside ours; ``mentioned``, those whose numbers can only be told; ``inconsistencies``, numbers of
midre_exp/report/runs/inconsistencies.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.config import build, plain
from midre_exp.records import results_folder
from midre_exp.report.configs import definitions
from midre_exp.report.runs.inconsistencies import INCONSISTENCIES
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published, table_rows
from midre_exp.report.tables import comparison as tables
from midre_exp.store.files import write_atomic

if TYPE_CHECKING:  # a command that draws nothing must not wait for matplotlib
    from midre_exp.report.figures.style import Drawing

NEEDED = ("title", "sweeps", "draw")
OPTIONAL = ("published", "mentioned", "inconsistencies")


@dataclass(frozen=True)
class FigureDefinition:
    """A figure as its yaml has it."""

    name: str
    title: str
    sweeps: tuple[tuple[str, ...], ...]
    draw: dict[str, Any]
    published: tuple[str, ...] = ()
    mentioned: tuple[str, ...] = ()
    inconsistencies: tuple[int, ...] = ()


def figure_names() -> list[str]:
    """The figures there are."""
    return list(definitions("figure"))


def load_figure(name: str) -> FigureDefinition:
    """The definition of a figure of ``figure_names``. Raises ConfigError naming the key of the yaml that is
    wrong.
    """
    where = definitions("figure")[name]
    loaded: dict[str, Any] = plain(OmegaConf.load(where))
    if not set(NEEDED) <= set(loaded) <= {*NEEDED, *OPTIONAL}:
        raise ConfigError(
            f"{where} needs {', '.join(NEEDED)} and may have {', '.join(OPTIONAL)}; it has {', '.join(loaded)}"
        )
    numbers = tuple(int(number) for number in loaded.get("inconsistencies", ()))
    if missing := [number for number in numbers if number not in INCONSISTENCIES]:
        raise ConfigError(
            f"{where}: inconsistency {missing[0]} is not in midre_exp/report/runs/inconsistencies.py"
        )
    return FigureDefinition(
        name=name,
        title=str(loaded["title"]),
        sweeps=tuple(tuple(str(part) for part in sweep) for sweep in loaded["sweeps"]),
        draw=loaded["draw"],
        published=tuple(loaded.get("published", ())),
        mentioned=tuple(loaded.get("mentioned", ())),
        inconsistencies=numbers,
    )


def render_figure(definition: FigureDefinition, cells: Sequence[Cell], *, other_data: bool) -> list[Path]:
    """Draw the figure, write its files under ``results/<scale>/``, print its caption; returns the paths.

    ``other_data``: the user chose the data, which then becomes part of the files' names. Raises ConfigError
    when there is nothing to draw, and what the figure's kind raises.
    """
    import matplotlib

    from midre_exp.report.figures.style import LOOK, saved

    rows = [row for table in definition.published for row in table_rows(table)]
    if not rows and all(cell.record is None for cell in cells):
        raise ConfigError(f"figure {definition.name} has no finished run yet; leave out --no-run to run it")
    settings = cells[-1].settings
    folder = results_folder(settings)
    stem = f"{definition.name}-{settings['data']['name']}" if other_data else definition.name
    with matplotlib.rc_context(LOOK):
        drawing: Drawing = build(definition.draw).draw(cells, rows, kept_tables(folder, stem))
    text = caption(definition, drawing, str(settings["scale"]))
    missing = [cell.command for cell in cells if cell.record is None]
    files: dict[str, bytes | str] = {
        f"{stem}.{kind}": content for kind, content in saved(drawing.figure).items()
    }
    for suffix, table in drawing.tables.items():
        files[f"{stem}{suffix}.csv"] = table.to_csv(index=False)
    files[f"{stem}.md"] = as_markdown(f"{stem}.png", definition.title, text, missing)
    for name, content in files.items():
        write_atomic(folder / name, content)
    print("\n" + "\n\n".join(text) + "\n")
    for command in missing:
        print(f"not run yet: {command}")
    print("written: " + ", ".join(str(folder / name) for name in files))
    return [folder / name for name in files]


def kept_tables(folder: Path, stem: str) -> dict[str, pd.DataFrame]:
    """The CSV tables of an earlier drawing by what follows ``stem`` in their names."""
    found = [folder / f"{stem}.csv", *sorted(folder.glob(f"{stem}-*.csv"))]
    keys = {"target": str, "reconstructed": str}  # sixteen hexadecimal digits may look like a number
    exact = dict.fromkeys(("x", "y", "share_x", "share_y"), float)  # pandas may miss the last bit
    return {
        path.stem.removeprefix(stem): pd.read_csv(path, dtype=keys, converters=exact)
        for path in found
        if path.exists()
    }


def caption(definition: FigureDefinition, drawing: Drawing, scale: str) -> list[str]:
    """The caption, then what its kind, the paper's rows and the inconsistencies add, a paragraph each."""
    if drawing.records:
        text = (
            f"{tables.circumstances(definition.title, drawing.records)}. {tables.provenance(drawing.records)}"
        )
    else:
        text = f"{definition.title}. Scale {scale}: nothing has been run yet."
    parts = [text, *drawing.notes]
    if definition.published:
        parts.append(
            "Points named paper: as printed there"
            + (
                "."
                if scale == "paper"
                else ", for licensed data and full-size networks; at this scale compare directions, not values."
            )
        )
    told = [told_only(row) for table in definition.mentioned for row in table_rows(table)]
    if told:
        parts.append(f"Printed without the setup it belongs to, so not drawn: {'; '.join(told)}.")
    if definition.inconsistencies:
        parts.append(" ".join(INCONSISTENCIES[number] for number in definition.inconsistencies))
    return parts


def told_only(row: Published) -> str:
    """A printed result in words, for a caption."""
    place, _, number = row.table.partition("_setup")
    share = "" if row.arm.share is None else f" with {100 * row.arm.share[0]:g} % erased"
    changes = [
        f"{change:+.2f} points of {name}"
        for name, change in (("accuracy", row.acc_change), ("attack accuracy", row.att_acc1_change))
        if change is not None
    ]
    return f"{place.replace('fig', 'Fig. ')} Setup {number}{share} {', '.join([*changes, *filter(None, [row.bound])])}"


def as_markdown(picture: str, title: str, text: Sequence[str], missing: Sequence[str]) -> str:
    """The caption with the picture above and the commands of missing runs below."""
    commands = ["Not run yet:\n\n" + "\n".join(f"    {command}" for command in missing)] if missing else []
    return "\n\n".join([f"![{title}]({picture})", *text, *commands]) + "\n"
