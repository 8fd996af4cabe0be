"""Records that came from others: whence, and whether two records are of the same results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from midre_exp.plan.digests import first_difference
from midre_exp.records.migration import migrated
from midre_exp.records.schema import OriginEntry, Record

#: What a run found. The rest of a record is which run it was, and how and where it was carried out, in which
#: two records of the same run may differ.
RESULTS = (
    *("metrics", "per_identity", "test_per_identity", "missing", "alarms", "counts", "queries"),
    *("queries_before", "suite", "artifacts", "deployment", "defended", "protected", "open_set", "traits"),
    *("diagnostics", "controls", "jury", "rounds"),
)
_SHOWN = 12  # digits of a bundle's checksum in a table


def difference(mine: Record, theirs: Record) -> str | None:
    """The first place at which two records of one run differ in what they found, or in what judges outside
    of the run said later; None where they are the same, however long they took and wherever they were made.
    """
    names = (*RESULTS, "study", "mllm")
    old, new = (
        {name: record[name] for name in names if name in record}
        for record in cast("Sequence[dict[str, Any]]", (migrated(mine), migrated(theirs)))
    )
    return first_difference(old, new)


def at_home(record: Record, origin: OriginEntry) -> Record:
    """A record of a bundle as it is kept here: with its origin behind those that it had."""
    return cast(Record, {**record, "origin": [*record.get("origin", []), origin]})


def origins(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each place from which some of these records were imported, with their seeds."""
    seeds: dict[str, list[str]] = {}
    for record in records:
        if "origin" in record:
            way = [f"{one['bundle']} (bundle {one['sha256'][:_SHOWN]})" for one in record["origin"]]
            seeds.setdefault(" by way of ".join(way), []).append(str(record["seed"]))
    return [
        f"Imported from {told}: seed{'s' if len(found) > 1 else ''} {', '.join(dict.fromkeys(found))}"
        for told, found in seeds.items()
    ]
