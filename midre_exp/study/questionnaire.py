"""A page that asks which of two runs is closer, and the key that tells which picture is whose."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import jinja2
import torch
from torch import Tensor

from midre_exp.data.base import Part
from midre_exp.errors import ConfigError
from midre_exp.plan.config import digest
from midre_exp.plan.publication import banner
from midre_exp.records import Record, read_record
from midre_exp.seeding import generator
from midre_exp.store.files import write_atomic, write_json
from midre_exp.store.store import Store
from midre_exp.study.pictures import (
    check_comparable,
    own_settings,
    private_photographs,
    reconstructions_of,
    rows_by_label,
)
from midre_exp.tracking.pictures import data_url

_LARGEST = 256  # pixels of a picture's longer side


class Question(TypedDict):
    """One question as the key file has it."""

    identity: int
    name: str  # the identity's, in its data set
    left: str  # the run whose reconstruction stands there: a or b


@dataclass(frozen=True)
class Choice:
    """What a study shows of the pictures there are."""

    identities: int = 150  # at most so many, the first ones that all runs attacked (150 in the paper)
    seed: int = 0  # of the order of the questions, the sides, the controls and the photographs
    part: Part = "train"  # of the private images: the photographs
    store: str | None = None  # with the reconstructions; None: that of the user's config
    overrides: tuple[str, ...] = ()  # of the runs, as far as their private images depend on them


def make_study(records: Sequence[Path], page: Path, key: Path, choice: Choice) -> int:
    """Write the ``page`` and its ``key``; returns the number of questions.

    A question shows the first photograph of an identity, and of each run the first reconstruction that
    counts; nothing is picked by quality. A record is data, so the photographs are those of the user's own
    config, once it agrees with what the records say of theirs. Raises ConfigError where it does not and for
    runs that are not comparable, StoreError when artifacts are gone.
    """
    if len(records) != 2:
        raise ConfigError(f"which of two runs is closer is asked of two records, not of {len(records)}")
    a, b = (read_record(path) for path in records)
    check_comparable([a, b], records)
    settings = own_settings(a, records[0], choice.overrides)
    store = Store(choice.store or settings["paths"]["store"])
    first, second = (_first_of_each(reconstructions_of(record, store)) for record in (a, b))
    private = private_photographs(settings, choice.part, page)
    photographs = _first_of_each({"images": private.images, "labels": private.labels})
    identities = sorted(first.keys() & second.keys() & photographs.keys())[: choice.identities]
    if not identities:
        raise ConfigError(
            f"{records[0]} and {records[1]} have reconstructed no identity in common; choose runs that "
            "attack the same ones"
        )
    questions = [
        Question(identity=identity, name=private.classes[identity], left="b" if swapped else "a")
        for identity, swapped in _order(identities, choice.seed)
    ]
    pictures = [
        [
            picture(image)
            for image in _in_sides(
                photographs[asked["identity"]],
                first[asked["identity"]],
                second[asked["identity"]],
                asked["left"],
            )
        ]
        for asked in questions
    ]
    study = digest([a["key"], b["key"], choice.part, choice.seed, questions])
    write_atomic(page, page_of(study, pictures, "closer", banner(settings)))
    runs = {"a": description(a), "b": description(b)}
    content = {"study": study, "seed": choice.seed, "part": choice.part, "runs": runs, "questions": questions}
    write_json(key, content)
    return len(questions)


#: At the end of the page; it must not say what a picture is.
NOTICE_TO_PARTICIPANTS = (
    "The pictures are for this study alone: do not copy them or pass them on, and look for nobody by them."
)


def page_of(study: str, pictures: list[list[str]], ask: Literal["closer", "same"], told: str | None) -> str:
    """The page that asks; of each question its pictures, of ``closer`` photograph, left and right, of
    ``same`` the picture in question and then the photographs beside it. One shown twice is there once.
    ``told``: what stands above, where people are on it.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midre_exp.study", "."), autoescape=True, trim_blocks=True
    )
    place = {url: number for number, url in enumerate(dict.fromkeys(itertools.chain(*pictures)))}
    return environment.get_template("page.html.j2").render(
        study=study,
        ask=ask,
        banner=told,
        notice=NOTICE_TO_PARTICIPANTS,
        pictures=[*place],
        questions=[[place[url] for url in shown] for shown in pictures],
        widest=max(map(len, pictures)),
    )


def picture(image: Tensor) -> str:
    """An image as a page holds it."""
    return data_url(image, largest=_LARGEST)


def description(record: Record) -> dict[str, Any]:
    """What a key tells of a run."""
    return {
        "key": record["key"],
        "attack": record["attack"],
        "target": record["target"],
        "scale": record["scale"],
        "seed": record["seed"],
        "setup": record["setup"]["id"],
        "defense": record["defense"]["label"],
    }


def _order(identities: list[int], seed: int) -> list[tuple[int, bool]]:
    """The identities in the order they are asked about, and whether the second run then stands on the left.

    The sides are a balanced draw: with a coin for each question one run could stand on the favoured side
    more often.
    """
    count = len(identities)
    order = torch.randperm(count, generator=generator(seed, "study", "order")).tolist()
    swapped = (torch.randperm(count, generator=generator(seed, "study", "sides")) % 2).bool().tolist()
    return [(identities[place], swap) for place, swap in zip(order, swapped, strict=True)]


def _in_sides(photograph: Tensor, first: Tensor, second: Tensor, left: str) -> list[Tensor]:
    return [photograph, first, second] if left == "a" else [photograph, second, first]


def _first_of_each(tensors: dict[str, Tensor]) -> dict[int, Tensor]:
    """By label, the first of its ``images``."""
    rows = rows_by_label(tensors["labels"])
    return {label: tensors["images"][int(row[0])] for label, row in rows.items()}
