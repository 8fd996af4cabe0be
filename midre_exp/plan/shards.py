"""Splitting a long attack by identities over several jobs: ``attack.shard=3/16`` is the third of sixteen.

A shard is an artifact of its own, named after the attack it belongs to; the run without ``attack.shard``
merges what shards it finds, attacks the identities they leave over, and comes to the numbers of an attack
that was never split: every item draws from a stream of its own, and only the rounding of sums can depend on
the size of a batch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from midre_exp.errors import ConfigError
from midre_exp.store.artifact import Artifact
from midre_exp.store.store import Store

SHARD = "shard"
_TEXT = re.compile(r"([1-9]\d{0,4})/([1-9]\d{0,4})")
KEY = re.compile(r"([1-9]\d*)of([1-9]\d*)")


@dataclass(frozen=True)
class Shard:
    """Number ``number``, from 1, of ``count``."""

    number: int
    count: int

    def key(self, attack: str) -> str:
        """The store's name of this shard of the attack with key ``attack``."""
        return f"{attack}-{self.number}of{self.count}"

    def share(self, identities: int) -> range:
        """The identities of this shard: the ranges of all shards are disjoint, in order, as equal as can be,
        and cover 0..identities-1.

        Raises ConfigError when there are more shards than identities.
        """
        if self.count > identities:
            raise ConfigError(
                f"attack.shard={self.number}/{self.count} splits {identities} identities into more parts "
                f"than there are; use attack.shard=1/{identities} at most"
            )
        first, last = self.number - 1, self.number
        return range(first * identities // self.count, last * identities // self.count)


def parse_shard(text: str | None) -> Shard | None:
    """``3/16`` as a shard, None as none. Raises ConfigError for anything else."""
    if text is None:
        return None
    match = _TEXT.fullmatch(str(text))
    if match is None or int(match[1]) > int(match[2]):
        raise ConfigError(
            f"attack.shard={text} is no part of a whole; write 3/16 for the third of sixteen, or null"
        )
    return Shard(int(match[1]), int(match[2]))


def stored_shards(
    store: Store, attack: str, identities: int, stage: str = SHARD
) -> list[tuple[range, Artifact | None]]:
    """All identities in order as ranges, each with the shard that holds it or None: the split of which most
    is in the store. ``stage``: under whose name such shards lie, ``attack`` being the key of the whole.

    Damaged shards count as absent.
    """
    numbers: dict[int, dict[int, Artifact]] = {}
    places = (place / stage for place in (store.root, *store.upstream))
    for folder in sorted(folder for place in places for folder in place.glob(f"{attack}-*of*/")):
        match = KEY.fullmatch(folder.name.removeprefix(f"{attack}-"))
        if match and int(match[2]) <= identities and (artifact := store.find(stage, folder.name)):
            numbers.setdefault(int(match[2]), {})[int(match[1])] = artifact
    if not numbers:
        return [(range(identities), None)]
    count, found = max(numbers.items(), key=lambda item: len(item[1]) / item[0])
    return [(Shard(number, count).share(identities), found.get(number)) for number in range(1, count + 1)]
