"""From artifacts of a store to files of the zoo: what a card says, how files are called, a folder of them
with an index and a page.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load

from midre_exp.errors import CheckpointError, StoreError
from midre_exp.plan.config import digest
from midre_exp.plan.publication import SWITCH
from midre_exp.plan.validate import is_id
from midre_exp.store.artifact import Artifact, readable
from midre_exp.store.files import dump_json, read_json, write_atomic
from midre_exp.weights.formats import metadata
from midre_exp.zoo.files import CARD, ENTRY, SUFFIX, Card, bytes_of, pack, read_file, unpack

#: The stages whose weights are a classifier's.
CLASSIFIERS = ("target", "evaluator", "pretraining", "evaluator_pretraining")
INDEX, PAGE = "zoo.json", "README.md"
_WEIGHTS = "weights.safetensors"
#: Of the private images: an artifact does not say whose faces they are, but for rendered ones.
_RENDERED = "synthfaces"


def card_of(artifact: Artifact, people: str | None = None) -> Card:
    """What a classifier's file says of it, of the manifest of its artifact alone. ``people``: who is on its
    images (``data.people``), where the manifest cannot tell. Raises StoreError for another stage's artifact.
    """
    manifest = artifact.manifest
    config: Mapping[str, Any] = manifest.get("config", {})
    node = config.get("evaluator" if artifact.stage.startswith("evaluator") else "target")
    if artifact.stage not in CLASSIFIERS or not isinstance(node, Mapping) or "model" not in node:
        raise StoreError(
            f"{artifact.stage}/{artifact.key} is no classifier ({', '.join(CLASSIFIERS)}); export it to a "
            "folder or a .tar"
        )
    said = _said(artifact)
    model: dict[str, Any] = dict(node["model"])
    metrics = artifact.metrics
    return {
        "stage": artifact.stage,
        "key": artifact.key,
        "target": node["name"],
        "model": model,
        "normalisation": {name: model[name] for name in ("mean", "std") if name in model},
        "classes": said.get("classes", next(iter(metrics["counts"].values()))),
        **({"defense": said.get("defense")} if said.get("defense") is not None else {}),
        "resolution": config.get("data", {}).get("size"),
        "data": config.get("data"),
        "people": people_in(config.get("data"), people),
        "seed": config.get("seed"),
        "start": node.get("weights"),
        "epochs": node.get("recipe", {}).get("epochs"),
        "metrics": {name: metrics[name] for name in ("acc", "train_acc", "chance") if name in metrics},
        "counts": metrics.get("counts", {}),
        "alarms": metrics.get("alarms", []),
        "commit": manifest.get("commit"),
        "code": manifest.get("code"),
        "config": digest(dict(config)),
        "versions": manifest.get("versions", {}),
    }


def people_in(fingerprint: object, told: str | None = None) -> str:
    """Who is on the images of a fingerprint: nobody where code renders them, else what the user told."""
    rendered = isinstance(fingerprint, Mapping) and fingerprint.get("dataset") == _RENDERED
    return "synthetic" if rendered else told or "unknown"


def check_people(what: str, people: str, *, consent: bool) -> None:
    """Raise StoreError where what was learnt from real people would be handed on without a word."""
    if people != "synthetic" and not consent:
        raise StoreError(
            f"{what} was made from pictures of people ({people}), and weights and latents may show them "
            f"again; add {SWITCH} if the licence of the data and these people allow it"
        )


def file_of(
    artifact: Artifact, *, precision: str = "float32", people: str | None = None, consent: bool = False
) -> bytes:
    """The bytes of a classifier's file. Raises StoreError as ``card_of`` and ``check_people``."""
    card = card_of(artifact, people)
    check_people(f"{artifact.stage}/{artifact.key}", card["people"], consent=consent)
    try:
        tensors = load((artifact.path / _WEIGHTS).read_bytes())
    except (OSError, SafetensorError, KeyError, AttributeError, TypeError) as error:
        raise StoreError(f"{artifact.path / _WEIGHTS} cannot be read ({error}); rebuild it") from error
    return pack(tensors, {**card, "consent": consent and card["people"] != "synthetic"}, precision=precision)


def name_of(card: Mapping[str, Any]) -> str:
    """How its file is called: ``resnet18-midre-s0``, an evaluator ``evaluator-vgg16-s0``."""
    of_target = card["stage"] == "target"
    defense = "+".join(card.get("defense") or ["unknown"]) if of_target else None
    seed = None if card.get("seed") is None else f"s{card['seed']}"
    parts = ["" if of_target else card["stage"], card["target"], defense, seed]
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
) -> list[Path]:
    """Write a file for each artifact, by its name or that which its card gives it (a name that begins with
    ``=``), with index and page, to a new folder. Raises StoreError where two would have one name.
    """
    if folder.exists():
        raise StoreError(f"{folder} exists already; give another name, or remove it first")
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
        made[name] = file_of(artifact, precision=precision, people=people, consent=consent)
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
        }
        for name, one in found.items()
    }
    write_atomic(folder / INDEX, dump_json({"zoo": CARD, "files": files}))
    cards = {name: (one.card, files[name]["bytes"]) for name, one in found.items()}
    write_atomic(folder / PAGE, _page(cards))


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


def _said(artifact: Artifact) -> dict[str, Any]:
    """What the run that made it let its weights say; nothing of older ones."""
    try:
        said = json.loads(metadata(artifact.path / _WEIGHTS).get(ENTRY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _page(cards: Mapping[str, tuple[Card, int]]) -> str:
    rows = [
        f"| {name} | {card['target']} | {_defense(card)} | {card['classes']} | {_of(card, 'acc')} | "
        f"{_of(card, 'train_acc')} | {card['people']} | {card.get('epochs')} | {card['precision']} | "
        f"{readable(size)} | {card.get('commit')} |"
        for name, (card, size) in cards.items()
    ]
    example = next(iter(cards), "NAME")
    return "\n".join(
        [
            "# A zoo of classifiers",
            "",
            "Each file is safetensors with a card inside and a checksum of all its bytes; nothing in it is",
            "executed. A target remembers the people it was trained on: hand on only what may be handed on.",
            "",
            "    from midre_exp.zoo import load_target, read_card",
            f'    model = load_target("zoo/{example}")       # verified; in eval mode, on the CPU',
            f'    card = read_card("zoo/{example}{SUFFIX}")  # what it is',
            "",
            "| file | network | defense | classes | acc | train acc | people | epochs | in | size | commit |",
            "|---|---|---|--:|--:|--:|---|--:|---|--:|---|",
            *rows,
            "",
        ]
    )


def _defense(card: Mapping[str, Any]) -> str:
    """Its parts with the values that are numbers."""
    if card["stage"] != "target":
        return "none"
    parts = []
    for name, node in (card.get("defense") or {"unknown": {}}).items():
        values = [f"{k}={v}" for k, v in node.items() if isinstance(v, (int, float)) and type(v) is not bool]
        parts.append(f"{name} ({', '.join(values)})" if values else name)
    return " + ".join(parts)


def _of(card: Mapping[str, Any], name: str) -> str:
    value = card.get("metrics", {}).get(name)
    return f"{value:.1f}" if isinstance(value, (int, float)) else ""
