"""Official data sets as others pack them: each is read, or one sentence says what it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from midre_exp.data.readers.fixtures import write_celeba, write_facescrub
from midre_exp.errors import DataError
from tests.data.test_picture import noise
from tests.data.trees import dataset, names

CELEBA = {"identities": 5, "least_images": 4, "public_images": 9, "public_above": 5}
PAGE = "<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title></html>"


@pytest.fixture
def celeba(tmp_path: Path) -> Path:
    write_celeba(tmp_path / "celeba", lists=False)
    return tmp_path / "celeba"


def faces(root: Path) -> list[str]:
    """The images of the training part, wherever they lie."""
    data = dataset("celeba", root, split="derived", **CELEBA)
    return [Path(name).name for name in names(data, "train")]


def test_kaggles_nesting_of_celeba_and_a_folder_around_it_are_read(celeba: Path, tmp_path: Path) -> None:
    expected = faces(celeba)
    inner = next(celeba.rglob("img_align_celeba"))
    inner.rename(inner.with_name("img_align_celeba_"))
    inner.mkdir()
    inner.with_name("img_align_celeba_").rename(inner / "img_align_celeba")
    assert faces(celeba) == expected
    (tmp_path / "outer").mkdir()
    celeba.rename(tmp_path / "outer" / "CelebA-Kaggle")
    assert faces(tmp_path / "outer") == expected


def test_identities_between_commas_are_read(celeba: Path) -> None:
    expected = faces(celeba)
    listed = next(celeba.rglob("identity_CelebA.txt"))
    rows = [line.split() for line in listed.read_text().splitlines()]
    listed.unlink()
    lines = ["image_id,identity", *(",".join(row) for row in rows)]
    listed.with_suffix(".csv").write_text("\n".join(lines))
    assert faces(celeba) == expected


def test_a_web_page_in_place_of_a_list_is_called_one(celeba: Path) -> None:
    next(celeba.rglob("identity_CelebA.txt")).write_text(PAGE)
    with pytest.raises(DataError, match=r"identity_CelebA\.txt is a web page, not the file"):
        faces(celeba)


@pytest.mark.parametrize("layout", ["{}_faces", "{}s"])
def test_facescrub_in_two_folders_of_faces_is_read(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "facescrub"
    write_facescrub(root, layout="blanks")
    expected = names(dataset("facescrub", root, expected_identities=None), "train")
    packed = tmp_path / "packed"
    packed.mkdir()
    for group, single in (("actors", "actor"), ("actresses", "actresse")):
        place = layout.format(single).replace("actresse_", "actress_")
        shutil.copytree(root / group / "faces", packed / place)
    found = names(dataset("facescrub", packed, expected_identities=None), "train")
    assert [Path(name).name for name in found] == [Path(name).name for name in expected]


def test_whole_photographs_are_not_taken_for_faces(tmp_path: Path) -> None:
    for group in ("actors", "actresses"):
        (tmp_path / group / "images" / "Some Body").mkdir(parents=True)
    with pytest.raises(DataError, match="missing actors/faces; actresses/faces"):
        names(dataset("facescrub", tmp_path, expected_identities=None), "train")


def test_everything_that_facescrub_lacks_is_told_at_once(tmp_path: Path) -> None:
    write_facescrub(tmp_path, layout="blanks")
    (tmp_path / "actors/faces/Dead Links").mkdir()
    with pytest.raises(DataError, match=r"no face of Dead_Links; .*and give data\.\*\.expected_identities=5"):
        names(dataset("facescrub", tmp_path), "train")


def test_resized_ffhq_is_read_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "resized").mkdir()
    for number in range(3):
        noise(256, 256).save(tmp_path / "resized" / f"{number:05d}.png")
    data = dataset("ffhq_256", tmp_path, expected_images=3)
    assert data.load("public").images.shape == (3, 3, 16, 16)
    assert "resized to 256 px" in data.alarms("public")[0]
    with pytest.raises(DataError, match=r"resized copies, which data/dataset@data\.public=ffhq_256 reads"):
        names(dataset("ffhq_1024", tmp_path / "resized", expected_images=3), "public")


def test_endings_that_pillow_reads_are_read_and_others_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_facescrub(tmp_path, layout="blanks")
    folder = next((tmp_path / "actors/faces").iterdir())
    before = len(names(dataset("facescrub", tmp_path, expected_identities=None), "train"))
    for ending in ("jfif", "jpe", "gif", "jp2"):
        kind = "JPEG" if ending in ("jfif", "jpe") else None
        Image.new("RGB", (20, 20), "red").save(folder / f"more.{ending}", format=kind)
    (folder / "clip.mov").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    data = dataset("facescrub", tmp_path, expected_identities=None)
    assert len(names(data, "train")) + len(names(data, "test")) > before + 3
    assert torch.is_tensor(data.load("train").images)
    assert "1 file(s) have endings that are not read: 1 .mov" in caplog.text
