"""Artifacts that come with the package: an export in ``midre_exp/shipped``, where a release brings one, of
stages that no defense changes, so that a first run begins with what would take longer than all the rest.

A run takes over those that its plan names by stage and key and its store lacks, as an import does. A config
that has been changed gives another key, and the stage is built as any other.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from midre_exp.errors import StoreError
from midre_exp.store.exchange import INDEX, Taken, entries_of, import_
from midre_exp.store.files import Stamp, read_json, stamp
from midre_exp.store.names import stored_as
from midre_exp.store.store import Store

PLACE = Path(__file__).parents[1] / "shipped"
#: What stands in ``runtime.rebuild`` for all of them.
WORD = "shipped"


def is_shipped(stage: str, key: str) -> bool:
    """Whether a stage of a plan comes with the package. Raises StoreError for an index that is damaged."""
    index = PLACE / INDEX
    return index.exists() and (stored_as(stage), key) in _entries(index, stamp(index))


def take(store: Store, wanted: Iterable[tuple[str, str]]) -> list[Taken]:
    """Import what of the ``wanted`` (stage, key) comes with the package and is not in the store. Raises
    StoreError, with nothing imported, where a byte of it is wrong.
    """
    lacking = {
        (stored_as(stage), key)
        for stage, key in wanted
        if is_shipped(stage, key) and store.manifest(stage, key) is None
    }
    if not lacking:
        return []
    try:
        return import_(store, PLACE, only=lacking)
    except StoreError as error:
        raise _refused(error) from error


@lru_cache(maxsize=4)
def _entries(index: Path, _: Stamp) -> frozenset[tuple[str, str]]:
    """What an index names, read once as long as it does not change: a sweep asks for thousands of keys."""
    try:
        return frozenset(entries_of(index.parent, read_json(index)))
    except StoreError as error:
        raise _refused(error) from error


def _refused(error: StoreError) -> StoreError:
    return StoreError(f"{error}; it came with midre-exp: install that again, or add --rebuild {WORD}")
