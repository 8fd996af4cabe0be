from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from midre_exp.data.picture import UNREADABLE, endings, open_rgb, read_picture, reason
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


def odd_pictures(folder: Path) -> dict[str, Path]:
    """Pictures in every mode and trick that the wild has, in files of their own."""
    rgb = noise(24, 16)
    grey16 = np.arange(24 * 16, dtype=np.uint16).reshape(16, 24) * 160
    animation = [noise(24, 16).convert("P"), Image.new("RGB", (24, 16), "red").convert("P")]
    files = {
        "grey.png": rgb.convert("L"),
        "black_and_white.png": rgb.convert("1"),
        "grey16.png": Image.fromarray(grey16),
        "grey16.tif": Image.fromarray(grey16),
        "palette.png": rgb.convert("P"),
        "palette.bmp": rgb.convert("P"),
        "cmyk.tif": rgb.convert("CMYK"),
        "cmyk.jpg": rgb.convert("CMYK"),
        "plain.ppm": rgb,
        "plain.pgm": rgb.convert("L"),
        "plain.jfif": rgb,
        "plain.jp2": rgb,
        "plain.webp": rgb,
        "plain.tga": rgb,
    }
    for name, picture in files.items():
        picture.save(folder / name, **({"format": "JPEG"} if name.endswith("jfif") else {}))
    animation[0].save(folder / "animated.gif", save_all=True, append_images=animation[1:])
    return {name: folder / name for name in [*files, "animated.gif"]}


def test_both_doors_read_odd_pictures_alike(tmp_path: Path) -> None:
    for name, path in odd_pictures(tmp_path).items():
        folder, official = (read_picture(path, [], official=rule) for rule in (False, True))
        assert folder.shape == (3, 16, 24), name
        assert folder.equal(official), name
        assert folder.float().std() > 20, f"{name} became one colour"
        assert path.suffix in endings()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", [])[0].tolist() == [[0, 1, 128, 255]]


def test_the_two_rules_that_differ_are_those_of_the_published_code(tmp_path: Path) -> None:
    """ImageFolder's reader, which it is compared with, turns nothing and drops transparency."""
    clear = noise(24, 16).convert("RGBA")
    clear.putalpha(0)
    clear.save(tmp_path / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    noise(24, 16).save(tmp_path / "turned.png", exif=turned)
    for name in ("clear.png", "turned.png"):
        with Image.open(tmp_path / name) as file:
            published = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        assert read_picture(tmp_path / name, [], official=True).equal(published)
    assert read_picture(tmp_path / "clear.png", [], official=False).unique().tolist() == [255]
    assert read_picture(tmp_path / "turned.png", [], official=False).shape == (3, 24, 16)


def smooth(mode: str = "RGB") -> Image.Image:
    """As a photograph: what JPEG can say in few bits."""
    return noise(30, 40).resize((178, 218), Image.Resampling.BICUBIC).convert(mode)


def jpeg(picture: Image.Image, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"quality": 30}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_that_lacks_a_part_is_refused(tmp_path: Path, mode: str, options: dict[str, Any]) -> None:
    whole, path = jpeg(smooth(mode), **options), tmp_path / "a.jpg"
    for content in (whole, whole + bytes(999), whole + whole):  # what follows the end does not matter
        path.write_bytes(content)
        open_rgb(path)
    cut = len(whole) * 2 // 3
    rest = len(whole) - cut
    for content in (
        whole[:cut],
        whole[:cut] + bytes(rest),
        whole[:cut] + b"\xff\xd9",
        whole[:cut] + bytes(rest - 2) + b"\xff\xd9",
        whole[: len(whole) // 3] + b"\xff\xd9",
        whole[:-300] + b"\xff\xd9",
    ):
        path.write_bytes(content)
        with pytest.raises(UNREADABLE):
            open_rgb(path)


def test_a_hole_of_zeros_is_found_by_the_files_own_codes(tmp_path: Path) -> None:
    whole, path = jpeg(smooth()), tmp_path / "a.jpg"
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(512) + whole[middle + 512 :])
    with pytest.raises(ValueError, match="run of zero bytes"):
        open_rgb(path)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("shade", [0, 128, 255])
def test_flat_pictures_are_no_holes(tmp_path: Path, mode: str, options: dict[str, Any], shade: int) -> None:
    flat = Image.new(mode, (900, 700), (shade,) * 3 if mode == "RGB" else shade)
    (tmp_path / "a.jpg").write_bytes(jpeg(flat, **options))
    assert open_rgb(tmp_path / "a.jpg").size == flat.size


def test_reasons_say_what_a_file_is(tmp_path: Path) -> None:
    contents = {
        "web": (b"<!DOCTYPE html><html>quota exceeded</html>", "a web page"),
        "zeros": (bytes(4000), "zeros"),
        "empty": (b"", "empty"),
        "cut": (jpeg(smooth())[:3000], "truncated"),
        "text": (b"no picture at all", "no picture"),
        "large": (b"P6 20000 20000 255\n", "more than 89,478,485 pixels"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    }
    for name, (content, expected) in contents.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(UNREADABLE) as caught:
            open_rgb(path)
        assert expected in reason(caught.value, path), name


def test_a_picture_of_many_pixels_is_told_without_pillows_own_warning(tmp_path: Path) -> None:
    path = tmp_path / "phone.ppm"
    path.write_bytes(b"P6 12000 9000 255\n")
    code = f"from midre_exp.data.picture import open_rgb; open_rgb({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "12000x9000 px are more than 89,478,485 pixels" in done.stderr
    assert "DecompressionBomb" not in done.stderr
