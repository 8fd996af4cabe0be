"""Reconstructions and photographs for multimodal models, in the folders of the public evaluation of model
inversion (Ho et al., arXiv 2505.03519; github.com/hosytuyen/MI-Eval-MLLM at 89010bc):

    AttackSamples/<PRIVATE>/private-data/<class>/*.png
    AttackSamples/<PRIVATE>/<ATTACK>/<PUBLIC>/<TARGET>/all-images/<class>/ID=<class>_T=<restart>.png
    AttackSamples/<PRIVATE>/<ATTACK>/<PUBLIC>/<TARGET>/prediction.csv      the evaluator's yes or no
    AttackSamples/<PRIVATE>/<ATTACK>/<PUBLIC>/<TARGET>/private-data/       once more: what it says differs
    export.json                                                            what the import goes by

That evaluation draws four photographs anew for every picture, from no seed; here each person has no more than
four, the same ones for every run. Controls are further "attacks" of an export. The question that it asks is
chosen by the path: by the name of the private data a face is asked about as one.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from PIL import Image
from torch import Tensor

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.config import digest
from midre_exp.plan.publication import banner
from midre_exp.records import Record, read_record
from midre_exp.store.files import explain, make_folder, read_json, write_json
from midre_exp.store.store import Store
from midre_exp.study.mllm import Picture, Subject, picture_name, picture_of, subject_of
from midre_exp.study.pictures import (
    check_comparable,
    own_settings,
    pictures_digest,
    private_photographs,
    reconstructions_of,
    rows_by_label,
)
from midre_exp.study.questionnaire import description
from midre_exp.study.same_person import Album, SameChoice, albums_of, somebody_else
from midre_exp.tracking.pictures import to_picture

EXPORT = "export.json"
_ROOT, _MADE, _PRIVATE = "AttackSamples", "all-images", "private-data"


@dataclass(frozen=True, kw_only=True)
class ExportChoice(SameChoice):
    """What an export shows of the pictures there are."""

    identities: int = 10_000  # at most so many, the first ones that all runs attacked
    controls: int = 100  # people of whom controls of each kind are made
    restarts: int | None = None  # at most so many reconstructions of a person; None: all that count
    subject: Subject | None = None  # what the model is to be asked about; None: by the private data


class Setup(NamedTuple):
    """One folder of pictures that are asked about: of a run, or of controls."""

    folder: Path  # below the export
    images: dict[Picture, Tensor]
    hits: dict[Picture, bool]  # the evaluator's; none of controls


def export(records: Sequence[Path], out: Path, choice: ExportChoice) -> int:
    """Write the pictures of some runs on the same private images; returns how many are asked about.

    Photographs are those of ``choice.part``. Raises ConfigError for people that are not to be published, for
    a folder that is not empty and for runs that are not comparable, StoreError when artifacts are gone.
    """
    runs = [read_record(path) for path in records]
    check_comparable(runs, records)
    settings = own_settings(runs[0], records[0], choice.overrides)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out={out} is no empty folder; give another, or remove it")
    store = Store(choice.store or settings["paths"]["store"])
    made = [reconstructions_of(record, store, judged=True) for record in runs]
    private = private_photographs(settings, choice.part, out)
    albums = albums_of(private, choice.photographs, choice.seed)
    attacked = [set(tensors["labels"].tolist()) for tensors in made]
    people = sorted(albums.keys() & set.intersection(*attacked))[: choice.identities]
    if not people:
        raise ConfigError(
            f"{', '.join(map(str, records))} have reconstructed nobody in common; choose other runs"
        )
    base = Path(_ROOT, _private_name(runs[0], settings, choice.subject))
    own = [_of_run(r, t, people, base, choice.restarts) for r, t in zip(runs, made, strict=True)]
    crossed = [_crossed(setup, people, choice) for setup in own]
    photographs = _photograph_controls(private, albums, people, base, choice)
    for setup in (*own, *crossed, *photographs.values()):
        _write(out, setup, private, {person: albums[person] for person in people})
    _write_private(out / base, private, {person: albums[person] for person in people})
    if told := banner(settings):
        _write_bytes(out / "READ_THIS_FIRST.txt", f"{told}\n".encode())
    content = {
        "part": choice.part,
        "seed": choice.seed,
        "photographs": choice.photographs,
        "runs": [
            {
                **description(record),
                "artifact": record["artifacts"]["attack"],
                "pictures": pictures_digest(record, store),
                "folder": str(setup.folder),
                "crossed": str(wrong.folder),
                "hits": {picture_name(*picture): hit for picture, hit in setup.hits.items()},
            }
            for record, setup, wrong in zip(runs, own, crossed, strict=True)
        ],
        "controls": {kind: str(setup.folder) for kind, setup in photographs.items()},
    }
    write_json(out / EXPORT, {"export": digest(content), **content})
    return sum(len(setup.images) for setup in (*own, *crossed, *photographs.values()))


def read_export(out: Path) -> dict[str, Any]:
    """What an export wrote down of itself. DataError for a folder that is none, or was changed."""
    path = out / EXPORT
    if not path.exists():
        raise DataError(f"{out} is no export, or one that was not finished: it has no {EXPORT}; export again")
    content = read_json(path)
    rest = {k: v for k, v in content.items() if k != "export"} if isinstance(content, dict) else None
    if rest is None or content.get("export") != digest(rest):
        raise DataError(f"{path} is damaged; export again, and put the files of answers into the new folders")
    return dict(content)


def pictures_in(setup: Path) -> list[Picture]:
    """The pictures of a setup's folder, by their names."""
    found = (picture_of(path.name) for path in (setup / _MADE).rglob("*.png"))
    return [picture for picture in found if picture is not None]


def _private_name(record: Record, settings: Mapping[str, Any], subject: Subject | None) -> str:
    """The folder of the private data, by whose name the evaluation chooses its question."""
    name = _safe(record["data"]["name"])
    of_dogs = "dog" in str(settings["data"]["private"]["_target_"]).rpartition(".")[2].lower()
    wanted = subject or ("dog" if of_dogs else "face")
    ways = {"face": ("", "_asked_as_CelebA"), "object": ("", "_asked_as_CIFAR"), "dog": ("",)}
    for way in ways[wanted]:
        path = f"{_ROOT}/{name}{way}/{_attack(record)}/{_public(record)}/{_target(record)}"
        if subject_of(path) == wanted:
            return name + way
    raise ConfigError(
        f"by the names in {path} the evaluation would ask about a {subject_of(path)}, not a {wanted}; give "
        f"the data another name, or --subject, one of {', '.join(get_args(Subject))}"
    )


def _of_run(
    record: Record, tensors: dict[str, Tensor], people: Sequence[int], base: Path, most: int | None
) -> Setup:
    folder = base / _attack(record) / _public(record) / _target(record)
    images, hits = {}, {}
    rows = rows_by_label(tensors["labels"])
    for person in people:
        for row in rows[person].tolist()[:most]:
            picture = (person, int(tensors["restarts"][row]))
            images[picture], hits[picture] = tensors["images"][row], bool(tensors["hits"][row])
    return Setup(folder, images, hits)


def _crossed(setup: Setup, people: Sequence[int], choice: ExportChoice) -> Setup:
    """Reconstructions of somebody else: what a model says yes to that takes any of them for anybody."""
    last = {person: image for (person, _), image in setup.images.items()}
    images = {(person, 0): last[other] for person, other in _pairs(people, choice)}
    attack, public, target = setup.folder.parts[-3:]
    return Setup(Path(*setup.folder.parts[:-3], f"{attack}_OF_SOMEBODY_ELSE", public, target), images, {})


def _photograph_controls(
    private: ImageSet, albums: Mapping[int, Album], people: Sequence[int], base: Path, choice: ExportChoice
) -> dict[str, Setup]:
    """Further photographs of the person, and of somebody else, which are nowhere among the references."""
    further = {person: place for person in people if (place := albums[person].further) is not None}
    same = {(person, 0): private.images[place] for person, place in [*further.items()][: choice.controls]}
    other = {
        (person, 0): private.images[further[stranger]]
        for person, stranger in _pairs(people, choice)
        if stranger in further
    }
    return {
        "same": Setup(base / "PHOTOGRAPHS" / "of_the_person" / choice.part, same, {}),
        "other": Setup(base / "PHOTOGRAPHS" / "of_somebody_else" / choice.part, other, {}),
    }


def _pairs(people: Sequence[int], choice: ExportChoice) -> Iterator[tuple[int, int]]:
    """Each person with somebody else, as far as controls are asked for."""
    if len(people) > 1:
        for place in range(min(choice.controls, len(people))):
            yield people[place], somebody_else(people, place, choice.seed)


def _write(out: Path, setup: Setup, private: ImageSet, albums: Mapping[int, Album]) -> None:
    folder = out / setup.folder
    for picture, image in setup.images.items():
        _save(folder / _MADE / str(picture[0]) / picture_name(*picture), image)
    if setup.hits:
        rows = [f"{picture_name(*picture)},{'yes' if hit else 'no'}" for picture, hit in setup.hits.items()]
        _write_bytes(folder / "prediction.csv", "\n".join(["filename,prediction", *rows, ""]).encode())
    asked = {person for person, _ in setup.images}
    _write_private(folder, private, {person: albums[person] for person in asked})


def _write_private(folder: Path, private: ImageSet, albums: Mapping[int, Album]) -> None:
    for person, album in albums.items():
        for number, row in enumerate(album.beside):
            _save(folder / _PRIVATE / str(person) / f"photograph-{number}.png", private.images[row])


def _save(path: Path, image: Tensor) -> None:
    buffer = io.BytesIO()
    Image.fromarray(to_picture(image).permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG")
    _write_bytes(path, buffer.getvalue())


def _write_bytes(path: Path, data: bytes) -> None:
    """Not synced to the disk one by one: an export counts once its last file is there."""
    make_folder(path.parent)
    try:
        path.write_bytes(data)
    except OSError as error:
        raise explain(error, path) from error


def _attack(record: Record) -> str:
    """In capitals, by which the evaluation knows KEDMI, LOMMA and PLGMI."""
    return _safe(record["attack"]).upper()


def _public(record: Record) -> str:
    return _safe(str(record["config"]["data"].get("public", {}).get("_target_", "public")).rpartition(".")[2])


def _target(record: Record) -> str:
    """The target with its defenses, seed and run."""
    defenses = "-".join(record["defense"]["parts"])
    return _safe(f"{record['target']}_{defenses}_s{record['seed']}_{record['key'][:8]}")


def _safe(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)
