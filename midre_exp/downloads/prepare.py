"""``midre-exp data prepare NAME``: unpack the archives of a data set and cut out its faces, as official. What
is there already is not made again, so that an interrupted call goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from midre_exp.cards import DatasetCard
from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.layout import first_existing
from midre_exp.downloads import faces, hd_celeba
from midre_exp.downloads.archives import unpack
from midre_exp.downloads.place import Options, Parser, chosen, how_to
from midre_exp.errors import ConfigError, DataError, UserError
from midre_exp.store.progress import Progress

_AHEAD = 4096  # pieces of work handed out at a time
_CHUNK = 16  # of them to a worker at once


class _Options(Options):
    workers: int


class Piece(Protocol):
    """A face that is cut out of a photograph."""

    @property
    def photograph(self) -> Path: ...
    @property
    def face(self) -> Path: ...


_Piece = TypeVar("_Piece", bound=Piece)


def main(arguments: Sequence[str]) -> int:
    """Prepare; 0 done, 1 where a photograph could not be used (each is told), 2 after a mistake."""
    parser = Parser("prepare", __doc__.partition(":")[2].strip())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser.add_argument("--workers", type=int, default=usable, help=f"processes (default: {usable})")
    try:
        options = parser.parse_args(arguments, namespace=_Options())
        if options.workers < 1:
            raise ConfigError(f"--workers={options.workers} must be at least 1")
        card, root = chosen(options)
        lines, failed = prepare(card, root, workers=options.workers)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines))
    for photograph, why in failed.items():
        print(f"damage  {photograph}: {why}")
    return int(bool(failed))


def prepare(card: DatasetCard, root: Path, *, workers: int = 1) -> tuple[list[str], dict[Path, str]]:
    """What was done, a line for each step, and why photographs could not be used. Raises DataError where
    there is nothing to prepare.
    """
    if not root.is_dir():
        raise DataError(f"{root} does not exist. {how_to(card, root)}")
    told = [_unpacked(root, root / into, place) for into, place in _archives(card, root)]
    if card.name not in _CUTTERS:
        when_read = _WHEN_READ.get(card.name, "it is read as it lies")
        return [*told, f"{card.title}: nothing else to prepare; {when_read}"], {}
    done, failed = _CUTTERS[card.name](card, root, workers)
    return [*told, done], failed


def _archives(card: DatasetCard, root: Path) -> Iterator[tuple[str, Path]]:
    """Those of the card that are here, in whichever folder of the download."""
    for name, into in card.unpack.items():
        place = first_existing(root, [f"{base}{name}" for base in ("", f"{into}/", "data/", "Img/", "Anno/")])
        if place is not None:
            yield into, place


def _unpacked(root: Path, into: Path, archive: Path) -> str:
    written = unpack(archive, into)
    return f"{archive.relative_to(root)}: {written:,} files unpacked" + (
        "" if written else ", all were there"
    )


def _hd_celeba(card: DatasetCard, root: Path, workers: int) -> tuple[str, dict[Path, str]]:
    alignment = hd_celeba.Alignment.of(card)
    return _cut_all(hd_celeba.crops(root, alignment), hd_celeba.cut, card, workers, root / alignment.folder)


def _facescrub(card: DatasetCard, root: Path, workers: int) -> tuple[str, dict[Path, str]]:
    listed = faces.faces(root)
    if not listed:
        raise DataError(f"FaceScrub has no photograph of its lists in {root}; {card.access}")
    return _cut_all(listed, faces.cut, card, workers, root)


def _cut_all(
    pieces: Iterable[_Piece], cut: Callable[[_Piece], str], card: DatasetCard, workers: int, place: Path
) -> tuple[str, dict[Path, str]]:
    """Cut what is not there yet, in several processes; the pixels do not depend on how many."""
    made, there, failed = 0, 0, {}
    folders: dict[Path, set[str]] = {}
    waiting = iter(pieces)
    with Progress(f"cutting {card.title}") as shown, _spread(workers) as spread:
        while some := list(islice(waiting, _AHEAD)):
            todo = [piece for piece in some if not _is_there(piece.face, folders)]
            there += len(some) - len(todo)
            for piece, why in zip(todo, spread(cut, todo), strict=True):
                if why:
                    failed[piece.photograph] = why
                made += not why
                shown.update()
    of = f", {there:,} were there" if there else ""
    bad = f", {len(failed):,} not: {abbreviate([path.name for path in failed])}" if failed else ""
    return f"{card.title}: {made:,} faces cut{of}{bad}, in {place}", failed


def _is_there(face: Path, folders: dict[Path, set[str]]) -> bool:
    """Whether a face is made; a folder is listed once."""
    if face.parent not in folders:
        folders[face.parent] = set(os.listdir(face.parent)) if face.parent.is_dir() else set()  # noqa: PTH208
    return face.name in folders[face.parent]


@contextmanager
def _spread(workers: int) -> Iterator[Callable[[Callable[[_Piece], str], list[_Piece]], Iterator[str]]]:
    """``map``, in so many processes; in this one where that is one."""
    if workers == 1:
        yield map
        return
    pool = ProcessPoolExecutor(workers)
    try:
        yield partial(pool.map, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not cut the rest


_CUTTERS = {"celeba_hd": _hd_celeba, "facescrub": _facescrub}
#: What is made of data sets when they are read.
_WHEN_READ = {
    "lfw": "its square of 125 px is cut out when it is read",
    "celeba": "its crop of 108 px is made when it is read",
    "vggface2": "its authors' crop (the box enlarged by 0.3, shorter side 256) is made when it is read, by "
    "data.private.box_margin=0.3",
    "stanford_dogs": "the evaluator's crop to the first box is made when it is read",
}
