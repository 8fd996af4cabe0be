"""From artifacts of a store to files of the zoo: how files are called, a folder of them with its index, which
others take whole or not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load

from midre_exp.errors import CheckpointError, StoreError
from midre_exp.plan.validate import is_id
from midre_exp.store.artifact import Artifact
from midre_exp.store.files import dump_json, read_json, write_atomic
from midre_exp.zoo.card import PRIOR, WEIGHTS, attacked_in, card_of, check_people
from midre_exp.zoo.files import CARD, SUFFIX, Card, bytes_of, pack, read_file, unpack
from midre_exp.zoo.page import page

INDEX, PAGE = "zoo.json", "README.md"


def file_of(
    artifact: Artifact,
    *,
    precision: str = "float32",
    people: str | None = None,
    consent: bool = False,
    attacked: Sequence[Mapping[str, Any]] = (),
) -> bytes:
    """The bytes of a classifier's or prior's file. Raises StoreError as ``card_of`` and ``check_people``."""
    card = card_of(artifact, people)
    if attacked:
        card = {**card, "attacked": list(attacked)}
    check_people(f"{artifact.stage}/{artifact.key}", card["people"], consent=consent)
    try:
        tensors = load((artifact.path / WEIGHTS).read_bytes())
    except (OSError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{artifact.path / WEIGHTS} cannot be read ({error}); rebuild it") from error
    return pack(tensors, {**card, "consent": consent and card["people"] != "synthetic"}, precision=precision)


def name_of(card: Mapping[str, Any]) -> str:
    """How its file is called: ``resnet18-midre-s0``, an evaluator ``evaluator-vgg16``, a prior
    ``prior-stylegan2-s0``.
    """
    of_target = card["stage"] == "target"
    defense = "+".join(card.get("defense") or ["unknown"]) if of_target else None
    seed = None if card.get("seed") is None else f"s{card['seed']}"
    network = card["prior"]["name"] if card["stage"] == PRIOR else card["target"]
    parts = ["" if of_target else card["stage"], network, defense, seed]
    return "-".join(part for part in parts if part)


def names_of(cards: Mapping[str, Card]) -> dict[str, str]:
    """The name of each of several files; where some would be the same, with what their cards differ in of the
    defense's numbers and the epochs: ``resnet18-midre-s0-a_h0.8-epochs66``.
    """
    groups: dict[str, list[str]] = {}
    for given, card in cards.items():
        groups.setdefault(name_of(card), []).append(given)
    found = {}
    for name, same in groups.items():
        told = {given: _numbers(cards[given]) for given in same}
        keys = sorted({key for one in told.values() for key in one})
        differing = [key for key in keys if len({str(one.get(key)) for one in told.values()}) > 1]
        for given, numbers in told.items():
            found[given] = "-".join([name, *(f"{key}{numbers[key]}" for key in differing if key in numbers)])
    return found


def _numbers(card: Card) -> dict[str, Any]:
    """What may tell two files of one name apart."""
    defense = card.get("defense") or {}
    values = {key: value for node in defense.values() for key, value in node.items()}
    numbers = {k: v for k, v in values.items() if isinstance(v, (int, float)) and type(v) is not bool}
    return {**numbers, **({"epochs": card["epochs"]} if card.get("epochs") is not None else {})}


def make_zoo(
    artifacts: Mapping[str, Artifact],
    folder: Path,
    *,
    precision: str = "float32",
    people: str | None = None,
    consent: bool = False,
    results: Path | None = None,
) -> list[Path]:
    """Write a file for each artifact, by its name or that which its card gives it (a name that begins with
    ``=``), with index and page, to a new folder. ``results``: a folder of records, of which cards say what
    attacks on their target reached. Raises StoreError where two would have one name.
    """
    if folder.exists():
        raise StoreError(f"{folder} exists already; give another name, or remove it first")
    attacked = {} if results is None else attacked_in(results)
    made: dict[str, bytes] = {}
    of: dict[str, Artifact] = {}
    cards = {given: card_of(artifact, people) for given, artifact in artifacts.items() if given[:1] == "="}
    own_names = names_of(cards)
    for given, artifact in artifacts.items():
        name = own_names.get(given, given)
        if not is_id(name):
            raise StoreError(f"{name} is no name of a file; give NAME=KEY with letters, digits and . _ + -")
        if name in made:
            raise StoreError(
                f"{of[name].stage}/{of[name].key} and {artifact.stage}/{artifact.key} would both be called "
                f"{name}; give one a name of its own, as {name}-2={artifact.stage}/{artifact.key}"
            )
        of[name] = artifact
        reached = attacked.get(artifact.key, ())
        made[name] = file_of(artifact, precision=precision, people=people, consent=consent, attacked=reached)
    for name, data in made.items():
        write_atomic(folder / f"{name}{SUFFIX}", data)
    write_index(folder)
    return [folder / f"{name}{SUFFIX}" for name in made]


def write_index(folder: Path) -> None:
    """Write ``zoo.json`` and the page of the files that lie in a folder, each verified."""
    found = {path.stem: read_file(path) for path in sorted(folder.glob(f"*{SUFFIX}"))}
    files = {
        name: {
            "sha256": one.sha256,
            "bytes": (folder / f"{name}{SUFFIX}").stat().st_size,
            **{key: one.card.get(key) for key in ("stage", "key", "target", "classes", "people", "seed")},
            "defense": one.card.get("defense"),
            "acc": one.card.get("metrics", {}).get("acc"),
            **({"prior": one.card["prior"]["name"]} if one.card["stage"] == PRIOR else {}),
        }
        for name, one in found.items()
    }
    write_atomic(folder / INDEX, dump_json({"zoo": CARD, "files": files}))
    cards = {name: (one.card, files[name]["bytes"]) for name, one in found.items()}
    write_atomic(folder / PAGE, page(cards))


def is_of_zoo(place: Path) -> bool:
    """Whether something to be imported is a file of a zoo, or a folder of them."""
    return place.suffix == SUFFIX or (place / INDEX).is_file()


def take_files(place: Path, folder: Path) -> list[Path]:
    """Copy a file of a zoo, or all that the index of a folder lists, to a zoo of one's own: all of them or,
    where one is damaged, is not the listed one or is called like another that is there, none. Raises
    UserError that names it.
    """
    paths = [place]
    if place.is_dir():
        listed = read_json(place / INDEX)
        names = sorted(listed.get("files", {})) if isinstance(listed, dict) else []
        if not names or not all(map(is_id, names)):
            raise StoreError(f"{place / INDEX} is no index of a zoo; get it again")
        paths = [place / f"{name}{SUFFIX}" for name in names]
    taken: dict[Path, bytes] = {}
    for path in paths:
        if path.is_symlink():
            raise StoreError(f"{path} is a link, so nothing was imported; give the file itself")
        if not is_id(path.stem):
            raise StoreError(f"{path.name} is no name of a file of a zoo; give it one of letters and digits")
        data = bytes_of(path)
        file = unpack(data, path)
        if published_sha256(path) not in (None, file.sha256):
            raise StoreError(f"{path} is not the file that {INDEX} lists, so nothing was imported")
        into = folder / path.name
        if into.exists() and into.read_bytes() != data:
            raise StoreError(f"{into} is another file of that name, so nothing was imported; rename one")
        taken[into] = data
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        read_file(path)  # or the index could not be written in the end
    for into, data in taken.items():
        if not into.exists():
            write_atomic(into, data)
    write_index(folder)
    return list(taken)


def verified(folder: Path) -> list[tuple[Path, Card]]:
    """Every file of a folder with its card. Raises CheckpointError for one that is damaged, that the index
    does not list or lists otherwise, and for one that it lists and that is missing.
    """
    paths = sorted(folder.glob(f"*{SUFFIX}"))
    found = []
    for path in paths:
        file = read_file(path)
        if published_sha256(path) != file.sha256:
            raise CheckpointError(f"{path} is not what {folder / INDEX} lists; get both again")
        found.append((path, file.card))
    if (folder / INDEX).is_file():
        listed = read_json(folder / INDEX)["files"]
        if missing := sorted(set(listed) - {path.stem for path in paths}):
            raise CheckpointError(f"{folder} lacks {missing[0]}{SUFFIX}, which {INDEX} lists; get it again")
    return found


def published_sha256(path: Path) -> str | None:
    """What the index beside a file says that its SHA-256 is; None where there is no index, or it does not
    list the file. Raises CheckpointError for an index that cannot be read.
    """
    index = path.parent / INDEX
    if not index.is_file():
        return None
    try:
        listed = read_json(index)["files"].get(path.stem)
        return None if listed is None else str(listed["sha256"])
    except (StoreError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of a zoo; get it again") from error
