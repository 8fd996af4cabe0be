"""Files that cannot be decoded: found out once per content, told all at once, with a list on disk."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import PIL

from midre_exp.data.cache import abbreviate
from midre_exp.data.picture import DECODER_VERSION, UNREADABLE, open_rgb, reason
from midre_exp.errors import ConfigError, DataError, StoreError
from midre_exp.store.contents import note, notes
from midre_exp.store.files import write_atomic
from midre_exp.store.progress import Progress
from midre_exp.store.store import Places, Store

#: ``refuse``: nothing is made while a listed file cannot be read. ``leave_out``: what cannot be read counts
#: as not there, and the split is drawn over the rest.
Policy = Literal["refuse", "leave_out"]
POLICIES = ("refuse", "leave_out")

_BATCH = 1024  # files between two notes
_BAR_FROM = 2000  # files; fewer take a few seconds

log = logging.getLogger(__name__)


def check_policy(policy: str) -> None:
    """Raise ConfigError for a word that is none."""
    if policy not in POLICIES:
        raise ConfigError(f"data.*.unreadable={policy} is unknown; use {' or '.join(POLICIES)}")


def find_unreadable(
    root: Path,
    names: Sequence[str],
    digests: Sequence[str | None],
    store: Places | None,
    *,
    official: bool,
    title: str,
) -> dict[str, str]:
    """Why each file ``root/name`` that cannot be decoded cannot be, by name. ``digests``: the SHA-256 of each
    file, by which the store remembers what was found; None for one that cannot even be opened.
    """
    kind = f"picture {DECODER_VERSION} {'official' if official else 'upright'} Pillow {PIL.__version__}"
    known = notes(kind, [digest for digest in digests if digest is not None], store)

    def look(name: str) -> str:
        try:
            open_rgb(root / name, official=official)
        except UNREADABLE as error:
            return reason(error, root / name)
        return ""

    rows = [row for row, digest in enumerate(digests) if digest is None or digest not in known]
    pool = ThreadPoolExecutor(min(16, os.cpu_count() or 1))  # Pillow decodes outside the interpreter lock
    found: dict[str, str] = {}
    try:
        with Progress(f"checking {title}", len(rows), bar=len(rows) > _BAR_FROM) as bar:
            for first in range(0, len(rows), _BATCH):
                some = rows[first : first + _BATCH]
                reasons = list(pool.map(look, [names[row] for row in some]))
                found.update({names[row]: why for row, why in zip(some, reasons, strict=True)})
                by_digest = {
                    digest: why
                    for row, why in zip(some, reasons, strict=True)
                    if (digest := digests[row]) is not None
                }
                note(kind, by_digest, store)
                bar.update(len(some))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest
    for name, digest in zip(names, digests, strict=True):
        if digest is not None and name not in found:
            found[name] = known[digest]
    return {name: found[name] for name in names if found[name]}


def refusal(title: str, total: int, reasons: Mapping[str, str], store: Places | None) -> DataError:
    """The error that names files which cannot be read, all of them in a list on disk."""
    place = write_list(f"unreadable {title}", (f"{name}\t{why}" for name, why in reasons.items()), store)
    return DataError(
        f"{title}: {len(reasons)} of {total} images cannot be read: {_some(reasons)}; all are listed in "
        f"{place}; download them again, or go on without them by data.*.unreadable=leave_out"
    )


def warn_left_out(title: str, total: int, reasons: Mapping[str, str], store: Places | None) -> None:
    """Say which files were left out, and where the list of all is."""
    place = write_list(f"unreadable {title}", (f"{name}\t{why}" for name, why in reasons.items()), store)
    log.warning(
        "%s: left out %d of %d images that cannot be read: %s; all are listed in %s",
        title,
        len(reasons),
        total,
        _some(reasons),
        place,
    )


def _some(reasons: Mapping[str, str]) -> str:
    return abbreviate([f"{name} ({why})" for name, why in reasons.items()])


def write_list(name: str, lines: Iterable[str], store: Places | None) -> Path:
    """A list for people as a text file, in the folder ``.lists`` of the store; among temporary files where
    there is no store, or none that can be written.
    """
    file = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") + ".txt"
    content = os.fsencode("".join(f"{line}\n" for line in lines))  # names in whatever bytes the disk has them
    if store is not None:
        try:
            place = Store(store).root / ".lists" / file
            write_atomic(place, content)
        except StoreError:
            pass
        else:
            return place
    place = Path(tempfile.mkdtemp(prefix="midre-exp-")) / file
    write_atomic(place, content)
    return place
