"""Reconstructions to look at: identities in columns, a private image on top, below it what each attack
reconstructed.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from midre_exp.errors import ConfigError, StoreError
from midre_exp.plan.spelling import attack_name
from midre_exp.report.figures.style import Plot, Rendered
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.runs.published import PublishedResult
from midre_exp.report.tables.html import PRIVATE, Picture, gallery
from midre_exp.store.store import Store

#: Colour, width in points and sign of a picture's frame, by whether the identity was recognised.
FRAMES = {True: ("#C03020", 2.0, "✓"), False: ("0.75", 0.6, "–"), None: ("0.75", 0.6, "")}


class Grid(Plot):
    """A line for each run, with the pictures of the HTML pages."""

    shows_pictures = True

    def __init__(self, *, identities: int):
        self.identities = identities  # how many of the first ones

    def draw(
        self,
        runs: Sequence[PlannedRun],
        published: Sequence[PublishedResult],
        cached: Mapping[str, pd.DataFrame],
    ) -> Rendered:
        """Raises StoreError when no run has its pictures in the store, ConfigError when none may be shown."""
        recorded = [run for run in runs if run.record is not None]
        stored = [run for run in recorded if all(run.artifact(stage) for stage in ("attack", "metrics"))]
        if not stored:
            raise StoreError(
                f"none of the {len(recorded)} runs has its reconstructions in the store "
                f"{Store(runs[0].settings['paths']['store'])}; give paths.store= of the one that has them, "
                "or make them again: leave out --no-run"
            )
        pictures = gallery(recorded, identities=self.identities)
        rows = pictures.rows
        if not rows and pictures.notes:
            raise ConfigError(" ".join(pictures.notes))
        columns = max(len(row.pictures) for row in rows)
        figure = Figure(figsize=(1.7 + 0.62 * columns, 0.78 * len(rows) + 0.1), layout="constrained")
        for line, row in zip(figure.subplots(len(rows), columns, squeeze=False), rows, strict=True):
            for axes, picture in zip(line, row.pictures, strict=False):
                _draw(axes, picture)
            for axes in line[len(row.pictures) :]:
                axes.set_visible(False)
            title = row.title.replace(" against ", "\nagainst ")
            line[0].set_ylabel(title, rotation=0, ha="right", va="center", fontsize=7)
        table = pd.DataFrame(
            [
                {"line": row.title, "identity": identity, "recognised": picture.recognised}
                for row in rows
                for identity, picture in enumerate(row.pictures)
                if picture.recognised is not None
            ]
        )
        on_top = any(row.title == PRIVATE for row in rows)
        notes = [
            f"One column per identity{', the first private training image on top' if on_top else ''}, the "
            f"first restart of each attack{' below it' if on_top else ''}; nothing is picked by quality. ✓ "
            "and a thick frame: the evaluator recognised the identity; –: it did not.",
            *(
                f"Not in the store: {attack_name(run.row['attack'])} against {run.label}, seed {run.seed}."
                for run in recorded
                if run not in stored
            ),
            *pictures.notes,
            *pictures.banners,
        ]
        records = [run.record for run in stored if run.record is not None]
        return Rendered(figure, {"": table}, records, notes, pictures.gone)


def _draw(axes: Axes, picture: Picture) -> None:
    colour, width, sign = FRAMES[picture.recognised]
    content = base64.b64decode(picture.url.partition(",")[2])
    axes.imshow(np.asarray(Image.open(io.BytesIO(content))))
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(sign, labelpad=1, fontsize=7)
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=width)
