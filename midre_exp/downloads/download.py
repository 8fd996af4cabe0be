"""Fetching one file over HTTP: goes on where it was cut off, and is checked before it gets its name."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from midre_exp.data.readers.layout import refuse_web_page
from midre_exp.errors import DataError
from midre_exp.store.files import make_folder
from midre_exp.store.progress import Progress

_CHUNK = 1 << 20
_TRIES = 4
_TIMEOUT = 60.0  # seconds without a byte
_AGENT = {"User-Agent": "midre-exp"}


def download(url: str, place: Path, *, md5: str | None = None, pause: float = 2.0) -> None:
    """Fetch ``url`` to ``place``. What has come lies in PLACE.part until all has; another call goes on there.
    ``pause``: seconds before the second try, doubled for each further one. Raises DataError.
    """
    part = place.with_name(f"{place.name}.part")
    make_folder(place.parent)
    for left in reversed(range(_TRIES)):
        try:
            _fetch(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code == 416 and part.is_file():  # nothing beyond what is there
                break
            if left == 0 or error.code < 500:
                raise DataError(
                    f"{url} cannot be fetched: the server answers {error.code} ({error.reason}); see the "
                    "page of the data set"
                ) from error
        except (OSError, http.client.HTTPException) as error:
            if left == 0:
                kept = f"; {part.name} is kept, and the same command goes on there" if part.is_file() else ""
                raise DataError(
                    f"{url} cannot be fetched ({_cause(error)}); check the network of this machine, or fetch "
                    f"it elsewhere and put it into {place.parent}{kept}"
                ) from error
        time.sleep(pause * 2 ** (_TRIES - 1 - left))
    _check(part, md5)
    part.replace(place)


def _fetch(url: str, part: Path) -> None:
    """Append to ``part`` what is missing of it."""
    have = part.stat().st_size if part.is_file() else 0
    wanted = urllib.request.Request(url, headers={**_AGENT, **({"Range": f"bytes={have}-"} if have else {})})
    with urllib.request.urlopen(wanted, timeout=_TIMEOUT) as answer:
        resumed = answer.status == 206 and _start(answer.headers.get("Content-Range")) == have
        if have and answer.status == 206 and not resumed:
            part.unlink()
            raise OSError("the server sent another part than was asked for")
        length = answer.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        with (
            part.open("ab" if resumed else "wb") as file,
            Progress(
                f"fetching {part.name.removesuffix('.part')} (bytes)", total, have if resumed else 0
            ) as shown,
        ):
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                shown.update(len(chunk))
    if total is not None and part.stat().st_size < total:
        raise OSError(f"{part.stat().st_size:,} of {total:,} bytes came")


def _start(content_range: str | None) -> int | None:
    found = re.match(r"bytes (\d+)-", content_range or "")
    return int(found[1]) if found else None


def _check(part: Path, md5: str | None) -> None:
    """Raise DataError, and remove what came, unless it is the file."""
    try:
        with part.open("rb") as file:
            refuse_web_page(part, file.read(512).decode("latin-1"))
    except DataError:
        part.unlink()
        raise
    if md5 is not None and (found := md5_of(part)) != md5:
        part.unlink()
        raise DataError(f"{part.stem} has the MD5 {found}, its publishers' is {md5}; fetch it again")


def md5_of(path: Path) -> str:
    """The MD5 of a file, by which publishers name their files."""
    hashed = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            hashed.update(chunk)
    return hashed.hexdigest()


def _cause(error: Exception) -> str:
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
    return " ".join(str(reason).split()) or type(error).__name__
