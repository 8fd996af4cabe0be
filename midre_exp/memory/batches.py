"""Work on rows that are independent of each other, in batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from midre_exp.errors import OutOfMemory, is_out_of_memory
from midre_exp.runtime import give_memory_back
from midre_exp.store.progress import say

T = TypeVar("T")


class Counts(Protocol):
    """What counts queries: a victim."""

    queries: int


@dataclass(frozen=True)
class Shortage:
    """An attempt for which memory was short; nothing of it is held any more."""

    reason: str  #: what the device or the allocator said
    is_final: bool  #: whether within the attempt as little as possible was tried already


@dataclass
class AtOnce:
    """How many rows go at once; fewer for all that follows, once that many did not fit."""

    rows: int


def attempt(work: Callable[[], T], victim: Counts | None = None) -> T | Shortage:
    """What ``work`` returns or, where memory was short, why; queries of such an attempt do not count."""
    queries = 0 if victim is None else victim.queries
    try:
        return work()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        shortage = Shortage(reason(error), isinstance(error, OutOfMemory))
    # only here is the exception gone, and with its frames what they held
    if victim is not None:
        victim.queries = queries
    give_memory_back(torch.device("cuda" if torch.cuda.is_initialized() else "cpu"))
    return shortage


def in_batches(
    function: Callable[[slice], T],
    rows: int,
    at_once: int | AtOnce,
    *,
    what: str = "rows",
    victim: Counts | None = None,
) -> Iterator[T]:
    """What ``function`` makes of one slice of ``rows`` rows after the other, at most ``at_once`` long.

    A slice that does not fit into memory is tried again by halves, and so is what follows; an ``AtOnce``
    remembers it beyond this call. ``victim``: who is asked by ``function``. Raises OutOfMemory where one row
    does not fit.
    """
    limit = at_once if isinstance(at_once, AtOnce) else AtOnce(at_once)
    done = 0
    while done < rows:
        part = slice(done, min(done + max(1, limit.rows), rows))
        made = attempt(lambda part=part: function(part), victim)  # type: ignore[misc]
        if not isinstance(made, Shortage):
            done = part.stop
            yield made
            del made  # not held while the next is made
        elif part.stop - part.start == 1:
            raise OutOfMemory(
                f"not enough memory for one of the {what} ({made.reason}); end other programs on this "
                "device, or use one with more memory"
            )
        else:
            limit.rows = (part.stop - part.start) // 2
            say(f"out of memory with {part.stop - part.start} {what} at once: going on with {limit.rows}")


def reason(error: BaseException) -> str:
    """An error's own words, in one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
