from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from midre_exp.data.readers.picture import read_picture
from midre_exp.data.transforms import CenterCrop, Crop, Resize, Transform
from midre_exp.data.transforms.base import describe
from tests.golden.fill import golden


def noise(width: int, height: int) -> Image.Image:
    """The picture of the golden file."""
    draw = np.random.RandomState(0).randint(0, 256, size=(height, width, 3))
    return Image.fromarray(draw.astype(np.uint8))


def through(picture: Image.Image, transforms: list[Transform], folder: Path) -> torch.Tensor:
    picture.save(folder / "picture.png")
    return read_picture(folder / "picture.png", transforms)


@pytest.mark.parametrize(
    ("name", "size", "transforms"),
    [
        ("celeba_218x178_crop108_to64", (178, 218), [Crop(top=55, left=35, size=108), Resize(size=64)]),
        ("celeba_218x178_crop108_to112", (178, 218), [Crop(top=55, left=35, size=108), Resize(size=112)]),
        ("ffhq_128_crop88_to64", (128, 128), [Crop(top=20, left=20, size=88), Resize(size=64)]),
        (
            "facescrub_64_crop54_to64",
            (64, 64),
            [Resize(size=64), Crop(top=5, left=5, size=54), Resize(size=64)],
        ),
    ],
)
def test_pixels_match_the_published_pipelines(
    name: str, size: tuple[int, int], transforms: list[Transform], tmp_path: Path
) -> None:
    expected: Any = golden("preprocessing_lowres")[name]
    image = through(noise(*size), transforms, tmp_path)
    assert image.dtype == torch.uint8
    pixels = image.double() / 255
    assert list(pixels.shape) == expected["shape"]
    # pixels are eighths of a byte apart at most: 1e-6 covers float32's rounding of the golden values
    assert pixels.flatten()[:8].tolist() == pytest.approx(expected["first8"], abs=1e-6)
    patch = torch.tensor(expected["patch_c1_r30_c30_4x4"], dtype=torch.float64)
    assert torch.allclose(pixels[1, 30:34, 30:34], patch, rtol=0, atol=1e-6)
    assert pixels.mean().item() == pytest.approx(expected["mean"], abs=1e-6)
    assert pixels.norm().item() == pytest.approx(expected["l2"], rel=1e-6)


def test_vggface2s_margin_in_the_yaml_gives_256_for_224() -> None:
    from omegaconf import OmegaConf

    from midre_exp.plan.config import CONF_DIR

    step = OmegaConf.load(CONF_DIR / "data" / "dataset" / "vggface2.yaml").transforms[0]
    assert round(step.margin * 224) == 256


def test_every_mode_becomes_rgb_and_a_box_is_cut_before_the_transforms(tmp_path: Path) -> None:
    for mode in ("L", "RGBA", "P", "CMYK"):
        name = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        noise(20, 10).convert(mode).save(name)
        assert read_picture(name, []).shape == (3, 10, 20)
    noise(20, 10).save(tmp_path / "b.png")
    whole = read_picture(tmp_path / "b.png", [])
    assert read_picture(tmp_path / "b.png", [], (3, 2, 15, 9)).equal(whole[:, 2:9, 3:15])
    outside = read_picture(tmp_path / "b.png", [], (-2, -1, 5, 4))
    assert outside[:, 1:, 2:].equal(whole[:, :4, :5])
    assert not outside[:, 0].any()


def test_a_description_names_every_transform_and_parameter() -> None:
    assert describe([Crop(top=1, left=2, size=3), CenterCrop(size=4)]) == [
        {"transform": "Crop", "top": 1, "left": 2, "size": 3},
        {"transform": "CenterCrop", "size": 4},
    ]
