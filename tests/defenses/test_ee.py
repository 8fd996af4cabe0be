from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from defenses.ee import LeaveOut, PartialEpochs, kept_per_class, stays
from midre_exp.errors import ConfigError
from midre_exp.targets.training.batch import Sampler, Shuffled

COUNTS = torch.tensor([1, 2, 3, 10, 31, 100])
LABELS = torch.arange(6).repeat_interleave(COUNTS)[torch.randperm(147, generator=torch.Generator())]


def sampler(share: float = 0.4, keep: str = "epochs", **changes: Any) -> Sampler:
    options = {"batch_size": 8, "seed": 0, "drop_last": False, **changes}
    made = LeaveOut(share=share, keep=keep).sampler(LABELS, **options)
    assert isinstance(made, PartialEpochs)
    return made


def epoch_of(made: Sampler, epoch: int) -> Tensor:
    return torch.cat(list(made.batches(epoch)))


@pytest.mark.parametrize(
    ("share", "kept"),
    [
        (0.1, [1, 2, 3, 9, 28, 90]),
        (0.4, [1, 1, 2, 6, 19, 60]),
        (0.5, [1, 1, 1, 5, 15, 50]),  # halves to even: 0 of 1, 2 of 3 and 16 of 31 are left out
        (0.99, [1, 1, 1, 1, 1, 1]),  # the identity never vanishes
        (0.0, COUNTS.tolist()),
    ],
)
def test_the_right_number_of_every_identity_stays_in_every_epoch(share: float, kept: list[int]) -> None:
    assert kept_per_class(COUNTS, share).tolist() == kept
    made = sampler(share)
    for epoch in range(3):
        index = epoch_of(made, epoch)
        assert len(index.unique()) == len(index)
        assert torch.bincount(LABELS[index], minlength=6).tolist() == kept


def test_an_identity_without_images_stays_empty() -> None:
    assert kept_per_class(torch.tensor([0, 10]), 0.4).tolist() == [0, 6]


def test_floating_point_errors_do_not_decide_a_half() -> None:
    # 0.35 * 90 is 31.499999999999996 and 0.07 * 150 is 10.500000000000002 in doubles; halves go to the even
    # number.
    assert kept_per_class(torch.tensor([90]), 0.35).tolist() == [90 - 32]
    assert kept_per_class(torch.tensor([150]), 0.07).tolist() == [150 - 10]


def test_every_epoch_leaves_out_another_subset_and_every_image_equally_often() -> None:
    made, epochs = sampler(0.4), 3000
    times = torch.zeros(147)
    for epoch in range(epochs):
        times[epoch_of(made, epoch)] += 1
    assert set(epoch_of(made, 0).tolist()) != set(epoch_of(made, 1).tolist())
    expected = (kept_per_class(COUNTS, 0.4) / COUNTS)[LABELS]
    deviation = (expected * (1 - expected) / epochs).sqrt()
    assert bool(((times / epochs - expected).abs() <= 5 * deviation).all())


def test_left_out_images_of_one_identity_are_chosen_independently_of_each_other() -> None:
    made, epochs = sampler(0.4), 3000
    first, second = (LABELS == 3).nonzero().squeeze(1)[:2].tolist()  # ten images, four left out
    both = 0
    for epoch in range(epochs):
        stay = set(epoch_of(made, epoch).tolist())
        both += first in stay and second in stay
    share = 6 / 10 * 5 / 9
    assert abs(both / epochs - share) < 5 * math.sqrt(share * (1 - share) / epochs)


def test_batches_are_a_function_of_seed_and_epoch_alone() -> None:
    torch.manual_seed(3)
    first = [sampler().batches(epoch) for epoch in (5, 6)]
    torch.manual_seed(4)
    again = [sampler().batches(epoch) for epoch in (6, 5)][
        ::-1
    ]  # asked for in another order, as after a resume
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(epoch_of(sampler(), 5), epoch_of(sampler(seed=1), 5))


@pytest.mark.parametrize("keep", ["epochs", "steps"])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("batch_size", [8, 49, 147, 500])
def test_leaving_nothing_out_gives_the_batches_of_ordinary_training(
    keep: str, drop_last: bool, batch_size: int
) -> None:
    null = sampler(0, keep, batch_size=batch_size, drop_last=drop_last, seed=7)
    plain = Shuffled(147, batch_size=batch_size, drop_last=drop_last, seed=7)
    for epoch in range(3):
        pairs = zip(null.batches(epoch), plain.batches(epoch), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("drop_last", [False, True])
def test_epochs_get_shorter_or_keep_their_steps(drop_last: bool) -> None:
    plain = [len(b) for b in Shuffled(147, batch_size=8, drop_last=drop_last, seed=0).batches(0)]
    shorter = [len(b) for b in sampler(keep="epochs", drop_last=drop_last).batches(0)]
    assert shorter == [8] * 11 + ([] if drop_last else [1])  # 89 images stay
    assert [len(b) for b in sampler(keep="steps", drop_last=drop_last).batches(0)] == plain


def test_equal_steps_come_from_further_passes_over_the_images_that_stay() -> None:
    made = sampler(0.8, "steps", batch_size=147)
    short = epoch_of(sampler(0.8, "epochs"), 2)
    order = epoch_of(made, 2)
    size = len(short)
    passes = order.split(size)
    assert torch.equal(passes[0], short)
    assert not torch.equal(passes[1], short)
    for images in passes[:-1]:
        assert set(images.tolist()) == set(short.tolist())
    assert len(passes[-1].unique()) == len(passes[-1]) == 147 - size * (len(passes) - 1)
    assert set(passes[-1].tolist()) <= set(short.tolist())


def test_choosing_takes_no_step_per_image() -> None:
    labels = torch.randint(0, 8631, (400_000,), generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(labels, minlength=8631)
    kept = kept_per_class(counts, 0.5)
    chosen = stays(labels, kept, torch.Generator().manual_seed(1))
    assert torch.equal(torch.bincount(labels[chosen], minlength=8631), kept)


def test_training_goes_on_after_a_resume_with_the_images_it_would_have_seen(tiny_training: Any) -> None:
    train, Seen = tiny_training.train, tiny_training.Seen
    ee = LeaveOut(share=0.5, keep="epochs")
    whole, resumed = Seen(), Seen()
    _, numbers, _ = train("whole", ee=ee, seen=whole)
    with pytest.raises(RuntimeError, match="killed"):
        train("broken", ee=ee, seen=Seen(killed_at=2))
    train("broken", ee=ee, seen=resumed)
    assert numbers["acc"] > 30
    labels = tiny_training.data.load("train").labels
    for epoch in range(3):
        assert torch.bincount(labels[whole.index(epoch)]).tolist() == [3, 3, 3]
    assert torch.equal(whole.index(2), resumed.index(2)) and set(resumed.batches) == {2}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"share": 1}, "defense.ee.share=1 "),
        ({"share": -0.1}, "share=-0.1"),
        ({"share": "few"}, "share=few"),
        ({"keep": "images"}, "defense.ee.keep=images is unknown; use one of epochs, steps"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        LeaveOut(**{"share": 0.4, "keep": "epochs", **changes})
    assert named in str(error.value)
