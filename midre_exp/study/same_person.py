"""A page that asks "is this the same person?" of a picture beside photographs, with controls among the
questions, and the key that tells what each picture is.

Four kinds of questions stand in one random order: a ``reconstruction`` beside photographs of the person it is
of; a further photograph of that person (``same``: the right answer is yes); a photograph of somebody else
(``other``: it is no); a reconstruction of somebody else (``crossed``: what a rater says yes to who takes any
reconstruction for anybody). The people of a question are never told apart by how many photographs it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Literal, NamedTuple, TypedDict, TypeVar, get_args

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.plan.config import digest
from midre_exp.plan.publication import banner
from midre_exp.records import Record, read_record
from midre_exp.seeding import derive, generator
from midre_exp.store.files import write_atomic, write_json
from midre_exp.store.store import Store
from midre_exp.study.pictures import (
    check_comparable,
    own_settings,
    pictures_digest,
    private_photographs,
    reconstructions_of,
    rows_by_label,
)
from midre_exp.study.questionnaire import Choice, description, page_of, picture

T = TypeVar("T")

Kind = Literal["reconstruction", "same", "other", "crossed"]


class SameQuestion(TypedDict):
    """One question as the key file has it."""

    kind: Kind
    identity: int  # whose photographs stand beside the picture
    name: str  # this identity's, in its data set
    of: int  # the identity whose picture or reconstruction it is
    run: int | None  # of a reconstruction: its place among the runs
    restart: int | None  # of a reconstruction
    hit: bool | None  # whether the evaluator takes it for the identity whose reconstruction it is


@dataclass(frozen=True, kw_only=True)
class SameChoice(Choice):
    """What a page of absolute questions shows."""

    part: Literal["train", "test"] = (
        "test"  # photographs that the target never saw reward no memorised pixels
    )
    photographs: int = 4  # at most so many beside each picture (4 in the published multimodal evaluation)
    controls: int = 10  # of each kind, as far as there are people


class Album(NamedTuple):
    """The photographs of one person that a study shows."""

    beside: tuple[int, ...]  # rows that stand beside a picture
    further: int | None  # the row of one more, for a control


def make_same_study(records: Sequence[Path], page: Path, key: Path, choice: SameChoice) -> int:
    """Write the ``page`` and its ``key``; returns the number of questions.

    Of each run and identity the first reconstruction that counts is shown; nothing is picked by quality.
    Raises ConfigError for runs that are not comparable and where controls cannot be made, StoreError when
    artifacts are gone.
    """
    runs = [read_record(path) for path in records]
    check_comparable(runs, records)
    settings = own_settings(runs[0], records[0], choice.overrides)
    store = Store(choice.store or settings["paths"]["store"])
    made = [reconstructions_of(record, store, judged=True) for record in runs]
    private = private_photographs(settings, choice.part, page)
    albums = albums_of(private, choice.photographs, choice.seed)
    rows = [rows_by_label(tensors["labels"]) for tensors in made]
    identities = sorted(albums.keys() & set.intersection(*(set(found) for found in rows)))
    identities = identities[: choice.identities]
    if len(identities) < 2 or all(albums[identity].further is None for identity in identities):
        raise ConfigError(
            f"controls need two people that {' and '.join(map(str, records))} attack, one of them with two "
            f"photographs in part {choice.part}; there are {len(identities)} people; use --part or other runs"
        )
    questions, shown = [], []
    for asked, row in _questions(identities, albums, made, rows, private, choice):
        questions.append(asked)
        probe = private.images[row] if asked["run"] is None else made[asked["run"]]["images"][row]
        beside = [private.images[place] for place in albums[asked["identity"]].beside]
        shown.append([picture(image) for image in (probe, *beside)])
    described = [{**description(r), **_artifacts(r, store)} for r in runs]
    study = same_study_digest(described, choice.part, choice.seed, questions)
    write_atomic(page, page_of(study, shown, "same", banner(settings)))
    content = {"study": study, "ask": "same", "seed": choice.seed, "part": choice.part}
    write_json(key, {**content, "runs": described, "questions": questions})
    return len(questions)


def same_study_digest(runs: object, part: object, seed: object, questions: object) -> str:
    """What names a study: all that its key tells."""
    return digest(["same", runs, part, seed, questions])


def is_question(value: object, runs: int) -> bool:
    """Whether a value is one of ``SameQuestion``, of as many runs."""
    if not isinstance(value, dict) or value.keys() != SameQuestion.__annotations__.keys():
        return False
    is_photograph = value["kind"] in ("same", "other")
    places = [None] if is_photograph else range(runs)
    return (
        value["kind"] in get_args(Kind) and value["run"] in places and type(value["hit"]) in (bool, NoneType)
    )


def albums_of(private: ImageSet, photographs: int, seed: int) -> dict[int, Album]:
    """The photographs of each identity that stand beside pictures, drawn by (seed, identity), the same ones
    for every run; where there are two and more, one is kept for controls, so that these look like the rest.
    """
    albums = {}
    for label, rows in rows_by_label(private.labels).items():
        drawn = rows[torch.randperm(len(rows), generator=generator(seed, "study", "album", label))].tolist()
        beside = min(photographs, max(1, len(drawn) - 1))
        albums[label] = Album(tuple(drawn[:beside]), drawn[beside] if len(drawn) > beside else None)
    return albums


def _questions(
    identities: list[int],
    albums: dict[int, Album],
    made: list[dict[str, Tensor]],
    rows: list[dict[int, Tensor]],
    private: ImageSet,
    choice: SameChoice,
) -> Iterator[tuple[SameQuestion, int]]:
    """All questions in their order, with the row of the picture in question."""

    def asked(kind: Kind, identity: int, of: int, run: int | None, row: int) -> tuple[SameQuestion, int]:
        question = SameQuestion(
            kind=kind,
            identity=identity,
            name=private.classes[identity],
            of=of,
            run=run,
            restart=None if run is None else int(made[run]["restarts"][row]),
            hit=None if run is None else bool(made[run]["hits"][row]),
        )
        return question, row

    all_of_them = [
        asked("reconstruction", identity, identity, run, int(rows[run][identity][0]))
        for run in range(len(made))
        for identity in identities
    ]
    mixed = _shuffled(identities, choice.seed, "controls")
    with_further = [identity for identity in mixed if albums[identity].further is not None]
    for identity in with_further[: choice.controls]:
        all_of_them.append(asked("same", identity, identity, None, _further(albums, identity)))
    for place in range(min(choice.controls, len(mixed))):
        identity, somebody = mixed[place], somebody_else(mixed, place, choice.seed)
        run = place % len(made)
        # the last restart: the first is asked about already
        all_of_them.append(asked("crossed", identity, somebody, run, int(rows[run][somebody][-1])))
        others = [other for other in with_further if other != identity]
        if others:
            other = others[derive(choice.seed, "study", "other", identity) % len(others)]
            all_of_them.append(asked("other", identity, other, None, _further(albums, other)))
    yield from _shuffled(all_of_them, choice.seed, "order")


def _further(albums: dict[int, Album], identity: int) -> int:
    row = albums[identity].further
    assert row is not None  # of those chosen
    return row


def somebody_else(people: Sequence[int], place: int, seed: int) -> int:
    """Another one than the person at a place of several: all are drawn once."""
    steps = 1 + derive(seed, "study", "crossed") % (len(people) - 1)
    return people[(place + steps) % len(people)]


def _shuffled(values: Sequence[T], seed: int, purpose: str) -> list[T]:
    order = torch.randperm(len(values), generator=generator(seed, "study", "same", purpose))
    return [values[place] for place in order.tolist()]


def _artifacts(record: Record, store: Store) -> dict[str, str]:
    return {"artifact": record["artifacts"]["attack"], "pictures": pictures_digest(record, store)}
