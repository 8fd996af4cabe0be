"""A self-contained HTML page of a comparison: the table, and private samples beside what each attack reconstructed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from midre_exp.config import build
from midre_exp.files import write_atomic
from midre_exp.report.pictures import data_url
from midre_exp.store import Store


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


def gallery(records: Sequence[Mapping[str, Any]], *, identities: int = 10) -> list[Row]:
    """A line of private training samples, then for each record the first restart of the same identities: nothing is picked by quality.

    Records whose artifacts are no longer in the store are left out.
    """
    first = records[0]["config"]
    private = build(first["data"]["private"], allow=first["runtime"]["allow"]).load("train")
    labels = list(range(min(identities, private.num_classes)))
    samples = [private.images[(private.labels == label).nonzero()[0, 0]] for label in labels]
    rows = [Row("private image", [Cell(data_url(image)) for image in samples])]
    for record in records:
        store = Store(record["config"]["paths"]["store"])
        attack = store.find("attack", record["artifacts"]["attack"])
        metrics = store.find("metrics", record["artifacts"]["metrics"])
        if attack is None or metrics is None:
            continue
        found = attack.tensors("reconstructions")
        predicted = metrics.tensors("judgement")["predicted"]
        cells = []
        for label in labels:
            where = ((found["labels"] == label) & (found["restarts"] == 0)).nonzero()
            if len(where):
                i = int(where[0, 0])
                cells.append(Cell(data_url(found["images"][i]), bool(predicted[i] == label)))
        seed = f", seed {record['seed']}" if len({r["seed"] for r in records}) > 1 else ""
        rows.append(Row(f"{record['attack']} against {record['defense']['label']}{seed}", cells))
    return rows


def write_page(
    path: Path,
    *,
    title: str,
    caption: str,
    table: pd.DataFrame,
    rows: Sequence[Row],
    missing: Sequence[str] = (),
) -> None:
    """Write the page. ``table`` is printable text; ``missing`` lists the commands of runs without a record."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midre_exp.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    html = environment.get_template("page.html.j2").render(
        title=title,
        caption=caption,
        headings=list(table.columns),
        lines=table.to_numpy().tolist(),
        rows=rows,
        missing=missing,
    )
    write_atomic(path, html)
