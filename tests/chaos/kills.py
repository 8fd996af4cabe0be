"""A sweep of four workers is killed at random moments until it has been often enough, and must end as one
that nobody disturbed.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from midre_exp.store import lockfile as lockfiles
from midre_exp.store.lockfile import Holder
from tests.chaos import Violation
from tests.chaos.sweep import SWEEP, Process, Started, collect, compare, ended, living, until, verify

#: Who is hit: one process that carries out runs, the process that planned the sweep and waits for them, or
#: all of a sweep at once.
KINDS = ("worker", "parent", "group")
#: Share of kills that wait for an artifact to be half written beside the place where it will appear.
AIMED = 0.2
#: Mean pause, in seconds, between the moment when something is built and a new sweep has workers, or the last
#: kill, and the next kill.
PAUSE = 4.0
#: Killed parents leave their workers at work. With more than so many sweeps alive, the next kill is an old
#: one's, for memory's sake.
MOST_SWEEPS = 3
#: A sweep whose worker was killed must end within so many seconds, and workers without a sweep must let go of
#: their locks.
PATIENCE = 900.0

Say = Callable[[str], None]


def campaign(
    folder: Path, rounds: int, random: Random, say: Say, sweep: tuple[str, ...] = SWEEP
) -> dict[str, Any]:
    """Deliver ``rounds`` kills to sweeps of ``sweep``, one store after another; returns counts. Violation
    when a sweep does not end as the undisturbed one did.
    """
    whole = folder / "undisturbed"
    say("the undisturbed sweep")
    started = time.monotonic()
    with ended([first := Started(whole, *sweep)]):
        first.finish()
    compare(whole, whole)
    tally: Counter[str] = Counter()
    say(f"took {time.monotonic() - started:.0f} s")
    while tally["kills"] < rounds:
        broken = folder / f"killed-{tally['sweeps']}"
        commands: list[Started] = []
        with ended(commands):
            _Victim(broken, sweep, commands, random, say, tally, rounds).run()
        again = Started(broken, *sweep)
        with ended([again]):
            again.finish()
        if not re.search(r" 0 to do$", again.output(), re.MULTILINE):
            raise Violation(f"a finished sweep finds more to do: {again.output()}")
        tally["temporary files of killed writers, removed by gc"] += collect(broken)
        tally.update(compare(broken, whole))
        tally["sweeps"] += 1
        say(f"sweep {tally['sweeps']} equals the undisturbed one; {verify(broken)}")
    return {**dict(sorted(tally.items())), "seconds": round(time.monotonic() - started)}


class _Victim:
    """One store in which the same sweep is started until it has ended well, and killed meanwhile."""

    def __init__(
        self,
        folder: Path,
        sweep: tuple[str, ...],
        commands: list[Started],
        random: Random,
        say: Say,
        tally: Counter[str],
        rounds: int,
    ):
        self.folder, self.store, self.sweep = folder, folder / "artifacts", sweep
        self.commands, self.random, self.say, self.tally, self.rounds = commands, random, say, tally, rounds
        self.hit: set[int] = set()  # groups of which something was killed
        self.locks: dict[str, Holder] = {}
        self.orphaned: dict[str, bool] = {}  # builds whose builder has died: whether it left a checkpoint
        self.published: dict[Path, tuple[int, str]] = {}

    def run(self) -> None:
        while self._attempt().code() != 0:
            self.tally["restarts"] += 1
        self._let_orphans_end()
        self._observe()
        logs = "".join(command.output() for command in self.commands)
        if "is damaged" in logs:
            raise Violation(f"a kill damaged a file; see the output files of {self.folder}")
        self.tally["builds begun"] += len(re.findall(r"\w+ \w+: building$", logs, re.MULTILINE))
        self.tally["waits for another's build"] += len(re.findall(r" is being built by ", logs))

    def _attempt(self) -> Started:
        """Start the sweep and disturb it until its parent has ended, in whatever way."""
        self.commands.append(Started(self.folder, *self.sweep))
        current = self.commands[-1]
        when = None
        while current.code() is None:
            self._observe()
            if current.group in self.hit:
                self._await_end(current)
            elif self.tally["kills"] >= self.rounds:
                time.sleep(0.1)
            elif when is None:
                if self._builders() and any(p.is_worker and p.group == current.group for p in self._alive()):
                    when = time.monotonic() + self.random.expovariate(1 / PAUSE)
            elif time.monotonic() >= when:
                self._kill(current)
                when = None
            time.sleep(0.02)
        if current.code() != 0 and current.group not in self.hit:
            raise Violation(f"a sweep nobody disturbed ended with code {current.code()}; see {current.log}")
        if current.code() != 0:
            self.tally[f"exit code {current.code()}"] += 1
        return current

    def _await_end(self, current: Started) -> None:
        """joblib ends the whole sweep when one of its workers has died."""
        end = time.monotonic() + PATIENCE
        while current.code() is None:
            self._observe()
            if time.monotonic() > end:
                raise Violation(f"a sweep whose worker was killed goes on without end; see {current.log}")
            time.sleep(0.02)

    def _kill(self, current: Started) -> None:
        """One kill: of a random kind, now or, sometimes, when an artifact is just being written."""
        aimed = self.random.random() < AIMED and self._wait_for_publishing()
        if current.code() is not None:
            return
        alive = self._alive()
        groups = sorted({process.group for process in alive})
        kind = "group" if len(groups) > MOST_SWEEPS else self.random.choice(KINDS)
        if kind == "parent":
            victims = [process for process in alive if process.pid == current.group]
        elif kind == "worker":
            workers = [process for process in alive if process.is_worker]
            victims = [self.random.choice(workers)] if workers else []
        else:
            group = groups[0] if len(groups) > MOST_SWEEPS else self.random.choice(groups)
            victims = [process for process in alive if process.group == group]
        builders = self._builders()
        at_work = {pid: name for name, pid in builders.items()}
        if not victims or not builders:
            return
        if kind == "group":
            os.killpg(victims[0].group, signal.SIGKILL)
        else:
            os.kill(victims[0].pid, signal.SIGKILL)
        gone = {process.pid for process in victims}
        self.hit |= {process.group for process in victims}
        until(lambda: not gone & {p.pid for p in self._alive()}, 30, f"{gone} live", pause=0.01)
        tally = self.tally
        tally["kills"] += 1
        tally[f"kills of a {kind}"] += 1
        tally["killed processes"] += len(gone)
        tally["kills beside workers of a dead sweep"] += len(groups) > 1
        tally["kills while an artifact was being written"] += aimed
        for pid in gone & at_work.keys():
            tally[f"killed while building: {at_work[pid].partition('-')[0]}"] += 1
        if kind != "parent" and not gone & at_work.keys():
            tally["killed while starting or waiting"] += 1
        hit = ", ".join(at_work[pid] for pid in sorted(gone & at_work.keys())) or "nothing"
        self.say(f"kill {tally['kills']}: {kind}, building {hit}{' (publishing)' if aimed else ''}")

    def _wait_for_publishing(self) -> bool:
        """Whether, within some seconds, a file of an artifact to be appeared."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            if any(self.store.glob("work/*/.publish-*/*")):
                return True
            time.sleep(0.001)
        return False

    def _alive(self) -> list[Process]:
        for command in self.commands:
            command.process.poll()
        return living({command.group for command in self.commands})

    def _used(self) -> dict[int, int]:
        return {process.pid: process.ticks for process in self._alive()}

    def _builders(self) -> dict[str, int]:
        """What is being built, by lock file without its ending, and by which living process."""
        alive = {process.pid for process in self._alive()}
        return {name: holder.pid for name, holder in self._held().items() if holder.pid in alive}

    def _held(self) -> dict[str, Holder]:
        found = {}
        for path in self.store.glob("locks/*.lock"):
            holder = lockfiles.read(path)
            if holder is not None:
                found[path.stem] = holder
        return found

    def _observe(self) -> None:
        """Note who builds what, and whether anything published has changed."""
        held = self._held()
        for name, holder in held.items():
            known = self.locks.get(name)
            if known is not None and known.token != holder.token and name in self.orphaned:
                self.tally["takeovers of a dead builder's work"] += 1
                self.tally["takeovers with a checkpoint"] += self.orphaned.pop(name)
            self.locks[name] = holder
        for name, holder in held.items():
            if name not in self.orphaned and lockfiles.is_gone(holder):
                self.orphaned[name] = any(file.is_file() for file in self.store.glob(f"work/{name}/[!.]*"))
        for folder in self.store.glob("[a-z]*/*"):
            if folder.parent.name in ("work", "locks", "damaged"):
                continue
            now = folder.stat().st_ino, (folder / "manifest.sha256").read_text()
            if self.published.setdefault(folder, now) != now:
                raise Violation(f"{folder} was published and is now another")

    def _let_orphans_end(self) -> None:
        """Workers of killed sweeps finish what they were given; then they wait for work that never comes, and
        are put down.
        """
        end = time.monotonic() + PATIENCE
        before: dict[int, int] = {}
        while self._builders() or before != self._used():
            before = self._used()
            self._observe()
            if time.monotonic() > end:
                raise Violation(f"workers of a killed sweep work without end: {self._builders()}")
            time.sleep(3.0)
        self.tally["idle workers of dead sweeps put down"] += sum(p.is_worker for p in self._alive())
