"""Attack after attack, from different knowledge, until the time is spent: what fits by forecast is run, what
does not is told.

A run is stopped when the time is over, and what it has finished is kept: the same command with more minutes
goes on there.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from midre_exp.audit.rungs import RUNGS, Rung
from midre_exp.audit.settings import Subject, settings_for
from midre_exp.errors import DataError, UserError
from midre_exp.plan.keys import fingerprints_once
from midre_exp.records import Record, read_record
from midre_exp.stages import make_plan
from midre_exp.store.files import read_json, write_json
from midre_exp.store.progress import duration
from midre_exp.sweep.estimate import estimate
from midre_exp.sweep.job import carry_out

#: Seconds that the start of the program, the page and what surrounds runs take.
_SPARE = 40.0


@dataclass(frozen=True)
class Tried:
    """What became of a rung: its record, or why there is none."""

    rung: Rung
    settings: dict[str, Any]
    record: Record | None = None
    reason: str = ""
    seconds: float = 0.0  # that this command spent on it
    expected: float | None = None  # that the forecast said


#: Of the steps of a prior, what is trained where there is too little time.
_SHARES = (1.0, 0.75, 0.5, 0.35, 0.25)


@dataclass(frozen=True)
class Expected:
    """Seconds that runs may take."""

    counted: float  # by what they compute, on a machine that nobody has measured
    known: float  # by what the like of it took in this audit
    is_all: bool = True  # whether every stage is among them

    def here(self, slowness: float) -> float:
        """On this machine, which takes ``slowness`` times as long as one that nobody has measured."""
        return slowness * self.counted + self.known


class OutOfTime(BaseException):  # no error: nothing that handles errors may take it for one
    """The time of an audit is over."""


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise OutOfTime within, once so many seconds are over; in the main thread, which signals reach."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Clock:
    """The time of an audit, and how much longer things take here than the forecast says."""

    seconds: float
    began: float = field(default_factory=time.monotonic)
    computed: float = field(default_factory=time.process_time)  # when it began, in seconds of processor time
    _ratios: list[float] = field(default_factory=list)

    @property
    def left(self) -> float:
        """Seconds until the runs must end."""
        return self.seconds - _SPARE - (time.monotonic() - self.began)

    @property
    def slowness(self) -> float:
        """Measured over forecast, the median of the runs so far; before there is one, how much longer than it
        computed this process has taken, since others do so too.
        """
        ratios = sorted(self._ratios)
        if ratios:
            return ratios[len(ratios) // 2]
        took, busy = time.monotonic() - self.began, time.process_time() - self.computed
        return max(1.0, took / busy) if busy > 1 else 1.0

    def learn(self, took: float, forecast: Expected) -> None:
        """Note how long a run took that ``forecast`` was said of."""
        took -= forecast.known
        if forecast.is_all and forecast.counted > 1 and took > 1:
            self._ratios.append(took / forecast.counted)


def climb(
    subject: Subject, clock: Clock, say: Callable[[str], None], rungs: Sequence[Rung] = RUNGS
) -> list[Tried]:
    """Try every rung in turn; what each computes is counted before it is begun."""
    every = [settings_for(subject, rung.attack, retrained=rung.retrained) for rung in rungs]
    slowness = clock.slowness  # waiting for counts is no computing
    with suppress(OutOfTime), deadline(clock.left):
        forecast = forecast_of(every[:1], counting=clock.left / 8)
        _fit_priors(subject.out, every, forecast.here(slowness), clock.left, say)
    return [_try(rung, settings, clock, say) for rung, settings in zip(rungs, every, strict=True)]


def first_that_fits(subject: Subject, clock: Clock, groups: Sequence[Sequence[Rung]]) -> Sequence[Rung]:
    """The first of several groups of rungs for which, by forecast, there is time; the last one of none."""
    for group in groups[:-1]:
        every = [settings_for(subject, rung.attack, retrained=rung.retrained) for rung in group]
        with suppress(OutOfTime), deadline(clock.left):
            _fit_priors(subject.out, every, 0, clock.left, lambda _: None)
            if forecast_of(every, counting=clock.left / 20).here(clock.slowness) <= clock.left:
                return group
    return groups[-1]


def _fit_priors(
    out: Path,
    every: Sequence[dict[str, Any]],
    expected: float,
    left: float,
    say: Callable[[str], None],
) -> None:
    """Train priors in fewer steps where the first attack would take more than half of the time. What was
    decided once holds for the folder: the same command goes on with what is there.
    """
    file = out / "priors.json"
    if file.exists():
        share = float(read_json(file)["share"])
    else:
        wanted = 1.0 if not expected else left / 2 / expected
        share = next((share for share in _SHARES if share <= wanted), _SHARES[-1])
        write_json(file, {"share": share})
    if share < 1:
        say(f"priors are trained in {100 * share:.0f} % of their steps, for want of time")
    for settings in every:
        prior = settings["attack"]["prior"]
        prior["steps"] = max(1, round(share * prior["steps"]))


def _try(rung: Rung, settings: dict[str, Any], clock: Clock, say: Callable[[str], None]) -> Tried:
    if clock.left <= 0:
        return Tried(rung, settings, reason="the time was over")
    try:
        with deadline(clock.left):
            forecast = forecast_of([settings], counting=clock.left / 20)
    except OutOfTime:
        return Tried(rung, settings, reason="the time was over")
    expected = forecast.here(clock.slowness)
    about = f"{'' if forecast.is_all else 'at least '}about {duration(expected)}"
    if expected > clock.left:
        reason = f"it would take {about}, and {duration(clock.left)} were left"
        say(f"{rung.attack}: not tested, {reason}")
        return Tried(rung, settings, reason=reason, expected=expected)
    told = f", {about}" if expected >= 1 else ""
    say(f"{rung.attack} ({rung.threat}){told}; {duration(clock.left)} left")
    began = time.monotonic()
    try:
        with deadline(clock.left):
            record = read_record(Path(carry_out(settings)))
    except OutOfTime:
        reason = "it was not finished in time; with more --minutes the same command goes on there"
        return Tried(rung, settings, reason=reason, seconds=time.monotonic() - began, expected=expected)
    except DataError:
        raise
    except UserError as error:
        return Tried(rung, settings, reason=str(error), seconds=time.monotonic() - began, expected=expected)
    took = time.monotonic() - began
    clock.learn(took, forecast)
    return Tried(rung, settings, record, seconds=took, expected=expected)


def forecast_of(every: Sequence[dict[str, Any]], *, counting: float) -> Expected:
    """What runs would build and the store lacks. ``counting``: seconds in which what was never measured is
    counted; what was, is remembered.
    """
    with fingerprints_once():
        found = estimate([(settings, make_plan(settings)) for settings in every], counting=counting)
    takes = [one.takes for one in found.stages if not one.stored]
    counted = [one.seconds for one in takes if one.seconds is not None and one.basis == "counted"]
    known = [one.seconds for one in takes if one.seconds is not None and one.basis != "counted"]
    return Expected(sum(counted), sum(known), len(counted) + len(known) == len(takes))
