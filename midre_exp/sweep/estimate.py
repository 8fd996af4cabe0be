"""What runs would build, share and reuse, and about how long that would take: ``python -m midre_exp --plan
OVERRIDES``, and the same of tables, ``python -m midre_exp.report TABLE --plan``.

Nothing is launched. The time of a stage is what stages exactly like it took, by the records of the same
scale; of one that was never measured, what others of its kind took, scaled by how much more it has to do;
without those, what its operators would take by the data sheet of the device, counted in a process of its own
(``midre_exp.cost``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from midre_exp.cards.named import missing
from midre_exp.cost.accelerators import REFERENCE, accelerator, known
from midre_exp.cost.forecast import UNKNOWN, Asked, Forecast, described, forecasts, read_measured
from midre_exp.cost.runs import FULL_SCALES, device_of, once, with_published
from midre_exp.cost.sizes import sizes_of
from midre_exp.numerics import explained
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import trusted_packages
from midre_exp.plan.explain import settings_of_job
from midre_exp.plan.keys import Plan, StageKey, absent_data_allowed, fingerprints_once
from midre_exp.plan.scale import full_size_parts
from midre_exp.plan.shards import SHARD
from midre_exp.plan.suite import is_suite, runs_of
from midre_exp.stages import STAGES, behind, make_plan, stages_of, stale
from midre_exp.store.artifact import readable
from midre_exp.store.names import stored_as
from midre_exp.store.progress import duration, say
from midre_exp.store.shipped import is_shipped
from midre_exp.store.store import Store
from midre_exp.sweep.finished import is_finished, stale_in
from midre_exp.tracking.provenance import git_commit

_ORDER = (*(stage.name for stage in STAGES), "shadow", SHARD)
_LISTED = 80  # stages listed one by one; above that only the sums
_TIME_LIMIT = 240.0  # minutes of an attempt, as in conf/hydra/launcher/slurm.yaml
#: How a time that was not measured is marked.
_MARKS = {
    "measured": "",
    "scaled": ", scaled from others of its kind",
    "counted": ", counted",
    "likened": ", from others of its network or attack",
}


@dataclass
class Needed:
    """One stage of a sweep: what it is, how many runs use it, whether it is in the store and will be used,
    what it may take, and why it is stale, if it is.
    """

    stage: str
    key: str
    what: str
    stored: bool
    takes: Forecast = UNKNOWN
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
    time_limit: float | None = None  # minutes that a cluster gives an attempt
    devices: tuple[str, ...] = ()  # of which the times are

    @property
    def to_do(self) -> int:
        """Runs that would be launched."""
        return self.planned - self.finished - self.repeated


def estimate(
    jobs: Iterable[tuple[Mapping[str, Any], Plan]],
    *,
    counting: float | None = 0,
    time_limit: float | None = None,
    device: str | None = None,
) -> Estimate:
    """The estimate of jobs, given as resolved settings and plans; what was never measured is counted for at
    most ``counting`` seconds (None: until all is). ``device``: the kind it is for, None: each run's own.
    """
    seen: set[str] = set()
    found: dict[tuple[str, str], Needed] = {}
    asked: list[tuple[Needed, Asked, Path]] = []
    remember = once()
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
        store = Store(settings["paths"]["store"])
        names = described(settings)
        for name in [name for name in names if stored_as(name) == "attack"]:
            names[name.replace("attack", SHARD, 1)] = names[name]
        rebuilt = stale.to_rebuild(settings, plan)
        anew = {
            *(old if stale.policy(settings) == "rebuild" else ()),
            *stale.not_rebuilt(store, plan, rebuilt, None),
            *(name for name in rebuilt if not store.peek(name, plan[name].key)),
        }

        def is_there(stage: StageKey, anew: set[str] = anew, store: Store = store) -> bool:
            if stage.name in anew:
                return False
            return store.peek(stage.name, stage.key) or is_shipped(stage.name, stage.key)

        needed = [name for name in plan.stages if plan.is_needed(name, is_there)]
        for name in old if is_done else needed:
            stage = plan[name]
            entry = found.get((stored_as(stage.name), stage.key))
            if entry is None:
                what = names[stage.name]
                entry = found[stored_as(stage.name), stage.key] = Needed(
                    stage.name,
                    stage.key,
                    what,
                    is_there(stage),
                    stale=old.get(name, ""),
                )
                if not entry.stored:
                    each, own = behind(stage.name, settings)
                    each = "attack" if each == SHARD else each
                    sizes = sizes_of(own, remember)
                    asked.append((entry, Asked(each, what, with_published(own), sizes), results))
            entry.runs.append(plan.key)
    devices = _foresee(asked, counting, device)
    order = {stage: number for number, stage in enumerate(_ORDER)}
    stages = sorted(found.values(), key=lambda entry: order[entry.stage.partition(".")[0]])
    return Estimate(planned, finished, repeated, stages, outdated, time_limit, devices)


def _foresee(
    asked: Sequence[tuple[Needed, Asked, Path]], counting: float | None, device: str | None
) -> tuple[str, ...]:
    """Put into each stage what it takes, by the records of its scale, or of the others where it has none;
    returns the devices that this is of.
    """
    cases = [(place, device or device_of(one.settings)) for _, one, place in asked]
    for results, name in dict.fromkeys(cases):
        here = [pair[:2] for pair, case in zip(asked, cases, strict=True) if case == (results, name)]
        trusted = trusted_packages(here[0][1].settings)
        others = (folder for folder in sorted(results.parent.glob("*")) if folder != results)
        measured = read_measured(results, trusted) or [
            one for folder in others for one in read_measured(folder, trusted)
        ]
        found = forecasts([one for _, one in here], measured, device=name, limit=counting, say=say)
        for (entry, _), takes in zip(here, found, strict=True):
            entry.takes = takes
    return tuple(dict.fromkeys(name for _, name in cases))


def runs_to_do(plan: Estimate) -> dict[str, float]:
    """Seconds of what each run waits for, by the key of the run: of a shared stage all of them do."""
    found: dict[str, float] = {}
    for entry in plan.stages:
        if not entry.stored and entry.takes.seconds is not None:
            for run in entry.runs:
                found[run] = found.get(run, 0.0) + entry.takes.seconds
    return found


def lines(plan: Estimate) -> list[str]:
    """The estimate as text."""
    text = [
        f"{plan.planned} runs planned: {plan.finished} finished before, {plan.repeated} repeated, "
        f"{plan.to_do} to do"
        + (f"; {plan.stale} of the finished are stale (made by other code)" if plan.stale else "")
    ]
    if not plan.stages:
        return text
    width = _width(plan)
    text += [
        "",
        f"{'stage':<{width}}{'distinct':>9}{'uses':>7}{'stored':>8}{'to build':>10}{'EFLOP':>9}{'memory':>10}"
        f"{'disk':>10}  time",
    ]
    for stage in dict.fromkeys(entry.stage for entry in plan.stages):
        entries = [entry for entry in plan.stages if entry.stage == stage]
        build = [entry for entry in entries if not entry.stored]
        uses = sum(len(entry.runs) for entry in entries)
        text.append(
            f"{stage:<{width}}{len(entries):>9}{uses:>7}{len(entries) - len(build):>8}{len(build):>10}"
            f"{_amounts(build)}  {_sum(build)}"
        )
    every = [entry for entry in plan.stages if not entry.stored]
    text.append(f"{'in total':<{width}}{'':>25}{len(every):>10}{_amounts(every)}  {_sum(every)}")
    return text + _together(plan) + _each(plan)


def _sum(build: Sequence[Needed]) -> str:
    known = [entry.takes.seconds for entry in build if entry.takes.seconds is not None]
    more = f" and {len(build) - len(known)} never measured" if len(build) > len(known) else ""
    return f"{duration(sum(known)) if known else '-'}{more}"


def _amounts(build: Sequence[Needed]) -> str:
    """Three columns: operations together, the most memory of one, disk together."""
    flops = [entry.takes.flops for entry in build if entry.takes.flops is not None]
    memory = [entry.takes.memory for entry in build if entry.takes.memory is not None]
    disk = sum(entry.takes.disk for entry in build)
    columns = (
        f"{sum(flops) / 1e18:.3g}" if flops else "-",
        readable(int(max(memory))) if memory else "-",
        readable(int(disk)) if flops else "-",
    )
    return f"{columns[0]:>9}{columns[1]:>10}{columns[2]:>10}"


def _together(plan: Estimate) -> list[str]:
    """The sums over all that is to build."""
    build = [entry for entry in plan.stages if not entry.stored]
    known = [entry.takes for entry in build if entry.takes.seconds is not None]
    total = sum(takes.seconds or 0.0 for takes in known)
    counted = [takes for takes in known if takes.basis in ("scaled", "counted")]
    like = [takes.seconds or 0.0 for takes in known if takes.basis == "likened"]
    device = " or ".join(plan.devices) or "device"
    text = f"together about {duration(total)} of one {device}, by the records there are"
    if counted:
        share = sum(takes.seconds or 0.0 for takes in counted)
        text += f" ({duration(share)} of it by counting what {len(counted)} stages compute)"
    if like:
        text += f" ({duration(sum(like))} of it from others of the network or attack of {len(like)} stages)"
    if unknown := len(build) - len(known):
        text += f"; {unknown} stages of kinds never measured come on top (--plan --count counts them)"
    found = [text]
    memory = [takes.memory for takes in known if takes.memory is not None]
    if memory:
        disk = sum(takes.disk for takes in known)
        found.append(
            f"memory of the device up to about {readable(int(max(memory)))}, "
            f"disk about {readable(int(disk))} besides decoded images"
        )
    longest = max(runs_to_do(plan).values(), default=0.0)
    if plan.time_limit and longest:
        attempts = math.ceil(longest / (60 * plan.time_limit))
        found.append(
            f"the longest run takes {attempts} attempts of {plan.time_limit:g} minutes "
            "(hydra.launcher.timeout_min)"
        )
    if counted:
        kinds = [accelerator(name) or REFERENCE for name in plan.devices]
        found += [f"assumed of {kind.assumption}" for kind in kinds]
    return found


def _each(plan: Estimate) -> list[str]:
    """Every stage, if they are few."""
    text: list[str] = []
    if len(plan.stages) <= _LISTED:
        text += ["", *(_line(entry, _width(plan)) for entry in plan.stages)]
    return text


def _width(plan: Estimate) -> int:
    """Of the column of stages."""
    return max(12, *(len(entry.stage) + 2 for entry in plan.stages))


def _line(entry: Needed, width: int) -> str:
    runs = f"{len(entry.runs)} runs" if len(entry.runs) > 1 else "1 run"
    takes = entry.takes
    time = "" if takes.seconds is None else f", about {duration(takes.seconds)}{_MARKS[takes.basis]}"
    state = "stored" if entry.stored else f"to build{time}"
    if entry.stale:
        state = f"stale, {entry.stale}" if entry.stored else f"stale, to build anew{time}"
    return f"{entry.stage:<{width}}{entry.key}  {runs:>8}  {state}: {entry.what}"


def show(jobs: Sequence[Sequence[str]], *, count: bool = False, device: str | None = None) -> None:
    """Print the estimate of jobs, each given as its overrides, for a kind of device (None: this machine's, at
    full scale the one of reference where this is a CPU). Data and weights need not be here: what is missing
    is told. ``count``: also what nobody has measured at reduced scale. Raises what composing and planning
    raise otherwise.
    """
    if device is not None:
        known(device)
    with packaged_configs(), fingerprints_once(), absent_data_allowed():
        composer = packaged_composer()
        asked = [
            settings_of_job(composer, [part for part in job if not part.startswith("hydra")]) for job in jobs
        ]
        every = [run for settings in asked for run in runs_of(settings)]
        plans = [(settings, make_plan(settings)) for settings in every]
        limits = [_time_limit(job) for job in jobs]
        limit = next((minutes for minutes in limits if minutes is not None), None)
        is_full = any(settings["scale"] in FULL_SCALES for settings in every)
        counting = None if count or is_full else 0
        text = _suites(asked)
        text += lines(estimate(plans, counting=counting, time_limit=limit, device=device))
        told = dict.fromkeys(part for settings in every for part in full_size_parts(settings))
        told = {**dict.fromkeys(explained(settings["numerics"]) for settings in every), **told}
        missed = missing_here(every) if is_full else [text for one in every for text in missing(one)]
        told.update(dict.fromkeys(missed))
        print("\n".join([*text, *(["", *told] if told else [])]))


def _suites(asked: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each suite of attacks, with the overrides that make each member alone."""
    suites = {str(one["attack"]["name"]): one["attack"]["members"] for one in asked if is_suite(one)}
    counts = Counter(str(one["attack"]["name"]) for one in asked if is_suite(one))
    found = []
    for name, members in suites.items():
        found.append(f"{counts[name]} times the suite {name}, of {len(members)} runs each, which it shares:")
        found += [f"  {member}: {' '.join(node['overrides'])}" for member, node in members.items()]
    return [*found, ""] if found else []


def missing_here(every: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for everything that the runs need and that is not here, with the setups that need it."""
    found: dict[str, dict[str, None]] = {}
    remember = once()
    for settings in every:
        for stage in stages_of(settings):
            if stage.is_part_of(settings):
                for need in stage.needs(settings, remember):
                    line = f"{need.name}: {need.text.splitlines()[0]}"
                    found.setdefault(line, {})[str(settings["setup"]["id"])] = None
    return [f"missing here, for {_few(list(setups))}: {line}" for line, setups in found.items()]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _time_limit(job: Sequence[str]) -> float | None:
    """Minutes of an attempt, if a job is for a cluster."""
    given = dict(part.lstrip("+").partition("=")[::2] for part in job)
    if not given.get("hydra/launcher", "").startswith("slurm"):
        return None
    return float(given.get("hydra.launcher.timeout_min", _TIME_LIMIT))
