"""A self-contained HTML page of a comparison: the table, and private samples beside what each attack
reconstructed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from midre_exp.data.base import Dataset
from midre_exp.errors import DataError
from midre_exp.plan.config import build, digest, trusted_packages
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.store.files import write_atomic
from midre_exp.tracking.pictures import data_url

#: Pixels of a picture's longer side on a page, twice what is shown: hundreds of pictures of 224 px would make
#: it tens of megabytes.
LARGEST = 128
#: Characters in a field from which its column is text to be broken into lines.
_PROSE_FROM = 48
_NUMBER = re.compile(r"OP|[-+−]?\d+(\.\d+)?( ?%)?")


@dataclass(frozen=True)
class Picture:
    """One picture and whether the evaluator recognised the identity (None: not evaluated)."""

    url: str
    recognised: bool | None = None


@dataclass(frozen=True)
class PictureRow:
    """One line of pictures, a column for each identity."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Column:
    """A column of the table; ``kind``, the HTML class of its fields: ``numbers``; ``words``, left-aligned;
    ``prose``, broken into lines.
    """

    heading: str
    kind: str

    @classmethod
    def of(cls, heading: str, values: pd.Series[Any]) -> Column:
        """By what its fields look like."""
        texts = [str(value) for value in values]
        if all(not text or _NUMBER.fullmatch(text) for text in texts):
            return cls(heading, "numbers")
        return cls(heading, "prose" if max(map(len, texts)) > _PROSE_FROM else "words")


def gallery(runs: Sequence[PlannedRun], *, identities: int = 10) -> list[PictureRow]:
    """For each private data set a line of training samples, then for each run the first restart of the same
    identities.

    Nothing is picked by quality. Runs whose artifacts are not in the store are left out, and so are samples
    of data that are not on this machine.
    """
    rows: list[PictureRow] = []
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(digest(run.settings["data"]["private"]), []).append(run)
    for group in groups.values():
        rows += _private_row(group[0], identities)
        for run in group:
            rows += _reconstructed_row(run, runs, identities)
    return rows


def _private_row(run: PlannedRun, identities: int) -> list[PictureRow]:
    node = run.settings["data"]["private"]
    try:
        private = build(node, kind=Dataset, trusted=trusted_packages(run.settings)).load("train")
    except DataError:
        return []
    labels = range(min(identities, private.num_classes))
    samples = [private.images[(private.labels == label).nonzero()[0, 0]] for label in labels]
    return [PictureRow("private image", [Picture(data_url(image, largest=LARGEST)) for image in samples])]


def _reconstructed_row(run: PlannedRun, runs: Sequence[PlannedRun], identities: int) -> list[PictureRow]:
    attack, metrics = (run.artifact(stage) for stage in ("attack", "metrics"))
    if attack is None or metrics is None:
        return []
    reconstructions = attack.tensors("reconstructions")
    predicted = metrics.tensors("judgement")["predicted"]
    pictures = []
    for label in range(identities):
        first = (reconstructions["labels"] == label) & (reconstructions["restarts"] == 0)
        if first.any():
            i = int(first.nonzero()[0, 0])
            url = data_url(reconstructions["images"][i], largest=LARGEST)
            pictures.append(Picture(url, bool(predicted[i] == label)))
    setup = f"{run.setup}: " if len({other.setup for other in runs}) > 1 else ""
    seed = f", seed {run.seed}" if len({other.seed for other in runs}) > 1 else ""
    return [PictureRow(f"{setup}{run.row['attack']} against {run.label}{seed}", pictures)]


def write_page(
    path: Path,
    *,
    title: str,
    caption: str,
    table: pd.DataFrame,
    rows: Sequence[PictureRow],
    missing: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page. ``table`` is printable text; ``missing`` lists the commands of runs without a record;
    ``notes`` are footnotes.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midre_exp.report.tables", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html.j2").render(
        title=title,
        caption=caption,
        columns=[Column.of(heading, table[heading]) for heading in table.columns],
        lines=table.to_numpy().tolist(),
        rows=rows,
        missing=missing,
        notes=notes,
    )
    write_atomic(path, html)
