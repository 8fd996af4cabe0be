"""Results folders: where records lie, those of several places read as one. Loads neither torch nor pandas."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from midre_exp.errors import ConfigError
from midre_exp.records import Record, checksum_path, record_files, try_record
from midre_exp.records.origin import difference

#: Where results lie when no folder is given.
RESULTS = "results"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultsFolder:
    """A folder such as ``results/mini``."""

    path: Path
    label: str  # its own name, unlike that of any other one that is read


@dataclass(frozen=True)
class FoundRecord:
    """A record and where it was found."""

    record: Record
    path: Path
    folder: ResultsFolder
    checked: bool  # whether a checksum beside it says that it is as it was written

    @property
    def origin(self) -> str | None:
        """The bundle it came by, of a record that was imported; None of one that was made here."""
        bundles = self.record.get("origin")
        return bundles[-1]["bundle"] if bundles else None


class FoundRecords(NamedTuple):
    """The records of several folders: each run once, the first one found."""

    records: list[FoundRecord]
    folders: list[ResultsFolder]
    passed_over: int  # files that are no records, or damaged
    repeated: int  # records of runs that an earlier folder has
    differing: int  # those of them that tell other numbers


def results_folders(places: Sequence[str | Path]) -> list[ResultsFolder]:
    """Every folder with records in these places, in the order of their names: a place may be one itself, or
    hold them at any depth. Raises ConfigError for a place that holds none.
    """
    found: list[ResultsFolder] = []
    for place in map(Path, places or (RESULTS,)):
        own = sorted(folder for folder in map(Path, _holders(place)) if record_files(folder))
        if not own:
            raise ConfigError(f"{place} holds no records; give a results folder such as results/mini")
        for folder in own:
            name = "-".join(folder.relative_to(place).parts) or folder.resolve().name
            found.append(ResultsFolder(folder, _unused(name, place, {one.label for one in found})))
    return found


def _holders(place: Path) -> Iterable[str]:
    """Folders that have a folder ``records``, those of pictures of people left out."""
    for folder, inner, _ in os.walk(place):
        if "records" in inner:
            yield folder
        inner[:] = [name for name in inner if name not in ("records", "people") and not name.startswith(".")]


def _unused(name: str, place: Path, taken: set[str]) -> str:
    if name in taken:
        name = f"{place.resolve().name}-{name}"
    numbered = (f"{name}-{number}" for number in range(2, 10_000))
    return name if name not in taken else next(one for one in numbered if one not in taken)


def read_folders(places: Sequence[str | Path] = ()) -> FoundRecords:
    """All records in these places. A file that cannot be read is named by a warning and passed over. Raises
    ConfigError as ``results_folders``.
    """
    folders = results_folders(places)
    found: dict[tuple[str, str], FoundRecord] = {}
    passed_over = repeated = differing = 0
    for folder in folders:
        for path in record_files(folder.path):
            record = try_record(path)
            if record is None:
                passed_over += 1
                continue
            place = (record["scale"], record["key"])
            if place in found:
                repeated += 1
                if (where := difference(found[place].record, record)) is not None:
                    differing += 1
                    _log.warning("%s differs from %s, which is shown: %s", path, found[place].path, where)
            else:
                found[place] = FoundRecord(record, path, folder, checksum_path(path).exists())
    return FoundRecords(list(found.values()), folders, passed_over, repeated, differing)
