"""Reconstructions to look at: people in columns, a private image on top, below it what each attack made of
them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from midre_exp.errors import StoreError
from midre_exp.records import Record
from midre_exp.report.figures.style import Drawing, Drawn
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.report.runs.published import Published
from midre_exp.report.tables import html as page
from midre_exp.store.store import Store

FRAMES = {True: ("#C03020", 2.0, "✓"), False: ("0.75", 0.6, "–"), None: ("0.75", 0.6, "")}


class Grid(Drawn):
    """``people``: how many of the first identities. The pictures are those of the HTML pages."""

    def __init__(self, *, people: int):
        self.people = people

    def draw(
        self, cells: Sequence[Cell], printed: Sequence[Published], kept: Mapping[str, pd.DataFrame]
    ) -> Drawing:
        """A line for each run. Raises StoreError when no run has its pictures in the store."""
        records = [_at(cell) for cell in cells if cell.record is not None]
        drawn = [record for record in records if not _absent(record)]
        if not drawn:
            raise StoreError(
                f"none of the {len(records)} runs has its reconstructions in the store {records[0]['config']['paths']['store']}; "
                f"give paths.store= of the one that has them, or make them again: leave out --no-run"
            )
        rows = page.gallery(drawn, identities=self.people)
        columns = max(len(row.cells) for row in rows)
        figure = Figure(figsize=(1.7 + 0.62 * columns, 0.78 * len(rows) + 0.1), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for line, row in zip(grid, rows, strict=True):
            for axes, cell in zip(line, row.cells, strict=False):
                _picture(axes, cell)
            for axes in line[len(row.cells) :]:
                axes.set_visible(False)
            words = row.title.replace(" against ", "\nagainst ")
            line[0].set_ylabel(words, rotation=0, ha="right", va="center", fontsize=7)
        table = pd.DataFrame(
            [
                {"line": row.title, "person": person, "recognised": cell.recognised}
                for row in rows
                for person, cell in enumerate(row.cells)
                if cell.recognised is not None
            ]
        )
        notes = [
            "One column per person, the first private training image on top, the first restart of each attack below it; nothing is picked "
            "by quality. ✓ and a thick frame: the evaluator recognised the person; –: it did not.",
            *(
                f"Not in the store: {record['attack']} against {record['defense']['label']}, seed {record['seed']}."
                for record in records
                if _absent(record)
            ),
        ]
        return Drawing(figure, {"": table}, drawn, notes)


def _at(cell: Cell) -> Record:
    """The record, with the folders of this machine in place of those of the machine that made it."""
    assert cell.record is not None
    return {**cell.record, "config": {**cell.record["config"], "paths": cell.settings["paths"]}}


def _absent(record: Mapping[str, Any]) -> bool:
    store = Store(record["config"]["paths"]["store"])
    return any(not store.peek(stage, record["artifacts"][stage]) for stage in ("attack", "metrics"))


def _picture(axes: Axes, cell: page.Cell) -> None:
    colour, width, sign = FRAMES[cell.recognised]
    axes.imshow(np.asarray(Image.open(io.BytesIO(base64.b64decode(cell.url.partition(",")[2])))))
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(sign, labelpad=1, fontsize=7)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
