"""How far a loop has come: a bar on a terminal, elsewhere a line a minute with time, step, loss and the time
that is left. Every loop of the project shows itself through here; so do the lines that runs print.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tqdm import tqdm

#: Values of the moment by name, asked for only when they are about to be shown: reading them off a device
#: waits for it.
Values = Callable[[], Mapping[str, float]]

_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass
class _Display:
    """What is shown where nobody says otherwise."""

    bars: bool | None = None  # None: where stderr is a terminal
    every: float = 60.0  # seconds between two lines; 0: none
    stage: str = ""  # what is being built, at the head of each line


_display = _Display()


def configure(settings: Mapping[str, Any]) -> None:
    """Show what a config's ``runtime`` node asks for: ``progress``, ``log_every``, ``quiet``."""
    _display.bars, _display.every = display_of(settings)


def display_of(settings: Mapping[str, Any]) -> tuple[bool, float]:
    """Whether to draw bars, and the seconds between lines (0: none)."""
    if settings["quiet"] or settings["progress"] is False:
        return False, 0.0
    bars = sys.stderr.isatty() if settings["progress"] == "auto" else bool(settings["progress"])
    return bars, 0.0 if bars else float(settings.get("log_every") or 0)


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Within, lines begin with what is being built."""
    before, _display.stage = _display.stage, name
    try:
        yield
    finally:
        _display.stage = before


def say(sentence: str) -> None:
    """Print one line on stderr without tearing a bar; with the time where nobody sits in front of it."""
    tqdm.write(stamped(sentence), file=sys.stderr)
    sys.stderr.flush()


def stamped(sentence: str) -> str:
    """A line for stderr: as it is on a terminal, elsewhere behind the time."""
    return sentence if sys.stderr.isatty() else f"{time.strftime(_TIME)} {sentence}"


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Let loggers print what is at least of this level, unless somebody has set them up already."""
    head = "" if sys.stderr.isatty() else "%(asctime)s "
    logging.basicConfig(level=level, format=f"{head}%(levelname)s: %(message)s", datefmt=_TIME)


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


class Progress:
    """``with Progress("training", 100) as shown:``, then ``shown.update()`` after every step.

    ``done`` steps of ``total`` (None: without end) count as finished before. ``bars`` and ``every`` are what
    ``configure`` has set unless given; ``bar=False`` never draws a bar, for loops that usually take moments.
    """

    def __init__(
        self,
        title: str,
        total: int | None = None,
        done: int = 0,
        *,
        bar: bool = True,
        bars: bool | None = None,
        every: float | None = None,
        say: Callable[[str], None] = say,
    ):
        self.title, self.total, self.done, self._say = title, total, done, say
        bars = _display.bars if bars is None else bars
        self._every = _display.every if every is None else every
        on_terminal = bars if bars is not None else sys.stderr.isatty()
        self._bar = (
            tqdm(total=total, initial=done, desc=title, file=sys.stderr, dynamic_ncols=True, mininterval=0.5)
            if bar and on_terminal
            else None
        )
        if on_terminal:
            self._every = 0.0
        self._note = ""
        self._then, self._done_then = time.monotonic(), done

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def update(self, count: int = 1, values: Values | None = None) -> None:
        """``count`` steps further; ``values`` are asked for only if a line is due."""
        self.done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._every and (passed := time.monotonic() - self._then) >= self._every:
            self._say(self._line(passed, values() if values is not None else {}))
            self._then, self._done_then = time.monotonic(), self.done

    def note(self, text: str) -> None:
        """Show a remark beside the numbers from now on."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Leave the bar as it is, so that what comes next starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()

    def _line(self, passed: float, values: Mapping[str, float]) -> str:
        rate = (self.done - self._done_then) / passed
        parts = [f"{self.done}" if self.total is None else f"{self.done}/{self.total}"]
        if self.total:
            parts[0] += f" ({100 * self.done / self.total:.0f} %)"
        parts += [f"{name} {value:.4g}" for name, value in values.items()]
        if self._note:
            parts.append(self._note)
        parts.append(f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each" if rate else "no step done")
        if self.total is not None and rate:
            parts.append(f"about {duration((self.total - self.done) / rate)} left")
        head = f"{_display.stage}: " if _display.stage else ""
        return f"{head}{self.title}: {', '.join(parts)}"
