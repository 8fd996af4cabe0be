from __future__ import annotations

import json
import logging
import os
import shutil
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from torchvision.datasets.folder import find_classes

from midre_exp.data.base import Part
from midre_exp.data.duplicates import pretraining_duplicates
from midre_exp.data.readers.folder import FaceFolder, decode, hold_out
from midre_exp.data.readers.tree import natural
from midre_exp.errors import ConfigError, DataError, UserError
from midre_exp.plan.config import CONF_DIR, build, plain

PARTS: tuple[Part, ...] = ("train", "test", "public")


def faces(root: Path, **changes: Any) -> FaceFolder:
    settings: dict[str, Any] = {
        "root": root,
        "size": 8,
        "private": None,
        "private_share": 0.5,
        "test_share": 0.2,
        "crop": "center",
        "seed": 0,
    }
    return FaceFolder(**{**settings, **changes})


def shade(identity: int, index: int) -> int:
    """The grey value that marks an image of the tree."""
    return 20 * identity + index


def make_tree(root: Path, *, identities: int = 12, images: int = 10) -> Path:
    for identity in range(1, identities + 1):
        folder = root / f"s{identity}"
        folder.mkdir(parents=True)
        for index in range(1, images + 1):
            Image.new("L", (12, 10), shade(identity, index)).save(folder / f"{index}.png")
    return root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "faces")


def test_names_sort_by_number() -> None:
    assert sorted(["s10", "s2", "S3", "s1", "s02"], key=natural) == ["S3", "s1", "s02", "s2", "s10"]


def test_parts_are_uint8_rgb_with_labels_in_order(tree: Path) -> None:
    data = faces(tree, private=["s10", "s2", "s1"])
    train, test, public = (data.load(part) for part in PARTS)
    assert train.classes == test.classes == data.class_names() == ("s1", "s10", "s2")  # as ImageFolder
    assert public.classes == ("s3", "s4", "s5", "s6", "s7", "s8", "s9", "s11", "s12")
    assert train.images.shape == (24, 3, 8, 8)
    assert train.images.dtype == torch.uint8
    assert train.labels.dtype == torch.int64
    assert train.labels.bincount().tolist() == [8] * 3
    assert test.labels.bincount().tolist() == [2] * 3
    assert public.labels.bincount().tolist() == [10] * 9


def test_every_image_lands_in_one_part_under_its_own_label(tree: Path) -> None:
    data = faces(tree, private=["s10", "s2", "s1"])
    seen: list[int] = []
    for part in PARTS:
        images = data.load(part)
        values = images.images[:, 0, 0, 0]
        names = [f"s{(int(value) - 1) // 20}" for value in values]
        assert names == [images.classes[label] for label in images.labels]
        seen += values.tolist()
    assert sorted(seen) == sorted(shade(i, j) for i in range(1, 13) for j in range(1, 11))


def test_private_and_public_identities_never_overlap(tree: Path) -> None:
    for seed in range(5):
        data = faces(tree, seed=seed, private_share=0.3)
        private, public = data.load("train").classes, data.load("public").classes
        assert len(private) == round(0.3 * 12)
        assert set(private).isdisjoint(public)
        assert len(private) + len(public) == 12


def test_seed_chooses_identities_and_test_images(tree: Path) -> None:
    assert len({faces(tree, seed=seed).load("train").classes for seed in range(6)}) > 1
    listed = [faces(tree, seed=seed, private=["s1", "s2"]).load("test") for seed in (0, 0, 1)]
    assert torch.equal(listed[0].images, listed[1].images)
    assert not torch.equal(listed[0].images, listed[2].images)
    assert listed[0].classes == listed[2].classes


def test_identities_listed_in_a_file_equal_the_same_list(tree: Path, tmp_path: Path) -> None:
    names = tmp_path / "private.txt"
    names.write_bytes("\ufeffs10\r\n\r\n s2 \r\n".encode())
    from_file, from_list = faces(tree, private=str(names)), faces(tree, private=["s2", "s10"])
    assert from_file.load("train").classes == ("s10", "s2")
    assert from_file.fingerprint("private") == from_list.fingerprint("private")


@pytest.mark.parametrize("share", [0.01, 0.2, 0.5, 0.99])
def test_hold_out_takes_the_lowest_scores_of_each_label(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([2] * 9 + [0] * 2 + [1] * 30)[torch.randperm(41, generator=generator)]
    scores = torch.randint(2**62, (41,), generator=generator)
    chosen = hold_out(labels, scores, share)
    for label in range(3):
        rows = (labels == label).nonzero().flatten().tolist()
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        expected = sorted(rows, key=lambda row: int(scores[row]))[:count]
        assert sorted(expected) == [row for row in rows if chosen[row]]


def test_images_of_nested_folders_belong_to_the_identity(tree: Path) -> None:
    (tree / "s1" / "deep" / "deeper").mkdir(parents=True)
    shutil.move(tree / "s1" / "3.png", tree / "s1" / "deep" / "deeper" / "3.PNG")
    data = faces(tree, private=["s1"])
    values = torch.cat([data.load(part).images[:, 0, 0, 0] for part in ("train", "test")])
    assert sorted(values.tolist()) == [shade(1, index) for index in range(1, 11)]


def test_hidden_and_other_files_are_ignored(tree: Path) -> None:
    before = faces(tree).fingerprint("private"), faces(tree).fingerprint("public")
    (tree / "README").write_text("credits")
    (tree / ".cache").mkdir()
    for identity in range(1, 13):
        (tree / f"s{identity}" / "README").write_text("credits")
        (tree / f"s{identity}" / "._1.png").write_bytes(b"resource fork")
        (tree / f"s{identity}" / ".thumbs").mkdir()
        shutil.copy(tree / "s1" / "1.png", tree / f"s{identity}" / ".thumbs" / "1.png")
    assert (faces(tree).fingerprint("private"), faces(tree).fingerprint("public")) == before


def test_accents_match_however_they_are_encoded(tree: Path) -> None:
    (tree / "s1").rename(tree / "Leo\u0301n")  # two characters, as some file systems store it
    data = faces(tree, private=["Le\u00f3n", "s2"])
    assert data.load("train").classes == ("Le\u00f3n", "s2")


def test_extensions_limit_what_is_read(tree: Path) -> None:
    Image.new("L", (8, 8)).save(tree / "s1" / "extra.bmp")
    count = {
        ending: len(faces(tree, private=["s2"], extensions=extensions).load("public"))
        for ending, extensions in (("all", None), ("png", [".PNG"]))
    }
    assert count == {"all": 111, "png": 110}


# --- layouts, order, names ---


def split_tree(root: Path, parts: dict[str, dict[str, int]]) -> Path:
    """``parts``: how many images of whom by folder of the split, each image of its own shade."""
    shade = 0
    for part, people in parts.items():
        for person, count in people.items():
            (root / part / person).mkdir(parents=True)
            for index in range(count):
                Image.new("L", (8, 8), shade).save(root / part / person / f"{index}.png")
                shade += 1
    return root


def shades(data: FaceFolder, part: Part) -> dict[str, list[int]]:
    """The shades of a part by identity."""
    images = data.load(part)
    found: dict[str, list[int]] = {}
    for value, label in zip(images.images[:, 0, 0, 0].tolist(), images.labels.tolist(), strict=True):
        found.setdefault(images.classes[label], []).append(value)
    return found


SPLIT = {"train": {"anna": 3, "bob": 2, "cy": 2}, "Test": {"anna": 1, "bob": 2, "zoe": 2}, "val": {"anna": 2}}


def test_split_folders_are_trained_and_tested_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = split_tree(tmp_path / "faces", SPLIT)
    data = faces(root, private=["anna", "bob"])
    assert shades(data, "train") == {"anna": [0, 1, 2], "bob": [3, 4]}
    assert shades(data, "test") == {"anna": [7], "bob": [8, 9]}
    assert shades(data, "public") == {"cy": [5, 6], "zoe": [10, 11]}
    assert "those in val are not used" in caplog.text
    on_val = faces(root, private=["anna"], test_folder="val")
    assert shades(on_val, "test") == {"anna": [12, 13]}
    assert data.count_images("private") == 8
    changes: list[dict[str, Any]] = [{}, {"test_folder": "val"}, {"split": "drawn"}]
    changes += [{"test_share": 0.4}, {"seed": 1}, {"split": "folders"}]
    keys = [faces(root, private=["anna"], **change).fingerprint("private") for change in changes]
    assert keys[0] == keys[3] == keys[4] == keys[5]  # nothing is drawn
    assert len({str(key) for key in keys}) == 3


def test_people_of_one_folder_of_the_split_are_never_drawn_as_private(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "faces", SPLIT)
    for seed in range(8):
        data = faces(root, seed=seed, private_share=0.5)
        assert set(data.class_names()) <= {"anna", "bob"}
    pooled = faces(root, private=["anna", "zoe"], split="drawn")
    assert len(pooled.load("train")) + len(pooled.load("test")) == 8
    with pytest.raises(
        DataError, match="private identity zoe needs at least a readable image in the folder train"
    ):
        faces(root, private=["zoe"]).load("train")
    apart = split_tree(tmp_path / "apart", {"train": {"a": 2, "b": 2}, "test": {"c": 2, "d": 2}})
    with pytest.raises(DataError, match=r"different people.*data\.split=drawn"):
        faces(apart).load("train")
    assert len(faces(apart, split="drawn").class_names()) == 2


def test_an_unreadable_part_of_a_split_is_told(tmp_path: Path) -> None:
    root = split_tree(tmp_path / "faces", {"train": {"a": 2, "b": 2}, "test": {"a": 1, "b": 1}})
    (root / "test/a/0.png").write_bytes(b"")
    with pytest.raises(
        DataError, match="private identity a needs at least a readable image in the folder test"
    ):
        faces(root, private=["a"]).load("train")


@pytest.mark.parametrize("changes, words", [
    ({"test_folder": "val"}, "split of .* is drawn"), ({"test_folder": "dev"}, "test_folder=dev"),
    ({"min_images": 0}, "min_images=0"),
    ({"min_images": 99}, r"min_images=99 images; lower it \(the most are 10\)"),
    ({"root": ""}, "data.root is empty"), ({"labels": "nowhere.csv"}, "labels=nowhere.csv is no file"),
    ({"private": "s1"}, r"""write 'data.private_identities=\["s1"\]'"""),
    ({"identity_level": 2}, "identity_level=2"), ({"split": "folders"}, "no folders called train"),
])  # fmt: skip
def test_a_key_of_the_layout_that_does_not_fit_is_named(
    tree: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        faces(**{"root": tree, **changes}).load("train")


def test_people_with_few_images_are_left_out_and_counted(
    tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    single_image(tree)
    empty = tree / "s99"
    empty.mkdir()
    data = faces(tree, min_images=5)
    assert data.num_identities() + len(data.public_names()) == 11
    assert "2 of 13 identities have fewer than data.min_images=5 images and are left out" in caplog.text
    with pytest.raises(DataError, match=r"no image of s99; .*data\.min_images=1"):
        faces(tree).load("train")
    empty.rmdir()
    with pytest.raises(DataError, match=r"identity s3 .*leave out the 1 who have fewer: data\.min_images=2"):
        faces(tree, private=["s3"]).load("train")


def test_a_copy_one_folder_too_high_has_the_same_key(tree: Path, tmp_path: Path) -> None:
    high = tmp_path / "high"
    shutil.copytree(tree, high / "images")
    one, two = faces(tree), faces(high)
    for role in ("private", "public"):
        assert one.fingerprint(role) == two.fingerprint(role)
    assert torch.equal(one.load("test").images, two.load("test").images)


def test_labels_follow_the_order_of_imagefolder_of_numbers_or_of_a_file(tree: Path, tmp_path: Path) -> None:
    for name in ("S4", "_s5", "s 6"):
        (tree / f"s{name[-1]}").rename(tree / name)
    wanted = ["s10", "s2", "s1", "S4", "_s5", "s 6"]
    (tree / "s12").rename(tree / "s99")
    alphabetical = faces(tree, private=wanted)
    theirs, _ = find_classes(tree)  # ImageFolder's
    assert alphabetical.class_names() == tuple(name for name in theirs if name in wanted)
    natural_order = ("S4", "_s5", "s1", "s2", "s10", "s 6")
    assert faces(tree, private=wanted, order="natural").class_names() == natural_order
    (tmp_path / "classes.txt").write_text("\n".join(wanted))
    (tmp_path / "class_to_idx.json").write_text(
        json.dumps({name: i for i, name in reversed([*enumerate(wanted)])})
    )
    by_label: dict[str, list[int]] = shades(alphabetical, "train")
    for file in ("classes.txt", "class_to_idx.json"):
        data = faces(tree, private=wanted, order=str(tmp_path / file))
        assert data.class_names() == data.load("train").classes == tuple(wanted)
        assert shades(data, "train") == by_label  # other labels, the same people and split
        assert data.fingerprint("private") != alphabetical.fingerprint("private")
        assert data.fingerprint("public") == alphabetical.fingerprint("public")


def test_the_order_is_that_of_the_names_on_disk(tree: Path) -> None:
    nfd = unicodedata.normalize("NFD", "L\u00e9a")  # as some disks spell it; its order is that of the disk
    (tree / "s3").rename(tree / nfd)
    (tree / "s7").rename(tree / "Lf")
    spelt = faces(tree, private=[nfd, "Lf"]).class_names()
    ordered = [unicodedata.normalize("NFC", name) for name in find_classes(tree)[0] if name in (nfd, "Lf")]
    assert spelt == tuple(ordered) == ("L\u00e9a", "Lf")


@pytest.mark.parametrize("content, words", [
    ('{"s1": 0, "s2": 2}', "without gaps"), ("[1, 2]", "must hold names"), ("{", "is not JSON"),
    ('{"s1": true}', "without gaps"),
    ('["s1"]', "lacks the private identities s2"), ('["s1", "s2", "s3"]', "names s3, who are not private"),
    ('["s1", "s2", "s1"]', "s1 more than once"), ("[" * 100_000, "is not JSON"),
])  # fmt: skip
def test_an_order_that_does_not_fit_is_named(tree: Path, tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "order.json").write_text(content)
    with pytest.raises(ConfigError, match=words):
        faces(tree, private=["s1", "s2"], order=str(tmp_path / "order.json")).class_names()


def test_private_people_can_be_those_of_a_class_to_idx(tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "classes.json"
    file.write_text(json.dumps({"s7": 0, "s3": 1}))
    assert faces(tree, private=str(file), order=str(file)).class_names() == ("s7", "s3")


def test_names_that_yaml_has_spoilt_are_refused_with_their_quoted_form(tmp_path: Path) -> None:
    names = ["007", "010", "8", "1_000", "1e5", "No", "null", "anna"]
    for name in names:
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("L", (4, 4)).save(tmp_path / name / f"{index}.png")
    listed = OmegaConf.create("[007, 010, 1_000, 1e5, No, null, anna]")
    with pytest.raises(ConfigError) as caught:
        faces(tmp_path, private=OmegaConf.to_container(listed)).load("train")
    message = str(caught.value)
    assert "7 may stand for 007" in message
    assert "8 may stand for 010 or 8" in message
    assert """data.private_identities=["007","010 or 8","1_000","1e5","No","null","anna"]""" in message
    text = message.split("private_identities=")[1].split("'")[0]
    with pytest.raises(ConfigError, match="names 010 or 8, but"):  # never one of the two in silence
        faces(tmp_path, private=OmegaConf.to_container(OmegaConf.create(text))).load("train")
    quoted = OmegaConf.to_container(OmegaConf.create(text.replace("010 or 8", "010")))
    assert set(faces(tmp_path, private=quoted).class_names()) == {*quoted}  # type: ignore[misc]
    (tmp_path / "names.txt").write_text("007\nNo\n1e5\n")
    assert faces(tmp_path, private=str(tmp_path / "names.txt")).class_names() == ("007", "1e5", "No")


# --- decoding ---


def gradient(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height))
    image.putdata([(8 * x, 8 * y, 100) for y in range(height) for x in range(width)])
    return image


def pixels(image: Image.Image) -> torch.Tensor:
    size = image.width
    raw = bytearray(image.convert("RGB").tobytes())
    return torch.frombuffer(raw, dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)


@pytest.mark.parametrize("name", ["a.png", "a.ppm", "a.bmp", "a.tif", "a.tiff", "a.webp"])
def test_lossless_formats_keep_their_pixels(tmp_path: Path, name: str) -> None:
    image = gradient(16, 16)
    image.save(tmp_path / name, lossless=True)  # only webp has the choice
    assert torch.equal(decode(tmp_path / name, 16, "center"), pixels(image))


def test_jpeg_is_read_within_its_loss(tmp_path: Path) -> None:
    gradient(16, 16).save(tmp_path / "a.jpg", quality=95)
    difference = decode(tmp_path / "a.jpg", 16, "center").int() - pixels(gradient(16, 16)).int()
    assert difference.abs().max() < 25


def test_grey_palette_and_sixteen_bit_images_become_rgb(tmp_path: Path) -> None:
    grey = Image.new("L", (6, 6), 77)
    grey.save(tmp_path / "grey.pgm")
    grey.convert("P").save(tmp_path / "palette.gif")
    Image.new("1", (6, 6), 1).save(tmp_path / "bits.pbm")
    Image.new("I;16", (6, 6), 77 * 257).save(tmp_path / "deep.png")
    Image.new("I;16", (6, 6), 65535).save(tmp_path / "white.tif")
    Image.new("I;16", (6, 6), 400).save(tmp_path / "rounded.png")
    (tmp_path / "deep.pgm").write_bytes(b"P5 6 6 65535\n" + (77 * 257).to_bytes(2, "big") * 36)
    values = {
        "grey.pgm": 77,
        "palette.gif": 77,
        "bits.pbm": 255,
        "deep.png": 77,
        "rounded.png": 2,  # 400 / 257; the high byte alone would be 1
        "white.tif": 255,
        "deep.pgm": 77,
    }
    for name, value in values.items():
        image = decode(tmp_path / name, 6, "center")
        assert torch.equal(image, torch.full((3, 6, 6), value, dtype=torch.uint8)), name


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (200, 0, 100, 0)).save(tmp_path / "clear.png")
    Image.new("RGBA", (4, 4), (200, 0, 100, 255)).save(tmp_path / "solid.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30])
    palette.save(tmp_path / "palette.png", transparency=0)
    assert (decode(tmp_path / "clear.png", 4, "none") == 255).all()
    assert decode(tmp_path / "solid.png", 4, "none")[:, 0, 0].tolist() == [200, 0, 100]
    assert (decode(tmp_path / "palette.png", 4, "none") == 255).all()


def test_exif_rotation_is_undone(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    upright = gradient(16, 16)
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    assert torch.equal(decode(tmp_path / "a.png", 16, "center"), pixels(upright))


@pytest.mark.parametrize("width, height", [(30, 10), (10, 30), (11, 10)])
def test_center_crop_takes_the_largest_centred_square(tmp_path: Path, width: int, height: int) -> None:
    image = gradient(width, height)
    image.save(tmp_path / "a.png")
    left, top = (width - 10) // 2, (height - 10) // 2
    square = image.crop((left, top, left + 10, top + 10))
    assert torch.equal(decode(tmp_path / "a.png", 10, "center"), pixels(square))


def test_no_crop_stretches(tmp_path: Path) -> None:
    halves = Image.new("L", (64, 8), 0)
    halves.paste(255, (32, 0, 64, 8))
    halves.save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png", 8, "none")
    assert (image[:, :, :3] == 0).all()
    assert (image[:, :, 5:] == 255).all()


def test_shrinking_antialiases(tmp_path: Path) -> None:
    lines = Image.new("L", (64, 64))
    lines.putdata([255 * (x % 2) for _ in range(64) for x in range(64)])
    lines.save(tmp_path / "a.png")
    image = decode(tmp_path / "a.png", 8, "center")[
        :, :, 1:-1
    ]  # a filter without antialiasing gives 0 or 255
    assert (image.int() - 127).abs().max() <= 2


# --- what goes wrong ---


def test_unreadable_files_are_skipped_in_one_warning(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = (tree / "s1" / "1.png").read_bytes()
    (tree / "s1" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tree / "s1" / "2.png").write_bytes(b"")
    (tree / "s2" / "x.jpg").write_text("no image")
    (tree / "s2" / "y.jpg").symlink_to(tree / "nowhere.jpg")
    Image.new("F", (4, 4), 0.5).save(tree / "s2" / "z.tif")
    (tree / "s2" / "w.png").mkdir()  # a folder named like an image is not one
    data = faces(tree, private=["s1", "s2"])
    with caplog.at_level(logging.WARNING):
        counts = [data.load(part).labels.bincount().tolist() for part in ("train", "test")]
    assert counts == [[6, 8], [2, 2]]
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert "5 of 23" in message
    assert all(name in message for name in ("s1/1.png", "s1/2.png", "s2/x.jpg", "s2/y.jpg", "s2/z.tif"))


def test_a_long_list_of_unreadable_files_is_cut(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    for index in range(9):
        (tree / "s1" / f"bad{index}.png").write_bytes(b"")
    faces(tree, private=["s1"]).load("train")
    assert "bad4.png (empty) and 4 more" in caplog.text
    assert "bad5" not in caplog.text


def empty_identity(root: Path) -> None:
    (root / "s3" / "notes").mkdir(parents=True)
    for file in (root / "s3").glob("*.png"):
        file.unlink()


def unreadable_identity(root: Path) -> None:
    for file in (root / "s3").glob("*.png"):
        file.write_bytes(b"")


def single_image(root: Path) -> None:
    for file in list((root / "s3").glob("*.png"))[1:]:
        file.unlink()


def single_readable_image(root: Path) -> None:
    for file in list((root / "s3").glob("*.png"))[1:]:
        file.write_bytes(b"")


@pytest.mark.parametrize(
    "damage, private",
    [
        (empty_identity, True),
        (empty_identity, False),
        (unreadable_identity, True),
        (unreadable_identity, False),
        (single_image, True),
        (single_readable_image, True),
    ],
)
def test_an_identity_without_enough_images_is_named(tree: Path, damage: Any, private: bool) -> None:
    damage(tree)
    data = faces(tree, private=["s3" if private else "s1"])
    with pytest.raises(DataError, match=r"identity s3 .*(add|remove)|image of s3; add"):
        data.load("train" if private else "public")


def test_a_single_image_suffices_for_a_public_identity(tree: Path) -> None:
    single_image(tree)
    assert faces(tree, private=["s1"]).load("public").labels.bincount().tolist() == [10, 1, *[10] * 9]


def test_a_short_private_identity_is_refused_before_anything_is_decoded(tree: Path) -> None:
    single_image(tree)
    with pytest.raises(DataError, match="identity s3 needs at least 2"):
        faces(tree, private=["s3"]).fingerprint("private")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"private": ["s1", "s99"]}, "s99"),
        ({"private": ["s1", "s2", "s1"]}, "s1 more than once"),
        ({"private": []}, "names 0 of the 12"),
        ({"private": "nowhere.txt"}, "nowhere.txt"),
        ({"private_share": 0.01}, "private_share=0.01 makes 0 of the 12"),
        ({"private_share": 0.99}, "private_share=0.99 makes 12 of the 12"),
        ({"private_share": 1.0}, "private_share=1.0"),
        ({"test_share": 0.0}, "test_share=0.0"),
        ({"crop": "middle"}, "crop=middle"),
        ({"size": 0}, "resolution=0"),
        ({"extensions": []}, "extensions"),
        ({"extensions": "png"}, "extensions"),
        ({"extensions": ["xyz"]}, "xyz"),
    ],
)
def test_a_value_that_does_not_fit_is_named(tree: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        faces(tree, **changes).load("train")


def test_everybody_may_be_private_where_the_public_images_are_others(tree: Path) -> None:
    everybody = faces(tree, private=[f"s{i}" for i in range(1, 13)])
    assert everybody.load("train").num_classes == 12
    with pytest.raises(UserError, match="names 12 of the 12 identities"):
        everybody.fingerprint("public")


def test_a_root_that_is_no_tree_of_identities_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "flat").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "flat" / "1.png")
    for name, words in (
        ("missing", "does not exist"),
        ("file", "is a file"),
        ("flat", "no identity folders"),
    ):
        with pytest.raises(DataError, match=f"{name} {words}|{name} holds {words}"):
            faces(tmp_path / name).load("train")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_locked_folder_is_named(tree: Path) -> None:
    (tree / "s1" / "locked").mkdir(mode=0)
    with pytest.raises(DataError, match="locked"):
        faces(tree).load("train")


def test_an_unknown_part_is_refused(tree: Path) -> None:
    with pytest.raises(ConfigError, match="train, test or public"):
        faces(tree).load("private")  # type: ignore[arg-type]


# --- keys and caching ---


def test_a_copy_elsewhere_has_the_same_key_and_images(tree: Path, tmp_path: Path) -> None:
    copy = tmp_path / "other"
    copy.mkdir()
    for folder in sorted(tree.iterdir(), reverse=True):  # another order on disk
        (copy / folder.name).mkdir()
        for file in sorted(folder.iterdir(), reverse=True):
            shutil.copy(file, copy / folder.name / file.name)
    one, two = faces(tree), faces(copy)
    assert one.fingerprint("private") == two.fingerprint("private")
    assert one.fingerprint("public") == two.fingerprint("public")
    for part in PARTS:
        assert torch.equal(one.load(part).images, two.load(part).images)
        assert torch.equal(one.load(part).labels, two.load(part).labels)


def test_a_relative_root_is_taken_from_the_working_directory(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tree.parent)
    data = faces(Path("faces"))
    monkeypatch.chdir("/")
    assert data.fingerprint("private") == faces(tree).fingerprint("private")


def test_each_role_has_a_key_of_what_matters_to_it(tree: Path) -> None:
    def keys(**changes: Any) -> tuple[dict[str, object], dict[str, object]]:
        data = faces(tree, **{"private": ["s1", "s2"], **changes})
        return data.fingerprint("private"), data.fingerprint("public")

    private, public = keys()
    for shared in ({"size": 16}, {"crop": "none"}, {"private": ["s1", "s3"]}):
        assert all(new != old for new, old in zip(keys(**shared), (private, public), strict=True)), shared
    for split in ({"seed": 1}, {"test_share": 0.4}):  # the attacker's images stay as they are
        changed = keys(**split)
        assert changed[0] != private
        assert changed[1] == public
    assert keys(private_share=0.3) == (private, public)  # without effect beside a list
    with (tree / "s12" / "1.png").open("ab") as file:
        file.write(b"\0")
    assert keys()[0] == private
    assert keys()[1] != public


def test_each_side_is_decoded_once(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def counting(path: Path, size: int, crop: str) -> torch.Tensor:
        decoded.append(path)
        return decode(path, size, crop)

    monkeypatch.setattr("midre_exp.data.readers.folder.decode", counting)
    data = faces(tree)
    data.fingerprint("private")
    assert not decoded
    for part in (*PARTS, *PARTS):
        data.load(part)
    assert len(decoded) == len(set(decoded)) == 120


# --- configs ---


def composed(folder: Path, *overrides: str) -> DictConfig:
    """The data and setup groups of conf/ under a small primary config."""
    (folder / "primary.yaml").write_text("defaults: [data: synthfaces, setup: custom, _self_]\n")
    with initialize_config_dir(str(folder), version_base="1.3"):
        return compose(
            "primary", [f"hydra.searchpath=[file://{CONF_DIR}]", f"+paths.store={folder}/store", *overrides]
        )


def test_folder_config_needs_a_root_alone(tree: Path, tmp_path: Path) -> None:
    config = composed(tmp_path, "data=folder", f"data.root={tree}", "resolution=8")
    train = build(config.data.private).load("train")
    public = build(config.data.public).load("public")
    assert train.images.shape == (48, 3, 8, 8)
    assert set(train.classes).isdisjoint(public.classes)
    assert OmegaConf.is_missing(composed(tmp_path, "data=folder").data, "root")


def test_folder_config_passes_every_key_on(tree: Path, tmp_path: Path) -> None:
    keys = {
        "private_identities": "[s2,s10]",
        "test_share": "0.4",
        "crop": "none",
        "extensions": "[png]",
        "seed": "3",
    }
    config = composed(
        tmp_path,
        "data=folder",
        f"data.root={tree}",
        "resolution=8",
        *(f"data.{k}={v}" for k, v in keys.items()),
    )
    expected = faces(tree, private=["s2", "s10"], test_share=0.4, crop="none", extensions=["png"], seed=3)
    for role in ("private", "public"):
        assert build(config.data[role]).fingerprint(role) == expected.fingerprint(role)
    share = composed(tmp_path, "data=folder", f"data.root={tree}", "data.private_share=0.25", "resolution=8")
    assert len(build(share.data.private).load("train").classes) == 3


def test_synthetic_faces_config_resolves_for_both_roles(tmp_path: Path) -> None:
    size = "+attack.prior.image_size=32"  # public faces have the size the prior draws
    config = composed(tmp_path, "data.identities=7", "resolution=32", "public_source=other", size)
    private, public = plain(config.data.private), plain(config.data.public)
    assert private == public
    assert (private["identities"], private["size"], private["source"]) == (7, 32, "other")


def test_those_to_pretrain_on_are_public_identities_with_enough_images(tree: Path) -> None:
    for few in ("s7", "s8"):
        for file in sorted((tree / few).iterdir())[3:]:
            file.unlink()
    data = faces(tree, private=["s1", "s2"], pool="pretraining", pretraining_min_images=4)
    train, test = data.load("train"), data.load("test")
    assert train.classes == ("s3", "s4", "s5", "s6", "s9", "s10", "s11", "s12")  # neither private nor few
    assert data.num_identities() == 8 and data.count_images("private") == 80
    assert train.labels.bincount().tolist() == [8] * 8 and test.labels.bincount().tolist() == [2] * 8
    seen = {int(pixel) for part in (train, test) for pixel in part.images[:, 0, 0, 0]}
    assert seen == {shade(i, n) for i in (3, 4, 5, 6, 9, 10, 11, 12) for n in range(1, 11)}


def test_a_folder_without_enough_images_to_pretrain_on_says_so(tree: Path) -> None:
    data = faces(tree, private=["s1", "s2"], pool="pretraining", pretraining_min_images=11)
    with pytest.raises(DataError, match=r"no identities with enough images to pre-train on.*the most are 10"):
        data.load("train")


def test_fingerprints_of_private_images_do_not_know_of_a_pretraining(tree: Path) -> None:
    plain_, other = (faces(tree, private=["s1"], **more) for more in ({}, {"pretraining_min_images": 5}))
    pool = faces(tree, private=["s1"], pool="pretraining")
    assert plain_.fingerprint("private") == other.fingerprint("private") != pool.fingerprint("private")
    assert plain_.fingerprint("public") == pool.fingerprint("public")


def test_a_split_by_folders_is_no_split_of_those_to_pretrain_on(tmp_path: Path) -> None:
    for part in ("train", "test"):
        make_tree(tmp_path / part, identities=4, images=3)
    data = faces(tmp_path, private=["s1", "s2"], pool="pretraining")
    assert data.load("train").labels.bincount().tolist() == [5, 5]  # of six images, from both folders
    assert data.load("test").labels.bincount().tolist() == [1, 1]


def test_a_private_image_among_those_to_pretrain_on_is_an_alarm(tree: Path) -> None:
    shutil.copy(tree / "s1" / "1.png", tree / "s3" / "copy.png")
    private, pool = (faces(tree, private=["s1", "s2"], pool=pool) for pool in ("private", "pretraining"))
    (alarm,) = pretraining_duplicates(private, pool, tree.parent / "store")
    assert "1 private image(s) are also among the public images of folder to pre-train on" in alarm
    refusing = faces(tree, private=["s1", "s2"], pool="pretraining", duplicates="refuse")
    with pytest.raises(DataError, match="to pre-train on"):
        pretraining_duplicates(private, refusing, tree.parent / "store")
