"""A sweep of two workers is disturbed once, in one of many ways: signals to a worker, to the parent or to all
of it, a disk that becomes full, code that is edited meanwhile. It ends as one that nobody disturbed, or in a
sentence after which the same command does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from midre_exp.store.files import sha256
from tests.chaos import Violation
from tests.chaos.sweep import ROOT, Process, Started, collect, compare, ended, until, verify
from tests.chaos.terms import LONGER

SWEEP = ("-m", *LONGER, "defense=nodef,midre", "seed=0,1", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
#: Mean pause, in seconds, between the moment when something is built and the disturbance.
PAUSE = 5.0
#: A disturbed sweep must have ended within so many seconds, and what is left of a dead one within the second.
PATIENCE, ORPHANS = 1800.0, 60.0
#: Seconds for which SIGSTOP lasts.
STOPPED = (1.0, 20.0)
#: What the program consists of, in the copy whose code is edited.
CODE = ("midre_exp", "attacks", "defenses", "hydra_plugins", "conf")
#: The file that is edited, imported late in a run, and how: whoever computes with it gets other numbers.
EDITED = "midre_exp/metrics/evaluation.py"
EDIT = """

_evaluate_stored = evaluate_stored


def evaluate_stored(*arguments, **keywords):
    numbers, missing, predicted = _evaluate_stored(*arguments, **keywords)
    return {**numbers, "att_acc1": 12.5}, missing, predicted
"""

Say = Callable[[str], None]


class Scene(NamedTuple):
    """One disturbance: a signal and whom it hits, or something else."""

    what: str
    whom: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.whom}".strip()


SCENES = (
    *(
        Scene(name, whom)
        for name in ("SIGKILL", "SIGSTOP", "SIGTERM")
        for whom in ("worker", "parent", "group")
    ),
    Scene("disk full"),
    Scene("code edited"),
)


def campaign(
    folder: Path,
    rounds: int,
    random: Random,
    say: Say,
    sweep: tuple[str, ...] = SWEEP,
    scenes: tuple[Scene, ...] | None = None,
) -> dict[str, Any]:
    """Disturb ``rounds`` sweeps, each in a store of its own, by all scenes in turn; returns counts. Violation
    when one does not end as the undisturbed one did.
    """
    checkout = copy_of_the_code(folder / "checkout")
    whole = folder / "undisturbed"
    say("the undisturbed sweep")
    with ended([first := Started(whole, *sweep, root=checkout)]):
        first.finish()
    compare(whole, whole)
    order = list(scenes or random.sample(SCENES, len(SCENES)))
    tally: Counter[str] = Counter()
    for number in range(rounds):
        scene = order[number % len(order)]
        broken = folder / f"disturbed-{number}"
        with _place(scene, broken, whole, random) as enlarge:
            if enlarge is None:
                tally[f"{scene}: not tried, for want of rights"] += 1
                continue
            said = _disturbed(scene, broken, checkout, random, sweep)
            enlarge()
            attempts = _until_done(broken, checkout, sweep)
            tally["temporary files of killed writers, removed by gc"] += collect(broken)
            tally.update(compare(broken, whole))
            tally[str(scene)] += 1
            tally["attempts after it"] += attempts
            tally["ended well all the same"] += said == "0"
            say(f"{scene}: {said}, then equal; {verify(broken)}")
    return dict(sorted(tally.items()))


def copy_of_the_code(place: Path) -> Path:
    """The program as it is now, so that its code can be edited while it runs, and the working tree cannot."""
    for name in CODE:
        if (ROOT / name).exists():
            shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(ROOT / "pyproject.toml", place / "pyproject.toml")
    return place


@contextmanager
def _place(scene: Scene, folder: Path, whole: Path, random: Random) -> Iterator[Callable[[], None] | None]:
    """Within, a folder for a sweep, and what makes its disk large again; None where no disk can be made."""
    folder.mkdir()
    if scene.what != "disk full":
        yield lambda: None
        return
    store = folder / "artifacts"
    store.mkdir()
    needed = sum(path.stat().st_size for path in (whole / "artifacts").rglob("*") if path.is_file())
    size = int(needed * random.uniform(0.05, 0.8)) // 4096 * 4096
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(store)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        yield None
        return
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=4g", str(store)], check=True) and None
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            subprocess.run(["umount", "-l", str(store)], check=True)


def _disturbed(scene: Scene, folder: Path, checkout: Path, random: Random, sweep: tuple[str, ...]) -> str:
    """Start the sweep, disturb it, wait for its end; its exit code, perhaps with its last sentence. Violation
    for an end without a sentence, and for processes that are left.
    """
    command = Started(folder, *sweep, root=checkout)
    file = checkout / EDITED
    as_it_was = file.read_text()
    with ended([command]):
        try:
            _wait_for_work(command, folder, random)
            if scene.what == "code edited":
                file.write_text(as_it_was + EDIT)
            elif scene.what.startswith("SIG"):
                _send(scene, command, random)
            end = time.monotonic() + PATIENCE
            while command.code() is None:
                if time.monotonic() > end:
                    raise Violation(f"{scene}: a sweep goes on without end; see {command.log}")
                time.sleep(0.1)
            until(
                lambda: not command.processes(), ORPHANS, f"{scene}: processes of a dead sweep are left", 0.1
            )
        finally:
            file.write_text(as_it_was)
    return _judged(scene, command)


def _wait_for_work(command: Started, folder: Path, random: Random) -> None:
    """Until something is built, and a random while longer; or until the sweep has ended by itself."""
    locks = folder / "artifacts" / "locks"
    while command.code() is None and not any(locks.glob("*.lock")):
        time.sleep(0.05)
    until_then = time.monotonic() + random.expovariate(1 / PAUSE)
    while command.code() is None and time.monotonic() < until_then:
        time.sleep(0.05)


def _send(scene: Scene, command: Started, random: Random) -> None:
    """The signal of a scene; one that stops is followed by one that lets go on."""
    number = signal.Signals[scene.what]
    victims = _victims(scene.whom, command.processes(), command.group, random)
    _signal(victims, number)
    if number is signal.SIGSTOP:
        time.sleep(random.uniform(*STOPPED))
        _signal(victims, signal.SIGCONT)


def _victims(whom: str, alive: list[Process], group: int, random: Random) -> list[int]:
    if whom == "parent":
        return [process.pid for process in alive if process.pid == group]
    if whom == "worker":
        workers = [process.pid for process in alive if process.is_worker]
        return [random.choice(workers)] if workers else []
    return [process.pid for process in alive]


def _signal(processes: list[int], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


def _judged(scene: Scene, command: Started) -> str:
    """What an ended sweep says. Violation for a traceback, and for an end that is no sentence."""
    code, text = command.code(), command.output()
    if code == 0:
        return "0"
    if "Traceback (most recent call last)" in text:
        raise Violation(f"{scene}: ended with a traceback; see {command.log}")
    told = re.findall(r"^midre_exp: .+$", text, re.MULTILINE)
    by_signal = {-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM}
    if code == 2 and told:
        return f"2, {told[-1][:110]}"
    if code in by_signal and scene.what in ("SIGKILL", "SIGTERM"):
        return str(code)
    raise Violation(f"{scene}: ended with code {code} and no sentence; see {command.log}")


def _until_done(folder: Path, checkout: Path, sweep: tuple[str, ...]) -> int:
    """Give the same command again until it finds nothing to do; how often it had something. It may fail no
    more.
    """
    assert sha256(checkout / EDITED) == sha256(ROOT / EDITED), "the code is as it was"
    for attempts in range(3):
        with ended([again := Started(folder, *sweep, root=checkout)]):
            again.finish()
        if re.search(r" 0 to do$", again.output(), re.MULTILINE):
            return attempts
    raise Violation(f"a finished sweep finds more to do: {again.output()[-800:]}")
