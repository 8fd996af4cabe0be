"""Unpacking the archives of a download: resumable, and nothing leaves the folder they are unpacked into."""

from __future__ import annotations

import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from shutil import copyfileobj
from typing import IO, NamedTuple

from midre_exp.errors import DataError
from midre_exp.store.files import make_folder
from midre_exp.store.progress import Progress

_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
)


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    size: int
    content: IO[bytes]


def unpack(archive: Path, into: Path) -> int:
    """Write the files of a tar or zip archive below ``into``; those that are there in their full size are
    left alone. Returns how many were written. Raises DataError for a damaged archive and for one that would
    write elsewhere.
    """
    written = 0
    try:
        with Progress(f"unpacking {archive.name}") as shown:
            for member in _members(archive):
                place = into / _inside(archive, member.name)
                if not (place.is_file() and place.stat().st_size == member.size):
                    _write(member, place)
                    written += 1
                shown.update()
    except _BROKEN as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{archive} cannot be unpacked ({reason}); fetch it again") from error
    return written


def _members(archive: Path) -> Iterator[Member]:
    """The files in order; folders, links and devices are left out, as no official archive needs them."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for info in packed.infolist():
                if not info.is_dir():
                    with packed.open(info) as content:
                        yield Member(info.filename, info.file_size, content)
        return
    with tarfile.open(archive) as packed_tar:
        for entry in packed_tar:
            if entry.isfile() and (file := packed_tar.extractfile(entry)) is not None:
                with file:
                    yield Member(entry.name, entry.size, file)


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise DataError(
            f"{archive} would write to {name}, outside of its folder; fetch it from the official page"
        )
    return path


def _write(member: Member, place: Path) -> None:
    """The file under its name only when it is whole."""
    make_folder(place.parent)
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            copyfileobj(member.content, file, 1 << 20)
        if part.stat().st_size != member.size:
            raise EOFError(f"{member.name} is cut off")
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
