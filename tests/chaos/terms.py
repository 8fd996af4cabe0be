"""SIGTERM at a random moment to a run, to a sweep of two workers and to a table: it ends soon, and the same
command goes on later.
"""

from __future__ import annotations

import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.records import record_path
from midre_exp.stages import make_plan
from tests.chaos import Violation
from tests.chaos.sweep import Started, compare, ended, verify
from tests.conftest import TINY

#: Long enough to be met in a loop with checkpoints.
LONGER = (
    *TINY,
    "setup=demo",
    "attack.prior.steps=120",
    "target.recipe.epochs=20",
    "attack.steps=60",
    "runtime.chunk=4",
)
#: Within so many seconds everything has ended.
LIMIT = 10.0

#: When SIGTERM comes: while the process starts, or soon after such a stage was begun.
MOMENTS = ("start", "target", "prior", "attack", "evaluator")

Say = Callable[[str], None]


class Kind(NamedTuple):
    """A command that gets SIGTERM, and the defenses of the runs it makes."""

    name: str
    module: str
    arguments: tuple[str, ...]
    defenses: tuple[str, ...]


PAIR = ("-m", "defense=nodef,midre", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
KINDS = (
    Kind("run", "midre_exp", (*LONGER, "defense=midre"), ("midre",)),
    Kind("sweep", "midre_exp", (*PAIR, *LONGER), ("nodef", "midre")),
    Kind("table", "midre_exp.report", ("demo", *LONGER), ("nodef", "midre", "midre_wide")),
)


def campaign(
    folder: Path, rounds: int, random: Random, say: Say, kinds: tuple[Kind, ...] = KINDS
) -> dict[str, Any]:
    """Each round sends one SIGTERM to a command of each kind, then runs the command again to its end. Returns
    counts.

    Violation when a command takes longer than ``LIMIT`` to end, ends with another code than 143, leaves a
    process or a lock, or when the continued one differs from one that nobody disturbed.
    """
    whole = folder / "undisturbed"
    with ended(commands := []):
        commands.append(Started(whole, *kinds[-1].arguments, module=kinds[-1].module))
        commands[0].finish()
    tally: Counter[str] = Counter()
    slowest: dict[str, float] = {}
    for number in range(rounds):
        for kind in kinds:
            place = folder / f"{kind.name}-{number}"
            took = _terminate(place, kind, random, tally)
            slowest[kind.name] = round(max(slowest.get(kind.name, 0.0), took), 1)
            with ended(commands := []):
                commands.append(Started(place, *kind.arguments, module=kind.module))
                commands[0].finish()
            compare(place, whole, names=record_names(kind))
            say(
                f"round {number + 1}: the {kind.name} ended {took:.1f} s after SIGTERM; continued: "
                f"{verify(place)}"
            )
    return {
        **dict(sorted(tally.items())),
        **{f"slowest end of a {name} (s)": s for name, s in slowest.items()},
    }


def record_names(kind: Kind) -> set[str]:
    """The file names of the records that a command leaves."""
    with packaged_configs():
        jobs = [settings_of([*LONGER, f"defense={defense}"]) for defense in kind.defenses]
    return {record_path("", settings, make_plan(settings)).name for settings in jobs}


def _terminate(folder: Path, kind: Kind, random: Random, tally: Counter[str]) -> float:
    """One SIGTERM to the process that was started, at a random moment after its first build began; how many
    seconds everything took to end.
    """
    with ended([command := Started(folder, *kind.arguments, module=kind.module)]):
        _wait(command, random.choice(MOMENTS), random.uniform(0.0, 2.0))
        if command.code() is not None:
            raise Violation(
                f"the {kind.name} ended before SIGTERM with code {command.code()}; see {command.log}"
            )
        building = sorted(path.stem for path in (folder / "artifacts" / "locks").glob("*.lock"))
        command.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        while command.processes():
            if time.monotonic() - started > LIMIT:
                left = ", ".join(f"{p.pid} {p.command[:80]}" for p in command.processes())
                raise Violation(
                    f"{LIMIT:.0f} s after SIGTERM to a {kind.name} there still live: {left}; see "
                    f"{command.log}"
                )
            time.sleep(0.02)
        took = time.monotonic() - started
    early = "building" not in command.output()  # Python may not have got to the line that asks for SIGTERM
    if command.code() != 143 and not (early and command.code() == -signal.SIGTERM):
        raise Violation(
            f"after SIGTERM a {kind.name} ended with code {command.code()}, not 143; see {command.log}"
        )
    if locks := sorted(path.name for path in (folder / "artifacts" / "locks").glob("*")):
        raise Violation(f"after SIGTERM a {kind.name} left locks: {', '.join(locks)}")
    tally[f"SIGTERMs to a {kind.name}"] += 1
    for name in building:
        tally[f"met while building: {name.partition('-')[0]}"] += 1
        kept = any(file.is_file() for file in (folder / "artifacts" / "work" / name).glob("[!.]*"))
        tally["left a checkpoint"] += kept
    return took


def _wait(command: Started, moment: str, seconds: float) -> None:
    """Until so long after a moment of ``MOMENTS``, or the command's end."""
    while moment != "start" and command.code() is None:
        if re.search(rf"\b{moment} \w+: building$", command.output(), re.MULTILINE):
            break
        time.sleep(0.02)
    time.sleep(seconds)
