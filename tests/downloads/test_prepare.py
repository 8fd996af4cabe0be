"""Preparing: archives unpacked, faces cut, again and again with the same files."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from midre_exp.cards import dataset_cards
from midre_exp.data.readers.celeba import RECROPPED
from midre_exp.downloads.archives import unpack
from midre_exp.downloads.hd_celeba import Alignment
from midre_exp.downloads.prepare import main
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import dataset


def files(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def photographs(root: Path, count: int = 5) -> None:
    """As CelebA and its cropper hand them out: photographs, their landmarks, a mean shape."""
    draw = np.random.RandomState(0)
    shape = draw.uniform(-0.5, 0.5, (68, 2))
    lines = []
    (root / "img_celeba").mkdir(parents=True)
    for number in range(1, count + 1):
        pixels = draw.randint(0, 256, (40 + number, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "img_celeba" / f"{number:06d}.jpg")
        points = shape * 20 + (25, 20) + draw.normal(size=(68, 2))
        lines.append(f"{number:06d}.jpg " + " ".join(f"{value:.1f}" for value in points.ravel()))
    (root / "landmark.txt").write_text("\n".join(lines) + "\n")
    text = "\n".join(f"{x:.6f} {y:.6f}" for x, y in shape)
    (root / "standard_landmark_68pts.txt").write_text(text)


def test_faces_of_celeba_are_cut_where_the_reader_looks_for_them(tmp_path, capsys):
    photographs(tmp_path)
    assert main(["celeba_hd", "--root", str(tmp_path), "--workers", "1"]) == 0
    assert "5 faces cut" in capsys.readouterr().out
    made = files(tmp_path / RECROPPED)
    assert sorted(made) == [f"{number:06d}.jpg" for number in range(1, 6)]
    for content in made.values():
        assert Image.open(io.BytesIO(content)).size == (224, 224)


def test_faces_do_not_depend_on_workers_nor_on_an_interruption(tmp_path, capsys):
    one, two = tmp_path / "one", tmp_path / "two"
    for root in (one, two):
        photographs(root, 3)
    assert main(["celeba_hd", "--root", str(one), "--workers", "1"]) == 0
    whole = files(one / RECROPPED)
    assert main(["celeba_hd", "--root", str(two), "--workers", "2"]) == 0
    assert files(two / RECROPPED) == whole
    (one / RECROPPED / "000002.jpg").unlink()
    assert main(["celeba_hd", "--root", str(one), "--workers", "1"]) == 0
    assert "1 faces cut, 2 were there" in capsys.readouterr().out
    assert files(one / RECROPPED) == whole


def test_a_damaged_photograph_is_told_and_the_others_are_cut(tmp_path, capsys):
    photographs(tmp_path, 3)
    broken = tmp_path / "img_celeba" / "000002.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    assert main(["celeba_hd", "--root", str(tmp_path), "--workers", "1"]) == 1
    out = capsys.readouterr().out
    assert "2 faces cut, 1 not: 000002.jpg" in out
    assert "damage " in out and "truncated" in out
    assert sorted(files(tmp_path / RECROPPED)) == ["000001.jpg", "000003.jpg"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda root: (root / "landmark.txt").unlink(), "missing landmark.txt"),
        (
            lambda root: (root / "landmark.txt").write_text("000001.jpg 1 2\n"),
            "expected <image> and 136 numbers",
        ),
        (lambda root: (root / "standard_landmark_68pts.txt").write_text("1 nan"), "does not hold 68 points"),
    ],
)
def test_what_the_cropper_needs_is_told(spoil, told, tmp_path, capsys):
    photographs(tmp_path, 1)
    spoil(tmp_path)
    assert main(["celeba_hd", "--root", str(tmp_path)]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("key", ["transform", "interpolation", "border", "size"])
def test_an_alignment_that_is_not_built_is_refused(key):
    card = dataset_cards()["celeba_hd"]
    assert Alignment.of(card).folder == RECROPPED
    with pytest.raises(ConfigError, match=f"celeba_hd: alignment.{key}"):
        Alignment.of(replace(card, alignment={**(card.alignment or {}), key: "affine"}))


def facescrub(root: Path, *, flat: bool = False) -> None:
    """Photographs as either script leaves them, and the two lists."""
    for group, name in (("actors", "Woody Allen"), ("actresses", "Adrianne León")):
        lines = ["name\timage_id\tface_id\turl\tbbox\tsha256"]
        for image in range(3):
            url = f"http://example.org/{name}/{image}.jpg"
            sha1 = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
            ending = "jpg" if flat else ("jpeg", "png", "jpeg")[image]
            place = root / name.replace(" ", "_") / f"{sha1}.jpg"
            if not flat:
                place = root / group / "images" / name / f"{name}_{image}.{ending}"
            place.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.RandomState(image).randint(0, 256, (60, 50, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(place)
            digest = hashlib.sha256(place.read_bytes()).hexdigest()
            lines.append(f"{name}\t{image}\t{image + 90}\t{url}\t5,7,{35 + 20 * (image == 2)},47\t{digest}")
        (root / f"facescrub_{group}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_faces_of_facescrub_are_cut_by_the_boxes_of_the_lists(tmp_path):
    facescrub(tmp_path)
    assert main(["facescrub", "--root", str(tmp_path), "--workers", "1"]) == 0
    folder = tmp_path / "actors" / "faces" / "Woody Allen"
    assert sorted(p.name for p in folder.iterdir()) == [
        f"Woody Allen_{image}_{image + 90}.{ending}" for image, ending in enumerate(("jpeg", "png", "jpeg"))
    ]
    with (
        Image.open(folder / "Woody Allen_1_91.png") as face,
        Image.open(tmp_path / "actors" / "images" / "Woody Allen" / "Woody Allen_1.png") as photograph,
    ):
        assert np.array_equal(np.array(face), np.array(photograph)[7:47, 5:35])
    with Image.open(folder / "Woody Allen_2_92.jpeg") as face:
        assert face.size == (50, 40)  # black beyond the photograph, as Pillow crops
        assert np.array(face)[:, 46:].max() < 60
    data = dataset("facescrub", tmp_path, expected_identities=2)
    assert len(data.file_list("train").names) + len(data.file_list("test").names) == 6


def test_the_flat_layout_is_clipped_to_the_photograph(tmp_path):
    facescrub(tmp_path, flat=True)
    assert main(["facescrub", "--root", str(tmp_path), "--workers", "1"]) == 0
    sizes = {Image.open(path).size for path in tmp_path.glob("*/face/*.jpg")}
    assert sizes == {(30, 40), (45, 40)}
    data = dataset("facescrub", tmp_path, expected_identities=2)
    assert len(data.file_list("train").names) + len(data.file_list("test").names) == 6


def test_a_photograph_that_the_list_does_not_mean_is_not_cut(tmp_path, capsys):
    facescrub(tmp_path)
    other = tmp_path / "actors" / "images" / "Woody Allen" / "Woody Allen_0.jpeg"
    Image.new("RGB", (60, 60)).save(other)
    assert main(["facescrub", "--root", str(tmp_path), "--workers", "1"]) == 1
    assert "another picture than the list means" in capsys.readouterr().out
    assert not (tmp_path / "actors" / "faces" / "Woody Allen" / "Woody Allen_0_90.jpeg").exists()


def packed(path: Path, content: dict[str, bytes]) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as archive:
            for name, data in content.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    return path


CONTENT = {"train/n000002/0001_01.jpg": b"a" * 5000, "train/n000002/0002_01.jpg": b"b"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.zip"])
def test_an_archive_is_unpacked_and_what_is_there_is_not_again(name, tmp_path):
    archive, into = packed(tmp_path / name, CONTENT), tmp_path / "into"
    assert unpack(archive, into) == 2
    assert files(into) == CONTENT
    (into / "train/n000002/0001_01.jpg").write_bytes(b"cut off")
    assert unpack(archive, into) == 1
    assert unpack(archive, into) == 0
    assert files(into) == CONTENT


@pytest.mark.parametrize("name", ["a.tar", "a.zip"])
@pytest.mark.parametrize("member", ["../outside.jpg", "/tmp/outside.jpg", "a/../../outside.jpg"])
def test_an_archive_that_would_write_elsewhere_is_refused(name, member, tmp_path):
    with pytest.raises(DataError, match="outside of its folder"):
        unpack(packed(tmp_path / name, {member: b"a"}), tmp_path / "into")
    assert not (tmp_path / "outside.jpg").exists()


@pytest.mark.parametrize("name", ["a.tar.gz", "a.zip"])
def test_a_damaged_archive_is_told_and_leaves_whole_files_alone(name, tmp_path):
    noise = np.random.RandomState(0).bytes(20_000)  # which does not compress
    archive = packed(tmp_path / name, {"one": noise, "two": noise})
    archive.write_bytes(archive.read_bytes()[:-9000])
    with pytest.raises(DataError, match="cannot be unpacked"):
        unpack(archive, tmp_path / "into")
    assert all(content == noise for content in files(tmp_path / "into").values())


def test_the_archives_of_a_card_lie_where_the_reader_looks_afterwards(tmp_path, capsys):
    packed(tmp_path / "vggface2_train.tar.gz", CONTENT)
    assert main(["vggface2", "--root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "vggface2_train.tar.gz: 2 files unpacked" in out and "data.private.box_margin=0.3" in out
    assert (tmp_path / "train" / "n000002" / "0002_01.jpg").is_file()


def test_what_is_not_here_is_told_with_how_to_get_it(tmp_path, capsys):
    assert main(["vggface2", "--data", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert f"{tmp_path}/vggface2 does not exist" in err and "register" in err
    assert main(["vggface2", "--workers", "0"]) == 2
    assert "--workers=0 must be at least 1" in capsys.readouterr().err
