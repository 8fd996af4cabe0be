"""Work goes on in smaller parts where memory is short, and what fits is measured: without a GPU."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import OutOfMemory, is_out_of_memory
from midre_exp.memory import footprint
from midre_exp.memory.batches import AtOnce, Shortage, attempt, in_batches
from midre_exp.memory.footprint import peak_of, planned, rows_that_fit
from midre_exp.metrics import evaluate
from midre_exp.priors.kedmi import soft_labels
from midre_exp.priors.plgmi import select
from midre_exp.runtime import MOST, Runtime, pass_over_libraries
from midre_exp.targets.base import Output
from midre_exp.targets.predict import predict
from midre_exp.threat import Victim

CPU = torch.device("cpu")


class Narrow(nn.Module):
    """A classifier that fits with ``most`` images alone."""

    def __init__(self, most: int):
        super().__init__()
        self.most, self.seen = most, []

    def forward(self, images, taps=()):
        self.seen.append(len(images))
        if len(images) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        means = images.mean((2, 3))
        return Output(means[:, :2], means)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("of any text"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("HIP out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true"),
        RuntimeError("nonzero is not supported for tensors with more than INT_MAX elements"),
        RuntimeError("integer out of range"),
        RuntimeError("input tensor is too large to use 32-bit indexing"),
        OutOfMemory("not one fits"),
    ],
)
def test_everything_that_a_smaller_batch_mends_is_judged_alike(error):
    assert is_out_of_memory(error)
    wrapped = ValueError("told otherwise")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize("text", ["an illegal memory access was encountered", "index out of range", "nan"])
def test_a_bug_is_not_mended_by_smaller_batches(text):
    assert not is_out_of_memory(RuntimeError(text))


def test_batches_are_halved_where_they_do_not_fit_and_stay_so(capsys):
    tried, at_once = [], AtOnce(8)

    def work(part):
        tried.append((part.start, part.stop))
        if part.stop - part.start > 3 and part.start:
            raise MemoryError
        return list(range(part.start, part.stop))

    assert [row for part in in_batches(work, 20, at_once) for row in part] == list(range(20))
    assert tried == [(0, 8), (8, 16), (8, 12), *((n, n + 2) for n in range(8, 20, 2))]
    assert at_once.rows == 2 and next(in_batches(work, 20, at_once)) == [0, 1]
    assert capsys.readouterr().err.count("out of memory") == 2
    assert not list(in_batches(work, 0, 5))


def test_one_row_that_does_not_fit_ends_with_a_sentence_and_a_bug_as_it_is():
    def work(part):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB" if part.stop == 1 else "a bug")

    with pytest.raises(
        OutOfMemory, match=r"one of the images \(CUDA out of memory. Tried to allocate 2 GiB\)"
    ):
        list(in_batches(work, 1, 1, what="images"))
    with pytest.raises(RuntimeError, match="a bug"):
        list(in_batches(work, 2, 2))


def test_nothing_of_a_failed_attempt_is_held_when_memory_is_given_back(monkeypatch):
    left = []

    def work():
        large = torch.zeros(10)
        left.append(weakref.ref(large))
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(gc, "collect", lambda: left.append(left[0]()))
    found = attempt(work)
    assert isinstance(found, Shortage) and found.reason == "too much" and not found.is_final
    assert left[1] is None


def test_queries_of_a_failed_attempt_are_not_counted():
    target = Narrow(2)
    victim = Victim.of(target, 2)
    images = torch.rand(5, 3, 2, 2)
    answers = [a.logits for a in in_batches(lambda part: victim(images[part]), 5, 5, victim=victim)]
    assert victim.queries == 5 and target.seen == [5, 2, 2, 1]
    assert torch.equal(torch.cat(answers), images.mean((2, 3))[:, :2])


def step(rows: int) -> None:
    start = torch.ones(rows, 1000, requires_grad=True)
    torch.autograd.grad((start * 2).square().sum(), start)


def test_tensors_are_counted_while_they_are_there():
    weight = torch.ones(1000, 1000)
    once = peak_of(lambda: [torch.ones(500) + weight.view(-1)[:500] for _ in range(9)][:0], CPU)
    assert 9 * 2000 <= once <= 10 * 2000  # a view of what was there is nothing new
    one_by_one = peak_of(lambda: [(torch.ones(500) + 1).sum() for _ in range(9)], CPU)
    assert one_by_one < 3 * 2000
    assert 3.9 < peak_of(lambda: step(40), CPU) / peak_of(lambda: step(10), CPU) < 4.1


def test_how_many_rows_fit_follows_what_few_take(monkeypatch):
    each = peak_of(lambda: step(4), CPU) / 4
    for free, expected in ((1000, 512), (100, 32), (3, 1), (0.1, 1)):
        monkeypatch.setattr(footprint, "free_memory", lambda device, free=free: int(free * each))
        assert planned(step, 512, CPU) == (expected if free < 1000 else 256)
    monkeypatch.setattr(footprint, "free_memory", lambda device: None)  # where nobody tells, halving remains
    assert planned(step, 512, CPU) == 512
    assert rows_that_fit({1: 100, 4: 400}, 10**9, CPU, 100) == 100  # all of them, no power of two
    assert rows_that_fit({1: 100, 4: 250}, 10_000, CPU, 10**6) == 64  # 50 and 50 for each: 99 fit into a half
    assert rows_that_fit({1: 100, 4: 100}, 1, CPU, 7) == 7  # nothing depends on the number


def test_free_memory_of_this_machine_is_known():
    assert footprint.free_memory(CPU) > 2**20
    assert footprint.free_memory(torch.device("meta")) is None
    assert planned(step, 512, torch.device("meta")) == 512


def test_a_classifier_is_asked_by_halves():
    images = torch.randint(0, 256, (11, 3, 4, 4), dtype=torch.uint8)
    wide, narrow = (predict(Narrow(most), images, CPU, batch=8) for most in (99, 3))
    assert all(torch.equal(a, b) for a, b in zip(wide, narrow, strict=True))


def test_metrics_are_the_same_where_the_evaluator_fits_with_few_images():
    images = torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8)
    labels = torch.arange(40) % 2
    private = ImageSet(images.flip(0), labels, ("a", "b"))
    network = Narrow(6)
    wide, narrow = (evaluate(images, labels, n, private=private) for n in (Narrow(99), network))
    assert narrow.numbers == wide.numbers and len(wide.numbers) > 5
    assert network.seen[:4] == [40, 20, 10, 5] and max(network.seen[4:]) == 5  # remembered


def test_labelling_by_the_target_halves_its_batches(tmp_path):
    images = torch.randint(0, 256, (21, 3, 4, 4), dtype=torch.uint8)
    runtime, found = Runtime(), []
    for most in (99, 4):
        victim = Victim.of(Narrow(most), 2)
        answers = soft_labels(victim, images, tmp_path / f"{most}.pt", runtime)
        chosen = select(lambda x, v=victim: v(x).logits, images, 5, runtime, victim=victim)
        assert victim.queries == 42
        found.append((answers, *chosen))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_the_config_says_how_much_goes_at_once():
    assert Runtime().chunk == MOST and not Runtime().is_planned
    assert replace(Runtime(), chunk=7).chunk == 7


def test_what_lives_before_the_first_run_is_passed_over_by_later_collections_once():
    pass_over_libraries.cache_clear()
    survivor = [[]]
    pass_over_libraries()
    assert not any(found is survivor for found in gc.get_objects())
    later = [[]]
    pass_over_libraries()  # what a run left would never be collected otherwise
    assert any(found is later for found in gc.get_objects())
