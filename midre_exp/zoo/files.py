"""One file of the zoo: safetensors whose metadata hold a card and a SHA-256 of the whole file.

The checksum is that of all bytes of the file with 64 zeros in place of its own digits, so that no byte can
change unseen, whether of a weight, of the card or of the header. It tells damage and carelessness; whoever
wants to know from whom a file comes compares it with the checksum that its publisher gives (``zoo.json``).
Nothing of a file is executed. No torch here.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from midre_exp.errors import CheckpointError
from midre_exp.plan.config import CONF_DIR
from midre_exp.plan.validate import is_id, is_line
from midre_exp.weights.formats import first_bytes, is_safetensors, metadata

#: Version of a card: a card of another major is refused, one of a later minor has more than is read here.
#: 1.1: priors; ``attacked``, what attacks recorded by then reached.
CARD = "1.1"
#: The name of the card among the metadata; what a run leaves in a store says less under the same name.
ENTRY = "midre_exp"
SUFFIX = ".safetensors"
#: The folder of the zoo: of the place one stands in, else the one that comes with this program, beside its
#: configs (in a wheel that is this folder).
ZOO = "zoo"
SHIPPED = CONF_DIR.parent / ZOO
#: What weights may be kept in.
PRECISIONS = ("float32", "float16")
_CHECKSUM = "file_sha256"
_BLANK = "0" * 64
_DIGITS = re.compile(rb'\\"' + _CHECKSUM.encode() + rb'\\": \\"([0-9a-f]{64})\\"')
_KEY = re.compile(r"[0-9a-f]{16}")
_LENGTH = 8  # bytes before the header that tell how long it is
_LONGEST_HEADER = 16 * 2**20
_MOST_BYTES = 4 * 2**30

Arrays = Mapping[str, NDArray[Any]]
Card = dict[str, Any]


class ZooFile(NamedTuple):
    """A verified file: its card, its tensors by name, and its SHA-256."""

    card: Card
    tensors: dict[str, NDArray[Any]]
    sha256: str


def pack(tensors: Arrays, card: Mapping[str, Any], *, precision: str = "float32") -> bytes:
    """The bytes of a file with ``tensors`` and a card; equal ones give equal bytes. ``precision`` float16
    keeps float32 tensors in half the bytes. Raises CheckpointError for numbers that it cannot hold.
    """
    kept = {name: _narrowed(name, value, precision) for name, value in tensors.items()}
    text = json.dumps({**card, "card": CARD, "precision": precision, _CHECKSUM: _BLANK}, sort_keys=True)
    blank: bytes = save(kept, {ENTRY: text})
    return _with_digits(blank, hashlib.sha256(blank).hexdigest())


def unpack(data: bytes, place: Path | str) -> ZooFile:
    """What ``pack`` made. Raises CheckpointError, naming ``place``, for a file that differs from it in any
    byte, is none, or is of another major version.
    """
    card = _card_in(data, place)
    try:
        tensors = load(data)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{place} holds no tensors that can be read ({error}); get it again") from error
    broken = [n for n, v in tensors.items() if v.dtype.kind == "f" and not np.isfinite(v).all()]
    if broken:
        raise CheckpointError(f"{place} holds numbers that are not finite ({broken[0]!a}); get another")
    return ZooFile(card, tensors, hashlib.sha256(data).hexdigest())


def read_file(path: Path) -> ZooFile:
    """The same of a file on disk."""
    return unpack(bytes_of(path), path)


def read_card(name: str | Path) -> Card:
    """What a file of the zoo says of itself: architecture, classes, normalisation, accuracy, the people it
    was trained on, the commit of the code. The whole file is verified. ``name`` as of ``load_target``. Raises
    CheckpointError as ``unpack``.
    """
    place = find(name)
    return _card_in(bytes_of(place), place)


def check_file(path: Path) -> None:
    """Raise CheckpointError where a weight file has a card of the zoo and is not as it was written; nothing
    of any other file.
    """
    said = metadata(path).get(ENTRY, "")
    if _CHECKSUM in said or '"card"' in said:  # a damaged byte leaves one of the two
        read_card(path)


def find(name: str | Path) -> Path:
    """The file that a name means. Raises CheckpointError, naming what there is."""
    given = Path(name).expanduser()
    given = given if given.suffix == SUFFIX else given.with_name(given.name + SUFFIX)
    tried = [given]
    if not given.is_absolute() and given.parts[0] == ZOO:
        tried.append(SHIPPED.joinpath(*given.parts[1:]))
    for path in tried:
        if path.is_file():
            return path
    there = sorted({path.stem for place in tried for path in place.parent.glob(f"*{SUFFIX}")})
    known = f"there are {', '.join(there)}" if there else "get one, or make one with midre-exp store export"
    raise CheckpointError(f"there is no {given}; {known}")


def _narrowed(name: str, value: NDArray[Any], precision: str) -> NDArray[Any]:
    if precision not in PRECISIONS:
        raise CheckpointError(f"precision {precision} is unknown; choose one of {', '.join(PRECISIONS)}")
    if precision == "float32" or value.dtype != np.float32:
        return _whole(value)
    with np.errstate(over="ignore"):
        narrow = value.astype(np.float16)
    if not np.isfinite(narrow).all():
        raise CheckpointError(
            f"{name} holds numbers above 65504, which float16 has not; keep it in float32 (--precision)"
        )
    return _whole(narrow)


def _whole(value: NDArray[Any]) -> NDArray[Any]:
    """In one piece, as the format writes it; numbers without axes keep none."""
    return value if value.flags.c_contiguous else value.copy()


def _with_digits(blank: bytes, digits: str) -> bytes:
    match = _DIGITS.search(blank)
    assert match is not None, "pack writes it"
    return blank[: match.start(1)] + digits.encode() + blank[match.end(1) :]


def _card_in(data: bytes, place: Path | str) -> Card:
    if not is_safetensors(data[:512], len(data)):
        raise CheckpointError(f"{place} is no safetensors file; give what midre-exp store export wrote")
    length = int.from_bytes(data[:_LENGTH], "little")
    if length > _LONGEST_HEADER:
        raise CheckpointError(f"{place}: its header is too large to be true ({length} bytes); get it again")
    header = data[_LENGTH : _LENGTH + length]
    digits = _DIGITS.findall(header)
    if len(digits) != 1:
        raise CheckpointError(
            f"{place} has no card of the zoo; give what midre-exp store export wrote, or load any other "
            "weight file by target.checkpoint"
        )
    blank = data[:_LENGTH] + _DIGITS.sub(_erased, header) + data[_LENGTH + length :]
    if hashlib.sha256(blank).hexdigest().encode() != digits[0]:
        raise CheckpointError(f"{place} is damaged or was changed (its checksum differs); get it again")
    try:
        card = json.loads(json.loads(header)["__metadata__"][ENTRY])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{place}: its card is not JSON; get it again") from error
    return _checked(card, place)


def _erased(match: re.Match[bytes]) -> bytes:
    found = match.group(0)
    return found.replace(match.group(1), _BLANK.encode())


def _checked(card: Any, place: Path | str) -> Card:
    """A card that is of this major version and has what readers rely on."""
    version = str(card.get("card")) if isinstance(card, dict) else ""
    ours, theirs = CARD.partition(".")[0], version.partition(".")[0]
    if theirs != ours:
        raise CheckpointError(
            f"{place} has a card of version {ascii(version)[1:-1][:20]}, and this program reads {ours}.x; "
            f"use the version of midre-exp that made it"
        )
    kinds = {
        "stage": is_id(card.get("stage")),
        "key": isinstance(card.get("key"), str) and _KEY.fullmatch(card["key"]) is not None,
    }
    if card.get("stage") == "prior":
        kinds |= {
            "prior": isinstance(card.get("prior"), dict) and is_id(card["prior"].get("name")),
            "people": is_line(card.get("people")),
        }
    elif card.get("stage") != "attack":  # whose latents are no network
        kinds |= {
            "target": is_id(card.get("target")),
            "classes": type(card.get("classes")) is int and 0 < card["classes"] < 10_000_000,
            "model": isinstance(card.get("model"), dict),
            "people": is_line(card.get("people")),
        }
    if wrong := [name for name, fits in kinds.items() if not fits]:
        raise CheckpointError(f"{place}: its card has no usable {wrong[0]}; export it again")
    found: Card = card
    return found


def bytes_of(path: Path) -> bytes:
    """A whole file. Raises CheckpointError for what is none, and for one that is too large to be of a zoo."""
    first_bytes(path)  # says what else it is: a folder, a pipe, a web page
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise CheckpointError(f"{path} is larger than {_MOST_BYTES >> 30} GiB; no file of the zoo is")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
