"""The curve of an optimisation for whoever watches; what a killed loop keeps is tested with the attacks."""

from __future__ import annotations

import time

import pytest
import torch

from midre_exp.loop import Loop
from midre_exp.runtime import Runtime
from midre_exp.threat import Victim
from midre_exp.weights import checkpoint


class Listener:
    def __init__(self):
        self.heard = []

    def log(self, values, step):
        self.heard.append((step, values))


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def loop_of(path, listener, *, clock=time.monotonic, seconds=100.0, **options):
    runtime = Runtime(checkpoint_seconds=seconds, clock=clock, tracker=listener)
    return Loop(path / "state.pt", "test", runtime, Victim.of(torch.nn.Identity(), 1), **options)


def test_a_loop_shows_about_fifty_means_and_loops_follow_each_other_on_one_axis(tmp_path):
    listener = Listener()
    loop = loop_of(tmp_path, listener)
    for _ in range(2):
        for step in loop(100, {}):
            loop.show(loss=torch.tensor([step - 1.0, step + 1.0]))
    steps = [step for step, _ in listener.heard]
    assert steps == list(range(0, 200, 2))
    assert [values["loss"] for _, values in listener.heard] == [step % 100 for step in steps]


def test_a_short_loop_shows_every_step_and_one_that_ends_early_all_it_has(tmp_path):
    listener = Listener()
    loop = loop_of(tmp_path, listener, first_item=512)
    state = {"n": torch.zeros(())}
    for _ in loop(30, state, until=lambda now: bool(now["n"] == 7)):
        loop.show(radius=state["n"])
        state["n"] = state["n"] + 1
    assert listener.heard == [(n, {"radius from item 512": float(n)}) for n in range(7)]


def test_numbers_wait_for_the_checkpoint_and_a_killed_loop_goes_on_where_it_was(tmp_path):
    listener, clock = Listener(), Clock()
    loop = loop_of(tmp_path, listener, clock=clock, seconds=80)
    with pytest.raises(KeyboardInterrupt):
        for step in loop(100, {}):
            assert len(listener.heard) == (20 if step >= 40 else 0)
            loop.show(loss=torch.ones(1))
            clock.now += 2.0
            if step == 60:
                raise KeyboardInterrupt
    again = loop_of(tmp_path, listener)
    for _ in again(100, {}):
        again.show(loss=torch.ones(1))
    assert [step for step, _ in listener.heard] == list(range(0, 100, 2))


def test_a_loop_that_was_finished_before_shows_nothing_and_the_next_goes_on_behind_it(tmp_path):
    first = loop_of(tmp_path, Listener(), seconds=0)
    for _ in first(5, {}):
        pass
    with pytest.raises(KeyboardInterrupt):
        for step in first(2, {}):
            if step == 1:
                raise KeyboardInterrupt
    listener = Listener()
    loop = loop_of(tmp_path, listener)
    for _ in loop(5, {}):
        loop.show(loss=torch.ones(1))
    assert not listener.heard
    for _ in loop(2, {}):
        loop.show(loss=torch.ones(1))
    assert [step for step, _ in listener.heard] == [6]


def counted(loop, *, fatal=None):
    """Two loops whose state holds every number they have counted, the second what the first ended with."""
    done, state, counts = 0, {"n": torch.zeros(())}, []
    for steps in (6, 5):
        for step in loop(steps, state):
            if done == fatal:
                raise KeyboardInterrupt
            done += 1
            state["n"] += 10 * state["n"] + step + 1  # in place: what is kept of the first may not follow
        counts.append(float(state["n"]))
    return counts, done


@pytest.mark.parametrize("seconds", [0, 2, 4])
def test_loops_that_are_killed_anywhere_go_on_to_the_same_numbers(tmp_path, seconds):
    whole, steps = counted(loop_of(tmp_path / "whole", Listener()))
    for fatal in range(steps):
        clock, folder = Clock(), tmp_path / str(fatal)

        def ticking(clock=clock) -> float:
            clock.now += 0.5
            return clock.now

        with pytest.raises(KeyboardInterrupt):
            counted(loop_of(folder, Listener(), clock=ticking, seconds=seconds), fatal=fatal)
        again, more = counted(loop_of(folder, Listener(), seconds=seconds))
        assert again == whole
        assert seconds or more <= steps - fatal + 1


def test_how_a_loop_ends_is_written_by_the_next_alone(tmp_path):
    counted(loop_of(tmp_path, Listener()))
    assert not list(tmp_path.iterdir())
    counted(loop_of(tmp_path, Listener(), seconds=0))
    assert [checkpoint.load(tmp_path / f"state.pt{end}")["done"] for end in ("", "+")] == [6, 4]


def test_a_state_is_saved_only_where_it_is_whole(tmp_path):
    def saved(numbers):
        loop, found = loop_of(tmp_path / str(numbers), Listener(), seconds=0), []
        for _ in loop(6, {"n": torch.zeros(())}, saved_after=numbers):
            state = checkpoint.load(tmp_path / str(numbers) / "state.pt")
            found.append(state and state["done"])
        return found

    assert saved((2, 5)) == [None, None, 2, 2, 2, 5]
    assert saved(()) == [None] * 6
