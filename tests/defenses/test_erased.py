"""What one defense has erased, as the next passes it on."""

from __future__ import annotations

import pytest
import torch

from defenses import Batch, Defense, TrainingProgress, build_defense
from midre_exp.data.base import ImageSet
from tests.defenses.toy import Toy

CLOCK = TrainingProgress(epoch=0, epochs=1)


@pytest.mark.parametrize("name", ["cutmix", "random_crop"])
def test_what_was_erased_goes_with_its_pixels(name: str) -> None:
    n, size = 16, 24
    generator = torch.Generator().manual_seed(0)
    defense: Defense = build_defense(name)
    images = torch.rand(n, 3, size, size, generator=generator) / 2 + 0.5
    labels = torch.arange(n) % 3
    defense.on_dataset(ImageSet((255 * images).byte(), labels, ("a", "b", "c")), seed=0)
    midre = build_defense("midre", fill=[0, 0, 0], fill_space="pixel")
    erased = midre.on_batch(Batch(images, labels, labels), Toy(), CLOCK, generator)
    assert erased.erased is not None
    assert torch.equal(erased.erased, (erased.images == 0).all(1, keepdim=True))
    after = defense.on_batch(erased, Toy(), CLOCK, torch.Generator().manual_seed(1))
    assert after.erased is not None and after.erased.shape == (n, 1, size, size)
    assert not torch.equal(after.erased, erased.erased)
    black = (after.images == 0).all(1, keepdim=True)
    assert not bool((black & ~after.erased).any())  # none is taken for a picture
    rim = after.erased & ~black  # erased in part, where a crop is resized
    assert bool(rim.any()) == (name == "random_crop")
    assert float(rim.float().mean()) < 0.1
    bare = Batch(erased.images, labels, labels)
    plain = defense.on_batch(bare, Toy(), CLOCK, torch.Generator().manual_seed(1))
    assert plain.erased is None and torch.equal(plain.images, after.images)  # and draws no more for it
