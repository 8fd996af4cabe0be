"""What a card says, and reading cards strictly: ``conf/card/dataset`` and ``conf/card/weights``, and the same
folders below a config folder of the user's own (``--config-dir``).

A card is plain yaml and no choice of a run: Hydra neither offers nor composes it. What is not known is null.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.arguments import Keys, fault
from midre_exp.plan.config import config_files
from midre_exp.plan.ranges import Count, Positive, Text

#: A parameter of an alignment: pixels, a factor, a name, or several.
Value = str | int | float | bool | Sequence[int] | Sequence[float] | None


@dataclass(frozen=True, kw_only=True)
class DatasetCard(Keys):
    """A data set as its publishers hand it out."""

    name: str  #: the card's: its file without the ending
    title: Text
    page: Text  #: the official address
    access: Text  #: the steps to a copy, in a sentence or two
    licence: Text  #: in a word or two; the page says the rest
    size_gb: Positive | None  #: of the download that is needed
    identities: Count | None  #: in the whole set; null too where it has none
    images: Mapping[
        str, Count | None
    ]  #: by part: ``all``, ``train``, ``test``, ``public``; where copies differ that of the ``literature``
    alignment: Mapping[str, Value] | None  #: of the pixels that are used: the tool or crop and its parameters
    used_by: Sequence[Text]  #: choices of conf/data/dataset
    folder: Text  #: below paths.data
    pixels: Sequence[Count] | None = None  #: width and height of every file that is read; null: any
    downloads: Mapping[str, Text] = field(default_factory=dict)  #: by file: addresses open to everybody
    unpack: Mapping[str, Text] = field(default_factory=dict)  #: by archive: where below ``folder``
    md5: Mapping[str, Text] = field(default_factory=dict)  #: by file, as its publishers hand it out
    #: by part: SHA-256 of the rows of the literature's split (midre_exp/downloads/splits.py)
    splits: Mapping[str, Text] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WeightsCard(Keys):
    """A weight file as its publishers hand it out."""

    name: str  #: the card's: its file without the ending
    title: Text
    publisher: Text
    page: Text | None  #: the address it is found from
    access: Text | None  #: the steps to a copy; null: the page says
    file: Text | None  #: its name, or a glob where names vary
    folder: Text  #: where it goes: below paths.weights, or ``torch hub``, ``hugging face hub`` for downloads
    layout: Text  #: what the file holds
    source: Text | None  #: the value of ``weights`` that means it, for the networks in ``used_by``
    sha256: Text | None
    bytes: Count | None
    licence: Text | None
    trained_on: Text | None
    used_by: Sequence[Text]  #: choices of conf/target, attack/prior or attack/surrogates, or metrics
    data: Sequence[Text] = ()  #: choices of conf/data whose private images a classifier in it was trained on
    gives: Mapping[str, float] | None  #: what loading it must give, by metric: acc is percent of test images


_Card = TypeVar("_Card", DatasetCard, WeightsCard)
_MD5 = re.compile(r"[0-9a-f]{32}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def dataset_cards() -> dict[str, DatasetCard]:
    """The cards of data sets by name. Raises ConfigError naming the file of one that is not as it must be."""
    return {name: _dataset(path, _changed(path)) for name, path in config_files("card/dataset").items()}


def weights_cards() -> dict[str, WeightsCard]:
    """The cards of weight files by name. Raises ConfigError naming the file of one that is not as it must
    be.
    """
    return {name: _weights(path, _changed(path)) for name, path in config_files("card/weights").items()}


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns


@cache  # a sweep asks for each of its runs; ``changed``: when the file last was
def _dataset(path: Path, changed: int) -> DatasetCard:
    return _read(path, DatasetCard)


@cache
def _weights(path: Path, changed: int) -> WeightsCard:
    return _read(path, WeightsCard)


def _read(path: Path, made: type[_Card]) -> _Card:
    try:
        content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # the readers of yaml raise what they stumble over
        raise ConfigError(f"{path} cannot be read as yaml: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds no keys; write it as a card of conf/card is written")
    if "name" in content:
        raise ConfigError(f"{path}: the name of a card is that of its file; leave name out")
    values = {"name": path.stem, **{str(key): value for key, value in content.items()}}
    found = fault(values, made, "")
    if found is not None:
        raise ConfigError(f"{path}: {str(found).replace('; give it as ++', '; write it as ')}")
    card: _Card = made(**values)
    _check_paths(path, card)
    return card


def _check_paths(path: Path, card: DatasetCard | WeightsCard) -> None:
    """Raise ConfigError for a place outside of the folder it is below, and for a checksum that is none."""
    places = {"folder": card.folder}
    if isinstance(card, DatasetCard):
        places |= {f"unpack of {archive}": into for archive, into in card.unpack.items()}
        for key, sums, kind in (("md5", card.md5, _MD5), ("splits", card.splits, _SHA256)):
            for name, value in sums.items():
                if not kind.fullmatch(value):
                    raise ConfigError(
                        f"{path}: {key}.{name} is no checksum of its kind; leave unknown ones out"
                    )
    if isinstance(card, WeightsCard):
        places["file"] = card.file or ""
        if card.sha256 is not None and not _SHA256.fullmatch(card.sha256):
            raise ConfigError(f"{path}: sha256 is 64 digits of 0 to f, or null where it is not known")
    for key, place in places.items():
        if Path(place).is_absolute() or ".." in Path(place).parts or (key == "file" and "/" in place):
            raise ConfigError(f"{path}: {key}={place} leads elsewhere; give a name below its folder")
