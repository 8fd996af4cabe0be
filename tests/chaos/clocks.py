"""Clocks that jump by hours, days and years, and files with impossible dates: a living builder is never
robbed, a dead one is taken over, nothing is built twice, damage is still seen, and the records are those of
an undisturbed run.

Clocks jump inside of processes only: a ``sitecustomize`` of our own shifts ``time.time``, and the dates of
files stay those of the disk, so that both disagree. The monotonic clock stays as it is, for no jump can move
it. (Debian's faketime 0.9.10 cannot serve: it shifts the monotonic deadline of ``time.sleep`` as well, which
then fails with EINVAL since Python 3.11.)
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from tests.chaos import Violation
from tests.chaos.builder import KEY, STAGE, STALE_SECONDS
from tests.chaos.ground import Ground, records_of
from tests.conftest import tiny_overrides

ROOT = Path(__file__).parents[2]

_JUMPS = (3600.0, 86400.0, 30 * 86400.0, 3650 * 86400.0)
_DATES = (0.0, 1.0, 4e9)  # 1970, and 2096
_SITE = """
import os, time
_time, _time_ns = time.time, time.time_ns
def _offset():
    try:
        with open(os.environ["CHAOS_CLOCK"]) as file:
            return float(file.read())
    except (OSError, ValueError):
        return 0.0
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + int(_offset() * 1e9)
"""


class TrainingProgress:
    """The clock of child processes, moved by writing into a file."""

    def __init__(self, folder: Path, draw: random.Random):
        folder.mkdir(parents=True)
        self.file = folder / "offset"
        self.draw = draw
        self.jumps = 0
        (folder / "sitecustomize.py").write_text(_SITE)
        path = os.pathsep.join([str(folder), str(ROOT)])
        self.environment = {
            **os.environ,
            "PYTHONPATH": path,
            "OMP_NUM_THREADS": "1",
            "CHAOS_CLOCK": str(self.file),
        }
        self.environment.pop("HYDRA_FULL_ERROR", None)
        self.set(0)

    def set(self, offset: float) -> None:
        """Show the time ``offset`` seconds from now."""
        new = self.file.with_name("new")
        new.write_text(f"{offset:+.0f}\n")
        new.replace(self.file)

    def jump(self) -> None:
        """To somewhere else, forward or back."""
        self.jumps += 1
        self.set(self.draw.choice((-1, 1)) * self.draw.choice(_JUMPS) * self.draw.random())


@contextmanager
def jumping(draw: random.Random) -> Iterator[Callable[[], int]]:
    """Within, this process's clock shows another time whenever it is asked; how often it was."""
    asked = itertools.count()
    real, real_ns = time.time, time.time_ns

    def offset() -> float:
        next(asked)
        return draw.choice((-1, 0, 1)) * draw.choice(_JUMPS) * draw.random()

    with (
        mock.patch.object(time, "time", lambda: real() + offset()),
        mock.patch.object(time, "time_ns", lambda: real_ns() + int(offset() * 1e9)),
    ):
        yield lambda: next(asked)


def start(clock: TrainingProgress, place: Path, *more: str) -> subprocess.Popen[str]:
    """A builder of its own process, see ``tests.chaos.builder``."""
    words = [str(place / name) for name in ("store", "log", "go")]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos.builder", *words, *more],
        env=clock.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def lines(place: Path) -> list[list[str]]:
    """What the builders noted."""
    return (
        [line.split() for line in (place / "log").read_text().splitlines()]
        if (place / "log").exists()
        else []
    )


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Raises Violation when it takes too long."""
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            raise Violation(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.02)


def held_lock(place: Path, draw: random.Random, *, die: bool) -> int:
    """Two processes want one artifact while their clocks and the date of the lock jump about; the first
    lives, or is killed.
    """
    clocks = [TrainingProgress(place / f"clock{number}", draw) for number in range(2)]
    elsewhere = ["elsewhere"] if draw.random() < 0.5 else []
    lock = place / "store" / "locks" / f"{STAGE}-{KEY}.lock"
    first = start(clocks[0], place, *elsewhere)
    everybody = [first]
    try:
        wait_for(lambda: len(lines(place)) == 1, 60, "the first build")
        everybody.append(start(clocks[1], place))
        until = time.monotonic() + 2.5 * STALE_SECONDS
        while time.monotonic() < until:
            draw.choice(clocks).jump()
            if not lock.exists():
                raise Violation(f"the lock of a living builder is gone: {lines(place)}")
            if draw.random() < 0.3:
                os.utime(lock, (draw.choice(_DATES),) * 2)
            time.sleep(0.05)
        if lines(place) != [[str(first.pid), "begins"]]:
            raise Violation(f"a living builder was robbed: {lines(place)}")
        if die:
            first.send_signal(signal.SIGKILL)
            for _ in range(10):
                draw.choice(clocks).jump()
                time.sleep(0.02)
            wait_for(lambda: len(lines(place)) == 2, 60, "the takeover of a dead builder")
        (place / "go").touch()
        output = [process.communicate(timeout=60)[0] for process in everybody]
    finally:
        for process in everybody:
            process.kill()
            process.wait()
    ends = [line for line in lines(place) if line[1] == "ends"]
    codes = [process.returncode for process in everybody]
    if len(ends) != 1 or codes != [-signal.SIGKILL if die else 0, 0]:
        raise Violation(f"built {len(ends)} times, exit codes {codes}: {output}")
    sums = {text.split()[-1] for text, code in zip(output, codes, strict=True) if code == 0}
    if (
        len(sums) != 1
        or list((place / "store" / "locks").iterdir())
        or any((place / "store" / "work").iterdir())
    ):
        raise Violation(f"what the builders found differs, or something is left: {output}")
    return sum(clock.jumps for clock in clocks)


def dates(ground: Ground, draw: random.Random) -> int:
    """Artifacts dated 1970 or 2096 are used as they are, looked at once more, and damage in them is seen
    though its date is the same.
    """
    for path in ground.store.glob("[a-z]*/*/*"):
        os.utime(path, (draw.choice(_DATES),) * 2)
    with jumping(draw) as asked:
        for _ in range(2):
            said = ground.command("plain")
            if said.code or "building" in said.text:
                raise Violation(f"dates alone made it build again: {said.text}")
        path = draw.choice(sorted(ground.store.glob("[a-z]*/*/*.safetensors")))
        status, content = path.stat(), bytearray(path.read_bytes())
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        said = ground.command("plain")
        if said.code or "is damaged" not in said.text:
            raise Violation(f"damage with an old date was not seen in {path}: {said.text}")
    ground.check()
    return asked()


def run_under_jumps(ground: Ground, place: Path, draw: random.Random) -> int:
    """A run from nothing while the clock jumps whenever somebody looks."""
    fresh = Ground(place, dict(ground.runs))
    with jumping(draw) as asked:
        for _ in range(2):
            said = fresh.command("plain")
            if said.code:
                raise Violation(f"a run with a jumping clock ended with {said.code}: {said.text[-800:]}")
    same_records(ground, place)
    return asked()


def race(ground: Ground, place: Path, draw: random.Random) -> int:
    """Two runs as processes with clocks of their own, started together."""
    clocks = [TrainingProgress(place / f"clock{number}", draw) for number in range(2)]
    command = [sys.executable, "-m", "midre_exp", *tiny_overrides(place), "runtime.chunk=4"]
    pair = []
    for number, clock in enumerate(clocks):
        with (place / f"out{number}").open("w") as out:
            pair.append(subprocess.Popen(command, cwd=place, env=clock.environment, stdout=out, stderr=out))
    try:
        until = time.monotonic() + 240
        while any(process.poll() is None for process in pair):
            if time.monotonic() > until:
                raise Violation("two runs with jumping clocks did not end")
            draw.choice(clocks).jump()
            for lock in place.glob("store/locks/*.lock"):
                if draw.random() < 0.1:
                    try:
                        os.utime(lock, (draw.choice(_DATES),) * 2)
                    except FileNotFoundError:  # given back meanwhile
                        continue
            time.sleep(0.1)
    finally:
        for process in pair:
            process.kill()
            process.wait()
    said = "".join((place / f"out{number}").read_text() for number in range(2))
    for stage in ("target", "evaluator", "prior", "attack", "metrics"):
        built = [line for line in said.splitlines() if line.startswith(f"{stage} ") and "building" in line]
        if len(built) != 1:
            raise Violation(f"{stage} was built {len(built)} times: {said}")
    same_records(ground, place)
    return sum(clock.jumps for clock in clocks)


def same_records(ground: Ground, place: Path) -> None:
    """The records of another folder are those of the undisturbed run, places apart."""
    found, wanted = (json.loads(json.dumps(records_of(folder))) for folder in (place, ground.folder))
    for record in (*found.values(), *wanted.values()):
        record["config"].pop("paths")
    if found != wanted:
        raise Violation(f"other records: {found} instead of {wanted}")


def campaign(folder: Path, rounds: int, random: random.Random, say: Callable[[str], None]) -> dict[str, Any]:
    """So many scenes below ``folder``, in turn; how often each, and how often a clock jumped or was asked.
    Raises Violation.
    """
    ground = Ground(folder / "undisturbed")
    ground.folder.mkdir()
    ground.build(["plain"])
    scenes: dict[str, Callable[[Path], int]] = {
        "dates of artifacts": lambda _: dates(ground, random),
        "a run under jumps": lambda place: run_under_jumps(ground, place, random),
        "the lock of a living builder": lambda place: held_lock(place, random, die=False),
        "the lock of a dead builder": lambda place: held_lock(place, random, die=True),
        "two runs at once": lambda place: race(ground, place, random),
    }
    counts: Counter[str] = Counter()
    jumps = 0
    for number in range(rounds):
        name = list(scenes)[number % len(scenes)]
        place = folder / f"scene{number}"
        place.mkdir()
        try:
            jumps += scenes[name](place)
        except Violation as violation:
            raise Violation(f"round {number}, {name}: {violation}") from violation
        counts[name] += 1
        say(f"{number + 1}/{rounds} {name}")
        shutil.rmtree(place)
    return {"rounds": rounds, "jumps": jumps, "scenes": dict(counts)}
