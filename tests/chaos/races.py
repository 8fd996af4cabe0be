"""Eight processes are started for the same work and held back before every stage until all of them want it:
each is built once.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.stages import make_plan
from tests.chaos import Violation
from tests.chaos.sweep import ROOT, Started, artifacts, ended, leftovers, records, until, verify
from tests.conftest import TINY

PROCESSES = 8
#: In the order in which a run wants them.
STAGES = ("target", "prior", "attack", "evaluator", "features", "metrics", "verdicts")
#: Two runs that share all but the attack and its metrics.
OTHER = "attack.steps=4"
PATIENCE = 600.0

Say = Callable[[str], None]


def campaign(
    folder: Path, rounds: int, random: Random, say: Say, processes: int = PROCESSES
) -> dict[str, Any]:
    """Each round: all processes for one run, then half of them for another that shares its target, prior and
    evaluator. Returns counts.

    Violation when a stage is built twice, a process fails, or anything is left over.
    """
    tally: Counter[str] = Counter()
    for number in range(rounds):
        for shared in (False, True):
            name = "two runs" if shared else "one run"
            place = folder / f"{name.replace(' ', '-')}-{number}"
            _race(
                place, [(*TINY, OTHER) if shared and n % 2 else TINY for n in range(processes)], random, tally
            )
            say(f"round {number + 1}, {name}: every stage was built once; {verify(place)}")
    return dict(sorted(tally.items()))


def _race(folder: Path, jobs: Sequence[Sequence[str]], random: Random, tally: Counter[str]) -> None:
    with packaged_configs():
        plans = {tuple(job): make_plan(settings_of(job)) for job in jobs}
    folder.mkdir()
    names = {(stage, plan[stage].key) for plan in plans.values() for stage in STAGES}
    gates = {name: Gate(folder / "artifacts", *name) for name in sorted(names)}
    commands: list[Started] = []
    try:
        with ended(commands):
            commands += [Started(folder, *job) for job in jobs]
            for stage in STAGES:
                for key in sorted({plan[stage].key for plan in plans.values()}):
                    racers = [
                        c
                        for c, job in zip(commands, jobs, strict=True)
                        if plans[tuple(job)][stage].key == key
                    ]
                    _await_all(racers, commands, stage, key)
                    if random.random() < 0.5:
                        gates[stage, key].die()
                        tally["races for the lock of a dead process"] += 1
                    else:
                        gates[stage, key].open()
                        tally["races for a lock given back"] += 1
                    tally["processes in these races"] += len(racers)
            for command in commands:
                command.finish(PATIENCE)
    finally:
        for gate in gates.values():
            gate.die()
    _check(folder, commands, names, len(plans))
    tally["runs started"] += len(commands)
    tally["stages built, each once"] += len(names)
    tally["records"] += len(plans)


class Gate:
    """A process that holds the lock of a stage as if it were building it."""

    def __init__(self, store: Path, stage: str, key: str):
        code = (
            "import sys; from pathlib import Path; from midre_exp.store.lock import BuildLock\n"
            "lock = BuildLock(Path(sys.argv[1]), sys.argv[2]); lock.acquire(); print('closed', flush=True)\n"
            "sys.stdin.readline(); lock.release()\n"
        )
        lock = store / "locks" / f"{stage}-{key}.lock"
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, str(lock), f"{stage} {key}"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdout is None or self._process.stdout.readline() != "closed\n":
            raise Violation(f"the lock {lock} of a new store cannot be taken")

    def open(self) -> None:
        """Give the lock back."""
        self._process.communicate("\n")

    def die(self) -> None:
        """Leave the lock behind."""
        self._process.kill()
        self._process.communicate()


def _await_all(racers: Sequence[Started], commands: Sequence[Started], stage: str, key: str) -> None:
    """Until every racer says that it waits for this stage. Violation when a process ends before."""

    def all_wait() -> bool:
        for command in commands:
            if command.code() is not None:
                raise Violation(
                    f"a process ended with code {command.code()} before {stage}; see {command.log}"
                )
        return all(f"{stage} {key} is being built by " in racer.output() for racer in racers)

    until(all_wait, PATIENCE, f"not every process waits for {stage} {key}", pause=0.2)


def _check(folder: Path, commands: Sequence[Started], names: set[tuple[str, str]], runs: int) -> None:
    said = "".join(command.output() for command in commands)
    built = Counter(re.findall(r"(\w+ \w+): building$", said, re.MULTILINE))
    expected = {f"{stage} {key}" for stage, key in names}
    if built != Counter(expected):
        raise Violation(f"stages were not built once each: {dict(built)}; see the output files of {folder}")
    if artifacts(folder).keys() != expected:
        raise Violation(f"{folder} holds {sorted(artifacts(folder))}, not {sorted(expected)}")
    if len(records(folder)) != runs:
        raise Violation(f"{folder} has {len(records(folder))} records of {runs} runs")
    if litter := leftovers(folder):
        raise Violation(f"left over in {folder}: {', '.join(litter)}")
