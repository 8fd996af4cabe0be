"""A tar archive in one form only: plain files, uncompressed, headers without owner and date, nothing between
or behind them. Equal files give equal bytes, and every byte that is neither content nor what it must be is
seen.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple

from midre_exp.errors import StoreError
from midre_exp.store.files import is_special

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_MOST_MEMBERS = 100_000
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK\x03\x04")


class Member(NamedTuple):
    """Where the content of a file of an archive lies."""

    start: int
    size: int


def write(file: BinaryIO, members: Iterable[tuple[str, bytes]]) -> None:
    """Write files by name, in their order."""
    for name, content in members:
        file.write(_header(name, len(content)))
        file.write(content)
        file.write(bytes(-len(content) % _BLOCK))
    file.write(_END)


def members_of(file: BinaryIO, place: Path) -> Mapping[str, Member]:
    """The files of an archive by name. Raises StoreError, naming ``place``, for anything that ``write`` does
    not write: links, devices, a file there twice, bytes between files or behind the last, a compressed or
    shortened archive.
    """
    start = file.read(_BLOCK)
    length = file.seek(0, 2)
    if start.startswith(_COMPRESSED):
        raise StoreError(f"{place} is compressed; unpack it first and give the .tar inside")
    if length % _BLOCK or length < len(_END):
        raise StoreError(f"{place} is no bundle, or was cut short; copy it again")
    found: dict[str, Member] = {}
    at = 0
    while True:
        block = _read(file, at, _BLOCK)
        if block == bytes(_BLOCK):
            break
        name, size = _checked(block, place)
        end = at + _BLOCK + size
        padded = end + -size % _BLOCK
        if padded + len(_END) > length:
            raise StoreError(f"{place} is cut short within {name}; copy it again")
        if name in found or len(found) >= _MOST_MEMBERS:
            raise StoreError(f"{place}: {name} is there twice, or there are too many files; export it again")
        if any(_read(file, end, padded - end)):
            raise StoreError(f"{place} has bytes behind {name} that belong to no file; copy it again")
        found[name] = Member(at + _BLOCK, size)
        at = padded
    if _read(file, at, length - at) != _END:
        raise StoreError(f"{place} goes on behind its end, or is cut short; copy it again")
    return found


def content(file: BinaryIO, member: Member) -> bytes:
    """The bytes of one file."""
    return _read(file, member.start, member.size)


def digest(file: BinaryIO) -> str:
    """The SHA-256 of the whole archive."""
    file.seek(0)
    found = hashlib.sha256()
    while block := file.read(1 << 20):
        found.update(block)
    return found.hexdigest()


def opened(place: Path) -> BinaryIO:
    """An archive, open for reading. Raises StoreError for what is no file."""
    if place.is_dir() or is_special(place):  # opening a pipe would wait for ever
        raise StoreError(f"{place} is no file; give what midre-exp results export wrote")
    try:
        return place.open("rb")
    except FileNotFoundError as error:
        raise StoreError(f"there is no {place}; give what midre-exp results export wrote") from error
    except OSError as error:
        raise StoreError(f"{place} cannot be read ({error.strerror}); check its permissions") from error


def _read(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)


def _header(name: str, size: int) -> bytes:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o644
    return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _checked(block: bytes, place: Path) -> tuple[str, int]:
    """Name and size of a header that is byte for byte what ``write`` gives for them."""
    try:
        entry = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        if _header(entry.name, entry.size) == block:
            return entry.name, entry.size
        what = f"{entry.name!a} is no plain file, or its header was changed"
    except (tarfile.TarError, ValueError, OverflowError):
        what = "it is no tar archive as midre-exp writes it"
    raise StoreError(f"{place}: {what}, so nothing was imported; copy or export it again")
