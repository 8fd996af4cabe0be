"""A self-contained HTML page of a comparison: the table, and private samples beside what each attack
reconstructed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from midre_exp.data.base import Dataset
from midre_exp.errors import DataError
from midre_exp.plan.config import build, digest, trusted_packages
from midre_exp.plan.publication import NOTICE, banner, people_of, withheld
from midre_exp.plan.spelling import attack_name
from midre_exp.records import results_folder
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.report.tables.kept_pictures import kept
from midre_exp.report.templates import Column, templates_of
from midre_exp.tracking.pictures import data_url

#: Pixels of a picture's longer side on a page, twice what is shown: hundreds of pictures of 224 px would make
#: it tens of megabytes.
LARGEST = 128
#: The title of a line of private images.
PRIVATE = "private image"


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
    key: str | None = None  # under which to keep them beside the records; None: not to, or kept before


@dataclass(frozen=True)
class Gallery:
    """The pictures of a page or figure, and what it lacks."""

    rows: Sequence[PictureRow] = ()
    gone: Sequence[str] = ()  # of what there are no pictures any more, or not on this machine
    notes: Sequence[str] = ()  # what a reader must know of the pictures
    banners: Sequence[str] = ()  # what stands above pictures of people


def gallery(runs: Sequence[PlannedRun], *, identities: int = 10) -> Gallery:
    """For each private data set a line of training samples, then for each run the first restart of the same
    identities.

    Nothing is picked by quality. Runs whose artifacts are not in the store are shown by the small pictures
    that were kept beside the records, and left out without these, and so are samples of data that are not on
    this machine; of people without ``publish.people=true`` everything is.
    """
    rows: list[PictureRow] = []
    gone: list[str] = []
    notes: list[str] = []
    banners: list[str] = []
    groups: dict[str, list[PlannedRun]] = {}
    for run in runs:
        groups.setdefault(digest(run.settings["data"]["private"]), []).append(run)
    for group in groups.values():
        settings = group[0].settings
        if reason := withheld(settings):
            notes.append(reason)
            continue
        if told := banner(settings):
            banners.append(told)
        dataset = build(settings["data"]["private"], kind=Dataset, trusted=trusted_packages(settings))
        try:
            rows.append(_private_row(dataset, identities))
        except DataError:
            gone.append(f"private images of {settings['data']['name']}")
        for run in group:
            row = _reconstructed_row(run, runs, identities)
            rows += [] if row is None else [row]
            gone += [f"{attack_name(run.row['attack'])} against {run.label}"] if row is None else []
    return Gallery(rows, gone, list(dict.fromkeys(notes)), list(dict.fromkeys(banners)))


def _private_row(dataset: Dataset, identities: int) -> PictureRow:
    private = dataset.load("train")
    labels = range(min(identities, private.num_classes))
    samples = [private.images[(private.labels == label).nonzero()[0, 0]] for label in labels]
    return PictureRow(PRIVATE, [Picture(data_url(image, largest=LARGEST)) for image in samples])


def _reconstructed_row(run: PlannedRun, runs: Sequence[PlannedRun], identities: int) -> PictureRow | None:
    attack, metrics = (run.artifact(stage) for stage in ("attack", "metrics"))
    setup = f"{run.setup}: " if len({other.setup for other in runs}) > 1 else ""
    seed = f", seed {run.seed}" if len({other.seed for other in runs}) > 1 else ""
    title = f"{setup}{attack_name(run.row['attack'])} against {run.label}{seed}"
    may_be_kept = people_of(run.settings) == "synthetic"
    if attack is None or metrics is None:
        key = None if run.record is None else run.record["artifacts"].get("metrics")
        found = kept(results_folder(run.settings), key, identities) if key and may_be_kept else []
        return PictureRow(title, [Picture(*one) for one in found]) if found else None
    reconstructions = attack.tensors("reconstructions")
    predicted = metrics.tensors("judgement")["predicted"]
    pictures = []
    for label in range(identities):
        first = (reconstructions["labels"] == label) & (reconstructions["restarts"] == 0)
        if first.any():
            i = int(first.nonzero()[0, 0])
            url = data_url(reconstructions["images"][i], largest=LARGEST)
            pictures.append(Picture(url, bool(predicted[i] == label)))
    return PictureRow(title, pictures, metrics.key if may_be_kept else None)


def page_of(
    *,
    title: str,
    caption: str,
    table: pd.DataFrame,
    rows: Sequence[PictureRow],
    missing: Sequence[str] = (),
    notes: Sequence[str] = (),
    banners: Sequence[str] = (),
    people: pd.DataFrame | None = None,
) -> str:
    """The page. ``table`` is printable text; ``missing`` lists the commands of runs without a record;
    ``notes`` are footnotes, ``banners`` stand on top, ``people`` are the
    rows of a second table.
    """
    template = templates_of("midre_exp.report.tables").get_template("page.html.j2")
    return template.render(
        title=title,
        caption=caption,
        columns=[Column.of(heading, table[heading]) for heading in table.columns],
        lines=table.to_numpy().tolist(),
        rows=rows,
        private=any(row.title == PRIVATE for row in rows),
        missing=missing,
        notes=notes,
        banners=banners,
        people=None if people is None or people.empty else people,
        notice=NOTICE,
    )
