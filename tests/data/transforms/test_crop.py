from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional

from midre_exp.data.transforms import CenterCrop, Crop
from midre_exp.errors import ConfigError, DataError


def image(width: int, height: int) -> Image.Image:
    draw = np.random.RandomState(0).randint(0, 256, size=(height, width, 3))
    return Image.fromarray(draw.astype(np.uint8))


@pytest.mark.parametrize("size", [(178, 218), (224, 224), (101, 67), (67, 101), (33, 250)])
@pytest.mark.parametrize("target", [30, 31, 32, 33])
def test_both_forms_equal_torchvisions(size, target):
    picture = image(*size)
    batch = functional.to_tensor(picture)[None]
    pairs = [
        (CenterCrop(size=target), lambda picture: functional.center_crop(picture, target)),
        (Crop(top=5, left=0, size=target), lambda picture: functional.crop(picture, 5, 0, target, target)),
    ]
    for transform, official in pairs:
        assert transform.on_picture(picture).tobytes() == official(picture).tobytes()
        assert torch.equal(transform(batch), official(batch))


def test_images_too_small_for_a_crop_are_told():
    small, batch = image(128, 128), torch.zeros(1, 3, 8, 6)
    with pytest.raises(DataError, match="a crop of 108 px at row 55, column 35 leaves a picture of 128x128"):
        Crop(top=55, left=35, size=108).on_picture(small)
    with pytest.raises(DataError, match="a center crop of 800 px exceeds a picture of 128x128 px"):
        CenterCrop(size=800).on_picture(small)
    with pytest.raises(ConfigError, match="size=5 at row 1, column 2 leaves the image of 8x6"):
        Crop(top=1, left=2, size=5)(batch)
    with pytest.raises(ConfigError, match="size=9 exceeds the image of 8x6"):
        CenterCrop(size=9)(batch)


def test_sizes_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="CenterCrop size=0 must be"):
        CenterCrop(size=0)
    with pytest.raises(ConfigError, match=r"Crop size=2\.5 must be"):
        Crop(top=0, left=0, size=2.5)
