"""The curve of an optimisation for whoever watches; what a killed loop keeps is tested with the attacks."""

from __future__ import annotations

import pytest
import torch

from midre_exp.loop import Loop
from midre_exp.runtime import Runtime
from midre_exp.threat import Victim


class Listener:
    def __init__(self):
        self.heard = []

    def log(self, values, step):
        self.heard.append((step, values))


def loop_of(path, listener, **options):
    runtime = Runtime(checkpoint_every=40, tracker=listener)
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
    listener = Listener()
    loop = loop_of(tmp_path, listener)
    with pytest.raises(KeyboardInterrupt):
        for step in loop(100, {}):
            assert len(listener.heard) == (20 if step >= 40 else 0)
            loop.show(loss=torch.ones(1))
            if step == 60:
                raise KeyboardInterrupt
    again = loop_of(tmp_path, listener)
    for _ in again(100, {}):
        again.show(loss=torch.ones(1))
    assert [step for step, _ in listener.heard] == list(range(0, 100, 2))


def test_a_loop_that_was_finished_before_shows_nothing_and_the_next_goes_on_behind_it(tmp_path):
    for _ in loop_of(tmp_path, Listener())(5, {}):
        pass
    listener = Listener()
    loop = loop_of(tmp_path, listener)
    for _ in loop(5, {}):
        loop.show(loss=torch.ones(1))
    assert not listener.heard
    for _ in loop(2, {}):
        loop.show(loss=torch.ones(1))
    assert [step for step, _ in listener.heard] == [5, 6]
