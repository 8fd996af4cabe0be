"""What judges outside of a run said of its reconstructions, as its record keeps it: people in ``study``,
multimodal models by name in ``mllm``. They are never among the metrics.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from midre_exp.records.schema import Record, at

#: The blocks of a record that are added after its run.
VERDICTS = ("study", "mllm")
#: The judge of the block ``study``.
PEOPLE = "people"

_log = logging.getLogger(__name__)


def carry_verdicts(old: Mapping[str, object], new: Record, path: Path) -> Mapping[str, Any]:
    """A new record with the verdicts of the one that it replaces, if these are of the same reconstructions:
    what people have said is not computed again. Those of others are left out, with a warning.
    """
    found = {name: old[name] for name in VERDICTS if name in old}
    if not found:
        return new
    places = ("artifacts.attack", "seconds.attack", "code.attack")
    if all(at(old, place) == at(new, place) for place in places):
        return {**new, **found}
    _log.warning(
        "%s: the reconstructions were made again; the verdicts of %s were of the former ones and are left "
        "out; ask again",
        path,
        ", ".join(name for name, _ in verdicts_of({**new, **found})),
    )
    return new


def verdicts_of(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each judge with its block: people first, then multimodal models."""
    if "study" in record:
        yield PEOPLE, record["study"]
    yield from record.get("mllm", {}).items()


def said_same(record: Mapping[str, Any]) -> dict[str, float]:
    """Percent of its reconstructions that each judge takes for the person, as ``said_same_<judge>``."""
    return {f"said_same_{name}": block["said_same"] for name, block in verdicts_of(record)}
