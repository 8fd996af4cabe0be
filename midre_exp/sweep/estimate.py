"""What runs would build, share and reuse, and about how long that would take: ``python -m midre_exp --plan
OVERRIDES``, and the same of tables, ``python -m midre_exp.report TABLE --plan``.

Nothing is launched. The time of a stage is the median of what stages of the same kind took before, by the
records of the same scale; where none did, the plan says so instead of guessing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from midre_exp.errors import UserError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import Trusted, trusted_packages
from midre_exp.plan.explain import settings_of_job
from midre_exp.plan.keys import Plan, fingerprints_once
from midre_exp.plan.scale import full_size_parts
from midre_exp.plan.shards import SHARD
from midre_exp.records import check_record
from midre_exp.stages import STAGES, make_plan, stale
from midre_exp.store.files import read_json
from midre_exp.store.progress import duration
from midre_exp.store.store import Store
from midre_exp.sweep.finished import is_finished, stale_in
from midre_exp.tracking.provenance import git_commit

_ORDER = (*(stage.name for stage in STAGES), SHARD)
_LISTED = 80  # stages listed one by one; above that only the sums


@dataclass
class Needed:
    """One stage of a sweep: what it is, how many runs use it, whether it is in the store and will be used,
    seconds it may take (None: never measured), and why it is stale, if it is.
    """

    stage: str
    key: str
    what: str
    stored: bool
    seconds: float | None
    runs: list[str] = field(default_factory=list)
    stale: str = ""


@dataclass
class Estimate:
    """Counts of runs, and every distinct stage of those to do, in the order of a run, and every stale one of
    finished runs.
    """

    planned: int
    finished: int
    repeated: int
    stages: list[Needed]
    stale: int = 0  # of the finished runs

    @property
    def to_do(self) -> int:
        """Runs that would be launched."""
        return self.planned - self.finished - self.repeated


def described(settings: Mapping[str, Any]) -> dict[str, str]:
    """What each stage of a run is, by its name in the store; ``settings`` may come from a record."""
    found = {stage.name: stage.describe(settings) for stage in STAGES if stage.is_part_of(settings)}
    return {**found, SHARD: found["attack"]}


def rates(results: Path, trusted: Trusted = ()) -> dict[tuple[str, str], float]:
    """Median seconds of each (stage, kind) over the records of a scale, ``results`` being its folder. Records
    nobody can read count for nothing here, nor do those of classes outside ``trusted``, whatever they say.
    """
    seconds: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for path in sorted((results / "records").glob("*.json")):
        try:
            record = read_json(path)
            check_record(path)
            runtime = {**record["config"]["runtime"], "trusted_packages": list(trusted)}
            what = described({**record["config"], "runtime": runtime})
            for stage, spent in record["seconds"].items():
                key = record["artifacts"][stage]  # a shared stage is one measurement
                seconds[stage, what[stage]][key] = float(spent)
        except (UserError, KeyError, TypeError, ValueError, AttributeError):
            continue
    return {name: median(found.values()) for name, found in seconds.items()}


def estimate(jobs: Iterable[tuple[Mapping[str, Any], Plan]]) -> Estimate:
    """The estimate of jobs, given as resolved settings and plans."""
    seen: set[str] = set()
    found: dict[tuple[str, str], Needed] = {}
    measured: dict[Path, dict[tuple[str, str], float]] = {}
    planned = finished = repeated = outdated = 0
    commit = git_commit()
    for settings, plan in jobs:
        planned += 1
        is_done = is_finished(settings, plan)
        old = stale_in(settings, plan, commit)
        if is_done:
            finished += 1
            outdated += bool(old)
        elif plan.key in seen:
            repeated += 1
            continue
        if is_done and (not old or plan.key in seen):
            continue
        seen.add(plan.key)
        results = Path(settings["paths"]["results"]) / settings["scale"]
        if results not in measured:
            measured[results] = rates(results, trusted_packages(settings))
        store = Store(settings["paths"]["store"])
        names = described(settings)
        anew = {
            *(old if stale.policy(settings) == "rebuild" else ()),
            *stale.not_rebuilt(store, plan, stale.to_rebuild(settings, plan), None),
        }
        for name in old if is_done else plan.stages:
            stage = plan[name]
            entry = found.get((stage.name, stage.key))
            if entry is None:
                what = names[stage.name]
                entry = found[stage.name, stage.key] = Needed(
                    stage.name,
                    stage.key,
                    what,
                    name not in anew and store.peek(stage.name, stage.key),
                    measured[results].get((stage.name, what)),
                    stale=old.get(name, ""),
                )
            entry.runs.append(plan.key)
    order = {stage: number for number, stage in enumerate(_ORDER)}
    stages = sorted(found.values(), key=lambda entry: order[entry.stage])
    return Estimate(planned, finished, repeated, stages, outdated)


def lines(plan: Estimate) -> list[str]:
    """The estimate as text."""
    text = [
        f"{plan.planned} runs planned: {plan.finished} finished before, {plan.repeated} repeated, "
        f"{plan.to_do} to do"
        + (f"; {plan.stale} of the finished are stale (made by other code)" if plan.stale else "")
    ]
    if not plan.stages:
        return text
    text += ["", f"{'stage':<12}{'distinct':>9}{'uses':>7}{'stored':>8}{'to build':>10}  time"]
    total, unknown = 0.0, 0
    for stage in dict.fromkeys(entry.stage for entry in plan.stages):
        entries = [entry for entry in plan.stages if entry.stage == stage]
        build = [entry for entry in entries if not entry.stored]
        known = [entry.seconds for entry in build if entry.seconds is not None]
        total += sum(known)
        unknown += len(build) - len(known)
        time = duration(sum(known)) if known else "-"
        more = f" and {len(build) - len(known)} never measured" if len(build) > len(known) else ""
        uses = sum(len(entry.runs) for entry in entries)
        text.append(
            f"{stage:<12}{len(entries):>9}{uses:>7}{len(entries) - len(build):>8}{len(build):>10}  "
            f"{time}{more}"
        )
    text.append(
        f"together about {duration(total)} of one device, by the records of this scale"
        + (f"; {unknown} stages of kinds never measured come on top" if unknown else "")
    )
    if len(plan.stages) <= _LISTED:
        text += ["", *(_line(entry) for entry in plan.stages)]
    return text


def _line(entry: Needed) -> str:
    runs = f"{len(entry.runs)} runs" if len(entry.runs) > 1 else "1 run"
    time = "" if entry.seconds is None else f", about {duration(entry.seconds)}"
    state = "stored" if entry.stored else f"to build{time}"
    if entry.stale:
        state = f"stale, {entry.stale}" if entry.stored else f"stale, to build anew{time}"
    return f"{entry.stage:<12}{entry.key}  {runs:>8}  {state}: {entry.what}"


def show(jobs: Sequence[Sequence[str]]) -> None:
    """Print the estimate of jobs, each given as its overrides. Raises what composing and planning raise."""
    with packaged_configs(), fingerprints_once():
        composer = packaged_composer()
        every = [
            settings_of_job(composer, [part for part in job if not part.startswith("hydra")]) for job in jobs
        ]
        text = lines(estimate((settings, make_plan(settings)) for settings in every))
        told = dict.fromkeys(part for settings in every for part in full_size_parts(settings))
        print("\n".join([*text, *(["", *told] if told else [])]))
