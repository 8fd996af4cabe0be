"""A self-contained HTML page of a comparison: the table, and private samples beside what each attack
reconstructed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from midre_exp.data.pictures import data_url
from midre_exp.errors import DataError
from midre_exp.plan.config import build, digest
from midre_exp.store.files import write_atomic
from midre_exp.store.store import Store

#: Pixels of a picture's longer side on a page, twice what is shown: hundreds of pictures of 224 px would make
#: it tens of megabytes.
LARGEST = 128
#: Characters in a cell from which its column is text to be broken into lines.
_PROSE_FROM = 48
_NUMBER = re.compile(r"OP|[-+−]?\d+(\.\d+)?( ?%)?")


@dataclass(frozen=True)
class Cell:
    """One picture and whether the evaluator recognised the identity (None: not judged)."""

    url: str
    recognised: bool | None = None


@dataclass(frozen=True)
class Row:
    """One line of pictures."""

    title: str
    cells: Sequence[Cell]


@dataclass(frozen=True)
class Column:
    """A column of the table; ``kind``, the HTML class of its cells: ``numbers``; ``words``, left-aligned;
    ``prose``, broken into lines.
    """

    heading: str
    kind: str

    @classmethod
    def of(cls, heading: str, values: pd.Series[Any]) -> Column:
        """By what its cells look like."""
        texts = [str(value) for value in values]
        if all(not text or _NUMBER.fullmatch(text) for text in texts):
            return cls(heading, "numbers")
        return cls(heading, "prose" if max(map(len, texts)) > _PROSE_FROM else "words")


def gallery(records: Sequence[Mapping[str, Any]], *, identities: int = 10) -> list[Row]:
    """For each private data set a line of training samples, then for each record the first restart of the
    same identities.

    Nothing is picked by quality. Records whose artifacts are no longer in the store are left out, and so are
    samples of data that are not on this machine.
    """
    rows: list[Row] = []
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        groups.setdefault(digest(record["config"]["data"]["private"]), []).append(record)
    for group in groups.values():
        rows += _private_row(group, identities)
        for record in group:
            rows += _reconstructed_row(record, records, identities)
    return rows


def _private_row(records: Sequence[Mapping[str, Any]], identities: int) -> list[Row]:
    config = records[0]["config"]
    try:
        private = build(config["data"]["private"], trusted=config["runtime"]["trusted_packages"]).load(
            "train"
        )
    except DataError:
        return []
    labels = range(min(identities, private.num_classes))
    samples = [private.images[(private.labels == label).nonzero()[0, 0]] for label in labels]
    return [Row("private image", [Cell(data_url(image, largest=LARGEST)) for image in samples])]


def _reconstructed_row(
    record: Mapping[str, Any], records: Sequence[Mapping[str, Any]], identities: int
) -> list[Row]:
    store = Store(record["config"]["paths"]["store"])
    attack = store.find("attack", record["artifacts"]["attack"])
    metrics = store.find("metrics", record["artifacts"]["metrics"])
    if attack is None or metrics is None:
        return []
    found = attack.tensors("reconstructions")
    predicted = metrics.tensors("judgement")["predicted"]
    cells = []
    for label in range(identities):
        where = ((found["labels"] == label) & (found["restarts"] == 0)).nonzero()
        if len(where):
            i = int(where[0, 0])
            cells.append(Cell(data_url(found["images"][i], largest=LARGEST), bool(predicted[i] == label)))
    setup = f"{record['setup']['id']}: " if len({r["setup"]["id"] for r in records}) > 1 else ""
    seed = f", seed {record['seed']}" if len({r["seed"] for r in records}) > 1 else ""
    return [Row(f"{setup}{record['attack']} against {record['defense']['label']}{seed}", cells)]


def write_page(
    path: Path,
    *,
    title: str,
    caption: str,
    table: pd.DataFrame,
    rows: Sequence[Row],
    missing: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> None:
    """Write the page. ``table`` is printable text; ``missing`` lists the commands of runs without a record;
    ``notes`` are footnotes.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midre_exp.report", "."),
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
