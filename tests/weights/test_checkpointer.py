"""When the state of a loop is saved; what a kill leaves at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn

from midre_exp.errors import StoreError
from midre_exp.weights import checkpoint, checkpointer
from midre_exp.weights.checkpointer import Checkpointer, snapshot


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def blocked(monkeypatch):
    """Writing begins when the event is set."""
    event, save = threading.Event(), checkpoint.save

    def wait_and_save(path, state):
        event.wait(10)
        save(path, state)

    monkeypatch.setattr(checkpoint, "save", wait_and_save)
    return event


def test_a_checkpoint_is_due_every_so_many_seconds(tmp_path, clock):
    saving, due = Checkpointer(tmp_path / "x", 60, clock), []
    for step in range(200):
        clock.now += 1
        if saving.due():
            saving.save({"step": step})
            saving.wait()
            due.append(step)
    assert due == [59, 119, 179]
    assert Checkpointer(tmp_path / "x", 60, clock).load() == {"step": 179}


def test_with_no_seconds_it_is_due_always_and_there_at_once(tmp_path, clock):
    saving = Checkpointer(tmp_path / "x", 0, clock)
    for step in range(3):
        assert saving.due()
        saving.save({"step": step})
        assert checkpoint.load(tmp_path / "x") == {"step": step}


def test_what_costs_much_is_done_more_rarely(tmp_path, clock, monkeypatch):
    """A state whose copying takes 3 s of every minute: 1 % of the time goes into it."""

    def slow(value, where, buffers):
        clock.now += 3
        return value

    monkeypatch.setattr(checkpointer, "_copy", slow)
    saving, spent = Checkpointer(tmp_path / "x", 60, clock), 0
    for _ in range(3000):
        clock.now += 1
        if saving.due():
            saving.save({})
            saving.wait()
            spent += 3
    assert 0.005 < spent / clock.now <= 0.011


def test_the_loop_goes_on_while_a_checkpoint_is_written_and_changes_nothing_in_it(tmp_path, clock, blocked):
    saving, weights = Checkpointer(tmp_path / "x", 60, clock), torch.zeros(3)
    saving.save({"weights": weights, "list": [weights, (1, "a")]})
    weights += 1
    clock.now += 1000
    assert not saving.due()  # one at a time
    assert checkpoint.load(tmp_path / "x") is None
    blocked.set()
    saving.wait()
    found = checkpoint.load(tmp_path / "x")
    assert torch.equal(found["weights"], torch.zeros(3)) and found["list"][1] == (1, "a")
    assert torch.equal(found["list"][0], torch.zeros(3))
    assert saving.due()


def test_a_write_that_fails_is_told_at_the_next_or_at_the_end(tmp_path, clock):
    (tmp_path / "file").write_text("in the way of a folder")
    with pytest.raises(StoreError, match="file"), Checkpointer(tmp_path / "file" / "x", 60, clock) as saving:
        saving.save({"step": 1})
        with pytest.raises(StoreError):
            saving.save({"step": 2})
        saving.save({"step": 3})


def test_an_error_of_the_loop_tells_more_than_one_of_the_disk(tmp_path, clock, caplog):
    (tmp_path / "file").write_text("in the way of a folder")
    with (
        pytest.raises(ZeroDivisionError),
        Checkpointer(tmp_path / "file" / "x", 60, clock) as saving,
    ):
        saving.save({"step": 1})
        raise ZeroDivisionError
    assert "the last checkpoint was not written" in caplog.text


def test_states_of_earlier_loops_are_there_before_the_own(tmp_path, clock, monkeypatch):
    order = []
    monkeypatch.setattr(checkpoint, "save", lambda path, state: order.append((path.name, state)))
    saving = Checkpointer(tmp_path / "x", 0, clock)
    saving.save({"step": 2}, [(tmp_path / "a", {"step": 0}), (tmp_path / "b", {"step": 1})])
    assert order == [("a", {"step": 0}), ("b", {"step": 1}), ("x", {"step": 2})]


def test_a_snapshot_keeps_kinds_layouts_and_versions_of_modules():
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3)).to(memory_format=torch.channels_last)
    state = snapshot({"network": network.state_dict(), "half": torch.ones(2, dtype=torch.bfloat16)})
    assert type(state["network"]) is OrderedDict
    assert state["network"]._metadata == network.state_dict()._metadata
    assert state["network"]["0.weight"].stride() == network[0].weight.stride()
    assert not state["network"]["0.weight"].requires_grad
    assert state["half"].dtype == torch.bfloat16
    nn.init.zeros_(network[0].weight)
    assert state["network"]["0.weight"].any()


KILLED = """
import sys, torch
from pathlib import Path
from midre_exp.weights.checkpointer import Checkpointer
saving, step = Checkpointer(Path(sys.argv[1]), 0.001), 0
weights = torch.zeros(500_000)
print("begins", flush=True)
while True:
    step += 1
    weights.fill_(step)
    if saving.due():
        saving.save({"step": step, "weights": weights})
"""


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint_and_no_growing_disk(tmp_path):
    path, step = tmp_path / "x", 0
    for after in (0.05, 0.11, 0.17, 0.23):
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
        process.stdout.readline()
        threading.Event().wait(after)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        state = Checkpointer(path, 60).load()
        if state is not None:
            step = state["step"]
            assert (state["weights"] == step).all()
        assert [file.name for file in tmp_path.iterdir()] == (["x"] if step else [])
    assert step
