"""What an attack keeps in its work folder: finished items and the state of unfinished ones. Whatever the
chunks were in which they were computed, an attempt with others goes on from there.

Items are numbered through the whole attack. ``items-<first>-<stop>.pt`` holds the columns of finished ones,
``unfinished-<first>-<stop>`` the state of a chunk's loops.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from midre_exp.weights import checkpoint

Columns = dict[str, Tensor]  # by name, one row per item

_FINISHED, _UNFINISHED = re.compile(r"items-(\d+)-(\d+)\.pt"), re.compile(r"unfinished-(\d+)-(\d+)")
_STATE = re.compile(r"state\.pt\+*")


def finished_items(folder: Path, items: range) -> list[tuple[range, Columns]]:
    """What earlier attempts have finished of ``items``, in order, no item twice. A damaged file is set
    aside.
    """
    found: list[tuple[range, Columns]] = []
    done = items.start
    for rows, path in sorted(_ranges(folder, _FINISHED, items), key=lambda one: (one[0].start, -one[0].stop)):
        if rows.stop > done and (columns := checkpoint.load(path)) is not None:
            new = range(max(done, rows.start), rows.stop)
            skipped = new.start - rows.start
            found.append((new, {name: value[skipped:] for name, value in columns.items()}))
            done = new.stop
    return found


def keep_items(folder: Path, rows: range, columns: Columns) -> None:
    """Keep what is finished of ``rows``."""
    checkpoint.save(folder / f"items-{rows.start}-{rows.stop}.pt", columns)


def gaps(items: range, finished: Iterable[range]) -> Iterator[range]:
    """The parts of ``items`` between those that are ``finished``, in order."""
    done = items.start
    for rows in [*finished, range(items.stop, items.stop)]:
        if rows.start > done:
            yield range(done, rows.start)
        done = rows.stop


class Unfinished:
    """Chunks that were begun. A smaller chunk takes its part of the state; a larger one is not made of
    several: what was begun goes on as it is.
    """

    def __init__(self, folder: Path, items: range, group_size: int, say: Callable[[str], None]):
        """``group_size``: of the attack; ``say``: told of state that cannot be continued."""
        self.folder, self.items, self.group_size, self.say = folder, items, group_size, say
        self.begun: list[range] = []
        for rows, path in sorted(_ranges(folder, _UNFINISHED, items), key=lambda one: len(one[0])):
            is_empty = not any(map(_is_state, path.glob("*")))
            if is_empty or any(rows.start < other.stop and other.start < rows.stop for other in self.begun):
                shutil.rmtree(path, ignore_errors=True)  # such as what smaller chunks were made of
            else:
                self.begun.append(rows)

    def next_chunk(self, free: range, size: int) -> range:
        """The first items of ``free`` to compute together, at most ``size``: where some were begun together,
        those or the part of them that is not finished.
        """
        begun = next((rows for rows in self.begun if free.start in rows), None)
        if begun is None:
            later = [rows.start for rows in self.begun if rows.start in free]
            return range(free.start, min([free.start + size, free.stop, *later]))
        chunk = range(free.start, min(free.start + size, begun.stop, free.stop))
        if chunk != begun:
            self._split(begun, chunk, range(chunk.stop, min(begun.stop, free.stop)))
        return chunk

    def path(self, chunk: range) -> Path:
        """The folder of a chunk's state, which is there from now on."""
        path = self.folder / f"unfinished-{chunk.start}-{chunk.stop}"
        path.mkdir(parents=True, exist_ok=True)
        if chunk not in self.begun:
            self.begun.append(chunk)
        return path

    def drop(self, chunk: range) -> None:
        """Forget a chunk that is finished."""
        shutil.rmtree(self.folder / f"unfinished-{chunk.start}-{chunk.stop}", ignore_errors=True)
        self.begun = [rows for rows in self.begun if rows != chunk]

    def close(self) -> None:
        """Leave nothing behind, when all items are finished."""
        for _, path in list(_ranges(self.folder, _UNFINISHED, self.items)):
            shutil.rmtree(path, ignore_errors=True)

    def _split(self, begun: range, *parts: range) -> None:
        """Give each of the parts its share of what was begun, if items can be told apart in it."""
        old = self.folder / f"unfinished-{begun.start}-{begun.stop}"
        states = {path.name: checkpoint.load(path) for path in old.glob("state.pt*") if _is_state(path)}
        shares: list[tuple[range, dict[str, dict[str, Any]]]] = []
        for part in filter(len, parts):
            rows = slice(part.start - begun.start, part.stop - begun.start)
            share = {
                name: None if saved is None else share_of(saved, len(begun), rows, self.group_size)
                for name, saved in states.items()
            }
            whole = {name: saved for name, saved in share.items() if saved is not None}
            if len(whole) == len(states):
                shares.append((part, whole))
        if len(shares) < len(list(filter(len, parts))):
            self.say(
                f"items {begun.start}-{begun.stop - 1} were begun together, and their state cannot be "
                "divided; they begin anew"
            )
            shares = []
        for part, share_states in shares:
            for name, saved in share_states.items():
                checkpoint.save(self.path(part) / name, saved)
        self.drop(begun)


def share_of(saved: dict[str, Any], items: int, rows: slice, group_size: int) -> dict[str, Any] | None:
    """What a loop has saved of ``items`` items, of some consecutive ones alone; None where they cannot be
    told apart.

    Every tensor of the state must have as many rows as there are items or, where the items of a group share
    one, as many times fewer. A tensor ``queries`` of the state counts each item's; else all have spent alike.
    """
    state: dict[str, Tensor] = saved["state"]
    counts = {len(value) if value.ndim else 0 for value in state.values()} or {items}
    count = counts.pop()
    if counts or not count or items % count or group_size % (items // count):
        return None
    shared = items // count
    if rows.start % shared or rows.stop % shared:
        return None
    own = slice(rows.start // shared, rows.stop // shared)
    total = int(saved["queries"])
    if "queries" in state:
        queries = int(state["queries"][own].sum())
        if int(state["queries"].sum()) != total:
            return None
    else:
        queries, rest = divmod(total * (own.stop - own.start), count)
        if rest or total % count:
            return None
    # clones: a view would be saved with all that it is a view of
    return {**saved, "queries": queries, "state": {name: value[own].clone() for name, value in state.items()}}


def _is_state(path: Path) -> bool:
    return _STATE.fullmatch(path.name) is not None


def _ranges(folder: Path, names: re.Pattern[str], items: range) -> Iterator[tuple[range, Path]]:
    """The files or folders of such names that are of ``items``, and of which of them."""
    for path in folder.glob("*"):
        if match := names.fullmatch(path.name):
            rows = range(int(match[1]), int(match[2]))
            if len(rows) and items.start <= rows.start and rows.stop <= items.stop:
                yield rows, path
