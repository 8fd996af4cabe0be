"""A page of questions about two runs, and the key that tells which picture is whose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import jinja2
import torch
from torch import Tensor

from midre_exp.data.base import Dataset, Part
from midre_exp.errors import ConfigError, StoreError
from midre_exp.metrics import only_selected
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build, config_files, digest, trusted_packages
from midre_exp.plan.publication import banner, is_kept_by_git, shows_people, withheld
from midre_exp.records import Record, read_record
from midre_exp.records.comparable import private_images
from midre_exp.seeding import generator
from midre_exp.store.files import write_atomic, write_json
from midre_exp.store.store import Store
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

    identities: int = 150  # at most so many, the first ones that both runs attacked (150 in the paper)
    seed: int = 0  # of the order of the questions and the sides
    part: Part = "train"  # of the private images: the photographs
    store: str | None = None  # with the reconstructions; None: that of the user's config
    overrides: tuple[str, ...] = ()  # of the runs, as far as their private images depend on them


def make_study(records: tuple[Path, Path], page: Path, key: Path, choice: Choice) -> int:
    """Write the ``page`` and its ``key``; returns the number of questions.

    A question shows the first photograph of an identity, and of each run the first reconstruction that
    counts; nothing is picked by quality. A record is data, so the photographs are those of the user's own
    config, once it agrees with what the records say of theirs. Raises ConfigError where it does not and for
    runs that are not comparable, StoreError when artifacts are gone.
    """
    a, b = (read_record(path) for path in records)
    _check_comparable(a, b, records)
    settings = _own_settings(a, records[0], choice.overrides)
    store = Store(choice.store or settings["paths"]["store"])
    first, second = (_reconstructions(record, store) for record in (a, b))
    dataset = build(settings["data"]["private"], kind=Dataset, trusted=trusted_packages(settings))
    if reason := withheld(settings):
        raise ConfigError(f"{reason} Give it behind the records, if this page may show them")
    if shows_people(settings) and is_kept_by_git(page):
        raise ConfigError(
            f"{page} would hold private photographs where git keeps it; give --out outside of the checkout "
            "or where git ignores it"
        )
    private = dataset.load(choice.part)
    photographs = _first_of_each(private.images, private.labels)
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
            data_url(image, largest=_LARGEST)
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
    environment = jinja2.Environment(loader=jinja2.PackageLoader("midre_exp.study", "."), autoescape=True)
    write_atomic(
        page,
        environment.get_template("page.html.j2").render(
            study=study, pictures=pictures, banner=banner(settings)
        ),
    )
    runs = {"a": _description(a), "b": _description(b)}
    content = {"study": study, "seed": choice.seed, "part": choice.part, "runs": runs, "questions": questions}
    write_json(key, content)
    return len(questions)


def _check_comparable(a: Record, b: Record, files: tuple[Path, Path]) -> None:
    images = [private_images(record["config"]) for record in (a, b)]
    if images[0] != images[1]:
        raise ConfigError(
            f"{files[0]} and {files[1]} attack different private images; choose two runs on the same data "
            "and split"
        )
    if a["key"] == b["key"]:
        raise ConfigError(f"{files[0]} and {files[1]} are the same run; choose two")


def _own_settings(record: Record, file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The user's own config of the setup, data and scale that a record names. Raises ConfigError when its
    private images are not those that the record describes.
    """
    names = {"setup": record["setup"]["id"], "data": record["data"]["name"], "scale": record["scale"]}
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    for group, name in names.items():
        if group not in given and name not in config_files(group):
            raise ConfigError(
                f"{file} is of {group} {name}, which is none of your configs; give {group}=NAME behind the "
                "records, with --config-dir if it is your own"
            )
    chosen = [f"{group}={name}" for group, name in names.items() if group not in given]
    with packaged_configs():
        settings = settings_of([*chosen, *overrides])
    recorded, own = (private_images(config, moved=True) for config in (record["config"], settings))
    if differing := [name for name, value in recorded.items() if own.get(name) != value]:
        name = differing[0]
        raise ConfigError(
            f"{file} attacked private images of which {', '.join(differing)} differ from those of your "
            f"config ({name}: {recorded[name]!r} there, {own.get(name)!r} here); give the overrides of its "
            f"run behind the records, for example data.private.{name}=VALUE"
        )
    return settings


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


def _description(record: Record) -> dict[str, object]:
    return {
        "key": record["key"],
        "attack": record["attack"],
        "target": record["target"],
        "scale": record["scale"],
        "seed": record["seed"],
        "setup": record["setup"]["id"],
        "defense": record["defense"]["label"],
    }


def _reconstructions(record: Record, store: Store) -> dict[int, Tensor]:
    """By identity its first reconstruction that counts, uint8 [3, h, w]."""
    attack = store.find("attack", record["artifacts"]["attack"])
    if attack is None:
        raise StoreError(
            f"the reconstructions of run {record['key']} are not in {store}; run it again, or "
            "give the right folder with --store"
        )
    tensors = attack.tensors("reconstructions")
    if "selected" in tensors:
        tensors = only_selected(tensors)
    order = tensors["restarts"].argsort(stable=True)
    return _first_of_each(tensors["images"][order], tensors["labels"][order])


def _first_of_each(images: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """By label, the first of its images."""
    first: dict[int, Tensor] = {}
    for image, label in zip(images, labels.tolist(), strict=True):
        first.setdefault(label, image)
    return first
