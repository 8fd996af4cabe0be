"""Weight files that a config calls by name: a card's own name, or the source it belongs to (``ms1m``), which
means another file for each network. Where they lie on this machine, whether they are there, and whether they
are what the card says.

They lie in the folders that their cards name, below ``paths.weights``; those of torch's hub stay there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.cards.read import WeightsCard, weights_cards
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.config import Settings, texts_below
from midre_exp.plan.scale import lineage
from midre_exp.store.files import known_sha256

#: What a library brings by itself, by the network: no card is asked for it.
LIBRARY = ("imagenet",)
#: The folder of a card whose file a library or an older habit puts into torch's hub.
HUB = "torch hub"
#: Where a config may name a file, and what stands there when it names none. A mapping or text below each.
_PLACES = (
    *((role, key) for role in ("target", "evaluator") for key in ("weights", "checkpoint")),
    ("attack", "prior", "pretrained"),
    ("attack", "surrogates", "weights"),
    ("attack", "surrogates", "pretrained"),
)


class NamedFile(NamedTuple):
    """A file that the key ``key`` of a config calls by ``name``."""

    key: str
    name: str
    card: WeightsCard
    path: Path  #: where it lies or should

    def problem(self) -> str | None:
        """What stands against using it, in a sentence with the remedy; None where nothing does."""
        if self.card.file is None:
            return f"{self.key}={self.name}: no card knows the name of that file; give its path"
        if not self.path.is_file() or not self.path.stat().st_size:
            state = "is empty" if self.path.is_file() else "is not there"
            place = self.card.page or self.card.publisher
            how = f" ({self.card.access.rstrip('.')})" if self.card.access else ""
            return (
                f"{self.key}={self.name} wants {self.card.title}, and {self.path} {state}; put it "
                f"there, from {place}{how}, or {_without(self.key)}"
            )
        if self.card.sha256 is not None and known_sha256(self.path) != self.card.sha256:
            return (
                f"{self.path} is not {self.card.title} as published (its SHA-256 is "
                f"{known_sha256(self.path)[:8]}..., not {self.card.sha256[:8]}...); get it again from "
                f"{self.card.page}, or name your own file by its path, {self.key}=PATH"
            )
        return None


def named_files(settings: Settings) -> list[NamedFile]:
    """Every file that a resolved config calls by name. Raises ConfigError for a source that has no file for
    the network.
    """
    return list(_named(settings))


def missing(settings: Settings) -> list[str]:
    """What of these a run cannot use here, a sentence each with what to fetch, from whom, and where it
    goes.
    """
    return [told for file in named_files(settings) if (told := file.problem()) is not None]


def check_named(settings: Settings) -> None:
    """Raise CheckpointError where a run would not have a file that its config names."""
    if told := missing(settings):
        raise CheckpointError("; and ".join(dict.fromkeys(told)))


def with_files(settings: Settings) -> dict[str, Any]:
    """The config with the path of each such file in place of its name, as far as it is there."""
    found = dict(settings)
    for file in named_files(settings):
        if file.path.is_file():
            found = _replaced(found, file.key.split("."), str(file.path))
    return found


def is_named(value: object) -> bool:
    """Whether a value of a config is the name of a weight file with a card, or of a source of such files."""
    cards = weights_cards()
    return value in cards or any(value == card.source for card in cards.values() if card.source)


def card_called(name: object, networks: tuple[str, ...]) -> WeightsCard | None:
    """The card that a name means for the first of ``networks`` that it has a file for; None for what is no
    name: null, paths, what libraries bring. Raises ConfigError for a source without a file for any of them.
    """
    if not isinstance(name, str) or name in LIBRARY:
        return None
    cards = weights_cards()
    if name in cards:
        if cards[name].source in LIBRARY:
            raise ConfigError(
                f"weights={name} is what {cards[name].publisher} brings by itself; write weights="
                f"{cards[name].source}"
            )
        return cards[name]
    of_source = [card for card in cards.values() if card.source == name]
    for network in networks:
        for card in of_source:
            if network in card.used_by:
                return card
    if of_source:
        known = ", ".join(sorted({network for card in of_source for network in card.used_by}))
        raise ConfigError(
            f"weights={name} has no file for {networks[0]}, only for {known}; name another source, the path "
            "of a file, or null"
        )
    return None


def card_of_file(path: str | Path, folder: str | Path) -> WeightsCard | None:
    """The card of a file by its name or place, ``folder`` being ``paths.weights``; None for one without."""
    file = Path(path).expanduser()
    named = [card for card in weights_cards().values() if card.file == file.name]
    placed = [card for card in weights_cards().values() if _lies_at(card, file, folder)]
    return next(iter([*placed, *named]), None)


def published_accuracy(network: str, data: str) -> float | None:
    """Percent of test images that the published classifier of this network recognises (``gives`` of its
    card); ``data``: a choice of conf/data. None where none is known.
    """
    for card in weights_cards().values():
        if network in card.used_by and data in card.data and card.gives and "acc" in card.gives:
            return card.gives["acc"]
    return None


def place_of(card: WeightsCard, folder: str | Path) -> Path:
    """Where a card's file lies or should, ``folder`` being ``paths.weights``: of a glob the one that fits.
    Raises ConfigError where several do.
    """
    place = _folder_of(card, folder)
    if card.file is None:
        return place
    found = sorted(place.glob(card.file)) if any(sign in card.file for sign in "*?[") else []
    if len(found) > 1:
        raise ConfigError(
            f"{place} has {len(found)} files that may be {card.title} ({found[0].name}, {found[1].name}); "
            "keep one, or name it by its path"
        )
    return found[0] if found else place / card.file


def _named(settings: Settings) -> Iterator[NamedFile]:
    folder = str(settings["paths"].get("weights", "weights"))  # records of earlier versions have none
    judges = [("jury", name, key) for name in settings.get("jury") or () for key in ("weights", "checkpoint")]
    for place in (*_PLACES, *judges):
        node: Any = settings
        for part in place:
            node = node.get(part) if isinstance(node, Mapping) else None
        owner = settings[place[0]] if len(place) == 2 else settings[place[0]].get(place[1]) or {}
        for key, name in texts_below(".".join(place), node):
            group = "prior" if place[:2] == ("attack", "prior") else "target"
            networks = tuple(lineage(group, str(owner.get("name"))))
            card = card_called(name, networks)
            if card is not None:
                yield NamedFile(key, name, card, place_of(card, folder))


def _lies_at(card: WeightsCard, file: Path, folder: str | Path) -> bool:
    fits = card.file is not None and fnmatch(file.name, card.file)
    return fits and file.parent.absolute() == _folder_of(card, folder).absolute()


def _folder_of(card: WeightsCard, folder: str | Path) -> Path:
    return _hub() if card.folder == HUB else Path(folder).expanduser() / card.folder


def _without(key: str) -> str:
    """How a user says that he wants none."""
    if key.startswith("jury."):
        return "start all judges from random weights with evaluator.weights=null"
    if key.endswith(".weights"):
        return f"start from random weights with {key}=null"
    return f"train it here with {key}=null"


def _replaced(node: Mapping[str, Any], names: list[str], value: str) -> dict[str, Any]:
    first, *rest = names
    return {**node, first: _replaced(node[first], rest, value) if rest else value}


def _hub() -> Path:
    """Torch's folder of downloaded weights, as torch finds it; torch itself is not loaded here."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    home = os.environ.get("TORCH_HOME", f"{cache}/torch")
    return Path(home).expanduser() / "hub" / "checkpoints"
