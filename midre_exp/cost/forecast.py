"""How long stages will take and how much memory: what was measured, else what was measured of the like and
scaled by what was counted, else what was counted alone.
"""

from __future__ import annotations

import platform
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from midre_exp.cost.accelerators import GB, REFERENCE, RESERVED, Accelerator, accelerator, seconds
from midre_exp.cost.counted import Counted
from midre_exp.cost.inputs import differ_in_numbers, inputs_of, more_of_the_same, sizes_behind
from midre_exp.cost.likened import likened
from midre_exp.cost.remembered import Wanted, count_all, remembered
from midre_exp.cost.sizes import Sizes
from midre_exp.errors import UserError
from midre_exp.machine.gpus import visible_gpus
from midre_exp.plan.config import Settings, Trusted
from midre_exp.records import check_record
from midre_exp.stages import behind, stages_of
from midre_exp.store.files import read_json

#: Where the config leaves the chunk to the machine.
_CHUNK = 512
_OF_PROCESS = 0.4 * GB  #: python and torch on a CPU


class Measured(NamedTuple):
    """A stage that a run has built, by its record."""

    stage: str
    what: str  #: as the stage describes itself
    key: str
    seconds: float
    device: str
    settings: Settings
    inputs: Mapping[str, Any]
    sizes: Sizes | None  #: None in records that do not count


class Asked(NamedTuple):
    """A stage of a run that a forecast is wanted of; ``sizes`` None: nobody can tell."""

    stage: str
    what: str
    settings: Settings
    sizes: Sizes | None


class Forecast(NamedTuple):
    """What a stage will take. ``basis``: measured (a stage exactly like it), scaled (its count times what
    stages like it took beside theirs), counted (no measurement on this kind of device), likened (the rate of
    others of its network, prior or attack), "" (unknown).
    """

    basis: str
    seconds: float | None = None
    memory: float | None = None  #: bytes on the device at the peak
    disk: float = 0.0
    flops: float | None = None  #: floating-point operations, where they were counted


UNKNOWN = Forecast("")


def precision_of(settings: Settings) -> str:
    """float32, tf32 or bf16: how a run rounds."""
    node = settings.get("numerics")
    return str(node.get("precision", "float32")) if isinstance(node, Mapping) else "float32"


def chunk_of(settings: Settings) -> int:
    """Reconstructions at once, at most."""
    chunk = settings["runtime"]["chunk"]
    return chunk if isinstance(chunk, int) else _CHUNK


def this_device(settings: Settings) -> str:
    """The name that a record of a run would give its device; torch is not asked."""
    wanted = str(settings["runtime"]["device"])
    gpus = [] if wanted == "cpu" else visible_gpus()
    return gpus[0].name if gpus else f"{processor_name()}, {settings['runtime']['threads'] or 1} threads"


@cache
def processor_name() -> str:
    """As the operating system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return str(names[0]) if names else platform.processor() or platform.machine()


def described(settings: Mapping[str, Any]) -> dict[str, str]:
    """What each stage of a run is, by its name; ``settings`` may come from a record."""
    return {
        stage.name: stage.describe(settings) for stage in stages_of(settings) if stage.is_part_of(settings)
    }


def read_measured(results: Path, trusted: Trusted = ()) -> list[Measured]:
    """What the records of a scale say, ``results`` being its folder: of a shared stage once. Records nobody
    can read count for nothing here, nor do those of classes outside ``trusted``, whatever they say.
    """
    found: dict[tuple[str, str], Measured] = {}
    for path in sorted((results / "records").glob("*.json")):
        try:
            found.update(_of_record(path, trusted))
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            continue
    return list(found.values())


def _learnt_from(record: Mapping[str, Any]) -> tuple[int, int, int]:
    """Images and people that a verifier of a record learnt from, and images that a reader of traits did."""
    verifier = (record.get("open_set") or {}).get("verifier") or {}
    reader = (record.get("traits") or {}).get("reader") or {}
    people = int(verifier.get("identities", 0)) + int(verifier.get("held_out", 0))
    read = int(reader.get("identities", 0)) + int(reader.get("held_out", 0))
    return int(verifier.get("images", 0)) + int(verifier.get("held_out_images", 0)), people, read


def _of_record(path: Path, trusted: Trusted) -> dict[tuple[str, str], Measured]:
    record = read_json(path)
    check_record(path)
    if "suite" in record:  # whose members have records of their own
        return {}
    runtime = {**record["config"]["runtime"], "trusted_packages": list(trusted)}
    settings = {**record["config"], "runtime": runtime}
    what, counts, found = described(settings), record.get("counts") or {}, {}
    sizes = None
    if "private_train" in counts:
        starts = (record.get("start") or {}).values()
        pool: Mapping[str, Any] = next(
            (start["pretraining"] for start in starts if "pretraining" in start), {}
        )
        sizes = Sizes(
            int(counts["private_train"]),
            int(counts["private_test"]),
            int(counts.get("public") or 0),
            int(counts["private_identities"]),
            *(
                *(int(pool.get(name, 0)) for name in ("images", "tested", "identities")),
                *_learnt_from(record),
            ),
        )
    for stage, spent in record["seconds"].items():
        key = str(record["artifacts"][stage])
        kind, own = behind(stage, settings)
        inputs, device = inputs_of(kind, own), str(record.get("device", ""))
        measured = Measured(kind, what[stage], key, float(spent), device, own, inputs, sizes)
        found[stage, key] = measured
    return found


def forecasts(
    asked: Sequence[Asked],
    measured: Iterable[Measured],
    *,
    device: str | None = None,
    limit: float | None = 0,
    say: Callable[[str], None] = lambda _: None,
) -> list[Forecast]:
    """One for each, on ``device`` (None: this machine's). Of what is not measured, counts are made for at
    most ``limit`` seconds (None: until all are), and without any there is no forecast.
    """
    by_kind: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    measured = list(measured)
    for one in measured:
        by_kind[one.stage, one.what].append(one)
    cases = [_Case.of(one, by_kind[one.stage, one.what], device) for one in asked]
    count_all((wanted for case in cases for wanted in case.wanted()), limit, say)
    seconds_of = likened((one.stage, one.settings, one.sizes, one.seconds) for one in measured)
    return [_or_likened(case.forecast(cases), case.asked, seconds_of) for case in cases]


def _or_likened(
    found: Forecast, asked: Asked, seconds_of: Callable[[str, Settings, Sizes | None], float | None]
) -> Forecast:
    """A forecast, or what others of the same network, prior or attack let expect where there is none."""
    if found.seconds is not None:
        return found
    seconds = seconds_of(asked.stage, asked.settings, asked.sizes)
    return found if seconds is None else found._replace(basis="likened", seconds=seconds)


def _as_many(stage: str, one: Sizes | None, other: Sizes | None) -> bool:
    """Whether two stages of a kind were of as many images, as far as is known."""
    return None in (one, other) or sizes_behind(stage, one) == sizes_behind(stage, other)


class _Case(NamedTuple):
    """A stage that is asked for, and what was measured of the like on the same device (else on any)."""

    asked: Asked
    device: str
    exact: list[Measured]
    like: list[Measured]

    @classmethod
    def of(cls, asked: Asked, of_kind: Sequence[Measured], named: str | None) -> _Case:
        device, inputs = named or this_device(asked.settings), inputs_of(asked.stage, asked.settings)
        here = [one for one in of_kind if one.device == device] or list(of_kind)
        exact = [
            one for one in here if one.inputs == inputs and _as_many(asked.stage, one.sizes, asked.sizes)
        ]
        like = [one for one in here if one.sizes is not None and differ_in_numbers(inputs, one.inputs)]
        return cls(asked, device, exact, like)

    def wanted(self) -> Iterator[Wanted]:
        """What is to be counted: itself, for its memory as well, and the like of it."""
        if not self.exact:
            yield from (self._as_own(one) for one in self.like[:1])
            if self.own is not None:
                yield self.own

    @property
    def own(self) -> Wanted | None:
        asked = self.asked
        return None if asked.sizes is None else Wanted.of(asked.stage, asked.settings, asked.sizes)

    def _as_own(self, one: Measured) -> Wanted:
        """A measured stage, to be counted and remembered as the user's own stages are."""
        paths = {"paths": self.asked.settings["paths"]}
        assert one.sizes is not None
        return Wanted.of(one.stage, {**one.settings, **paths}, one.sizes)

    def predicted(self, counted: Counted, device: str) -> float:
        """Seconds by data sheets."""
        settings = self.asked.settings
        kind = accelerator(device) or REFERENCE
        return seconds(counted, kind, precision_of(settings), chunk_of(settings))

    def ratio(self) -> float | None:
        """Measured over predicted seconds of this stage or the like of it."""
        found = []
        for one in self.exact or self.like[:1]:
            wanted = self._as_own(one) if one.sizes is not None else self.own
            counted = None if wanted is None else remembered(wanted)
            if counted is not None and (predicted := self.predicted(counted, one.device or self.device)):
                found.append(one.seconds / predicted)
        return median(found) if found else None

    def forecast(self, cases: Sequence[_Case]) -> Forecast:
        """The best there is."""
        own = self.own
        counted = None if own is None else remembered(own)
        memory = None if counted is None else self._memory(counted)
        disk, flops = (0.0, None) if counted is None else (counted.disk, counted.flops)
        same = [one.seconds for one in self.exact if one.device in ("", self.device)]
        if same:
            return Forecast("measured", median(same), memory, disk, flops)
        if counted is None and not self.exact and (longer := self._of_other_length()):
            return Forecast("scaled", median(longer))
        if counted is None:
            return Forecast("measured", median(one.seconds for one in self.exact)) if self.exact else UNKNOWN
        ratio = self.ratio()
        if ratio is None:  # of the same stage of other runs on this device
            others = [case.ratio() for case in cases if case.asked.stage == self.asked.stage]
            known = [one for one in others if one is not None]
            ratio = median(known) if known else None
        predicted = self.predicted(counted, self.device)
        if ratio is None:
            return Forecast("counted", predicted, memory, disk, flops)
        return Forecast("scaled", ratio * predicted, memory, disk, flops)

    def _of_other_length(self) -> list[float]:
        """What stages took that differ in the length of their loop alone, made as long as this one."""
        inputs, sizes = inputs_of(self.asked.stage, self.asked.settings), self.asked.sizes
        known = [one for one in self.like if _as_many(one.stage, one.sizes, sizes)]
        times = [more_of_the_same(one.stage, inputs, one.inputs) for one in known]
        return [time * one.seconds for time, one in zip(times, known, strict=True) if time is not None]

    def _memory(self, counted: Counted) -> float:
        kind: Accelerator | None = accelerator(self.device)
        free = kind.memory * GB - RESERVED if kind is not None and kind.memory else None
        reserved = RESERVED if free is not None else _OF_PROCESS
        return reserved + counted.memory(chunk_of(self.asked.settings), free)
