"""Memory of a GPU: what is really short is halved, and a finished stage holds nothing."""

from __future__ import annotations

import pytest
import torch

from midre_exp import executor
from midre_exp.run import run
from midre_exp.runtime import give_memory_back
from tests.contracts import test_every_attack as every_attack
from tests.contracts.test_every_attack import Colours
from tests.devices import CUDA

pytestmark = pytest.mark.gpu


class Hungry(Colours):
    """Takes ``each`` bytes of the device for every image that it is shown."""

    def __init__(self, each: int):
        super().__init__()
        self.each = each

    def forward(self, images, taps=()):
        torch.empty(len(images) * self.each, dtype=torch.uint8, device=images.device)
        return super().forward(images, taps)


def test_a_chunk_that_the_gpu_does_not_hold_is_halved_until_it_fits(monkeypatch, capsys):
    (case,) = (case for case in every_attack.CASES if case.name == "gmi")
    items = every_attack.IDENTITIES * every_attack.RESTARTS
    total = torch.cuda.get_device_properties(0).total_memory
    expected = every_attack.unbroken(case)
    monkeypatch.setattr(every_attack, "Colours", lambda: Hungry(total // 5 // items))
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.15)  # for all items a fifth is asked for
    try:
        found = every_attack.carried_out(case, device=CUDA, chunk=512)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert f"out of memory with {items} items" in capsys.readouterr().err
    every_attack.assert_close(found, expected)


def test_a_finished_stage_holds_no_memory_of_the_gpu(tiny, monkeypatch):
    held = []

    def back(device):
        give_memory_back(device)
        held.append(torch.cuda.memory_allocated() - before)

    give_memory_back(CUDA)
    before = torch.cuda.memory_allocated()
    monkeypatch.setattr(executor, "give_memory_back", back)
    run(tiny("setup=custom", "runtime.device=cuda"))
    assert len(held) >= 5 and max(held) < 1 << 16, held
