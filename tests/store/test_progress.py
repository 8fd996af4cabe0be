"""How a loop shows itself: bars on a terminal, a line a minute elsewhere, nothing when nobody wants it."""

from __future__ import annotations

import io
import re
import sys

import pytest
import torch

from midre_exp.loop import Loop
from midre_exp.runtime import Runtime, make_runtime
from midre_exp.store import progress
from midre_exp.store.progress import Progress, duration, stamped
from midre_exp.threat import Threat, Victim


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setattr(progress, "_display", progress._Display())


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when a test says so."""
    now = [1000.0]
    monkeypatch.setattr("midre_exp.store.progress.time.monotonic", lambda: now[0])
    return now


def lines_of(clock, seconds_per_step: float, steps: int, **options) -> list[str]:
    said: list[str] = []
    with Progress("training", steps, say=said.append, **options) as shown:
        for _ in range(steps):
            clock[0] += seconds_per_step
            shown.update(values=lambda: {"loss": 1.23456})
    return said


def test_a_line_a_minute_with_step_loss_rate_and_what_is_left(clock):
    with progress.stage("target 12ab"):
        said = lines_of(clock, 0.5, 300)
    assert said[0] == "target 12ab: training: 120/300 (40 %), loss 1.235, 2/s, about 2 min left"
    assert len(said) == 2 and "240/300 (80 %)" in said[1] and "about 30 s left" in said[1]


def test_short_loops_stay_quiet(clock):
    assert lines_of(clock, 1.0, 59) == []


def test_slow_steps_are_told_by_their_duration_and_interrupted_ones_count(clock):
    said: list[str] = []
    with Progress("training", 10, 4, say=said.append) as shown:
        clock[0] += 300
        shown.update()
    assert said == ["training: 5/10 (50 %), 300 s each, about 25 min left"]


def test_a_loop_without_end_says_how_far_it_is(clock):
    said: list[str] = []
    with Progress("RLBMI", None, say=said.append) as shown:
        clock[0] += 60
        shown.update(120)
    assert said == ["RLBMI: 120, 2/s"]


def test_values_are_read_only_when_a_line_is_due(clock):
    asked = []
    with Progress("training", 1000, say=lambda _: None) as shown:
        for _ in range(600):
            clock[0] += 0.2
            shown.update(values=lambda: asked.append(1) or {})
    assert len(asked) == 2


NODE = {
    "threads": None,
    "device": "cpu",
    "devices": 1,
    "image_placement": "auto",
    "chunk": 8,
    "checkpoint_seconds": 10,
    "quiet": False,
    "progress": "auto",
    "log_every": 60,
}


@pytest.mark.parametrize(
    ("settings", "terminal", "bars", "every"),
    [
        ({}, False, False, 60.0),
        ({}, True, True, 0.0),
        ({"log_every": 5}, False, False, 5.0),
        ({"log_every": 0}, False, False, 0.0),
        ({"progress": False}, False, False, 0.0),
        ({"progress": False}, True, False, 0.0),
        ({"progress": True}, False, True, 0.0),
        ({"quiet": True}, False, False, 0.0),
        ({"quiet": True}, True, False, 0.0),
    ],
)
def test_what_is_shown_follows_the_config(monkeypatch, clock, settings, terminal, bars, every):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    runtime = make_runtime({**NODE, **settings})
    assert (runtime.progress, runtime.log_every) == (bars, every)
    for shown in (runtime.shown("a", 10), Progress("a", 10)):  # with and without a runtime at hand
        for _ in range(10):
            clock[0] += 100
            shown.update()
        shown.close()
    text = sys.stderr.getvalue()
    assert bool(re.search(r"10/10 \[", text)) == bars and ("a: 1/10 (10 %)" in text) == bool(every)
    assert bool(text) == (bars or bool(every))


def test_lines_carry_the_time_where_nobody_sits_in_front(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ready", stamped("ready"))
    Runtime().say("ready")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ready\n", sys.stderr.getvalue())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert stamped("ready") == "ready"


def test_the_loop_of_an_attack_tells_its_loss_without_waiting_for_it(tmp_path, monkeypatch, clock, capsys):
    victim = Victim.of(torch.nn.Identity(), 4, Threat.SCORES)
    runtime = Runtime(log_every=60)
    loop = Loop(tmp_path / "state.pt", "GMI items 0-3", runtime, victim)
    state = {"z": torch.zeros(4)}
    for _ in loop(100, state):
        clock[0] += 1.0
        loop.show(loss=torch.tensor([1.0, 3.0], requires_grad=True))
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("GMI items 0-3: 60/100 (60 %), loss 2, 1/s, about 40 s left")


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4 s"), (600, "10 min"), (7200, "2.0 h"), (3 * 86400, "3.0 days")]
)
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text
