from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from midre_exp.data.readers.fixtures import write_stanford_dogs
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import CENTERED, check_fingerprint, check_spoilt_images, copied, dataset, names, pixels

COUNT = {"expected_images": 30}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("dogs") / "tree"
    write_stanford_dogs(root, identities=5, images=6)
    return root


def rows(root: Path, name: str) -> tuple[list[str], list[int]]:
    """Names and labels of a list, as its documentation says they are stored."""
    content = loadmat(root / name)
    return [str(cell[0][0]) for cell in content["file_list"]], [int(label[0]) for label in content["labels"]]


def rewrite(root: Path, name: str, files: list[Any], labels: list[Any]) -> None:
    cell = np.empty((len(files), 1), dtype=object)
    cell[:, 0] = files
    savemat(root / name, {"file_list": cell, "labels": np.array(labels).reshape(-1, 1)})


def test_the_lists_are_joined_and_permuted(tree: Path) -> None:
    train_names, train_labels = rows(tree, "train_list.mat")
    test_names, test_labels = rows(tree, "test_list.mat")
    assert (len(train_names), len(test_names)) == (20, 10)
    order = np.random.RandomState(42).permutation(30)
    every, labels = train_names + test_names, train_labels + test_labels
    data = dataset("stanford_dogs", tree, **COUNT)
    train, test = data.load("train"), data.load("test")
    assert train.images.shape == (27, 3, 16, 16)
    assert names(data, "train") == tuple(f"Images/{every[row]}" for row in order[:27])
    assert names(data, "test") == tuple(f"Images/{every[row]}" for row in order[27:])
    assert train.labels.tolist() + test.labels.tolist() == [labels[row] - 1 for row in order]
    assert train.classes == ("Chihuahua", "Japanese_spaniel", "Maltese_dog", "Pekinese", "Shih-Tzu")
    for row in range(27):  # grey ones too
        assert train.images[row].equal(pixels(tree / names(data, "train")[row]))


def test_cropped_takes_the_first_box(tree: Path, tmp_path: Path) -> None:
    data = dataset("stanford_dogs", tree, **COUNT, cropped=True)
    images = data.load("train").images
    for row in range(8):
        with Image.open(tree / names(data, "train")[row]) as file:
            width, height = file.size
            box = (width // 4, height // 5, 3 * width // 4, 4 * height // 5)
            file.crop(box).save(tmp_path / "cut.png")
        assert images[row].equal(pixels(tmp_path / "cut.png"))


def test_there_is_no_public_part(tree: Path) -> None:
    data = dataset("stanford_dogs", tree, **COUNT)
    with pytest.raises(ConfigError, match="no public part; use AFHQ-Dogs"):
        data.load("public")
    with pytest.raises(ConfigError, match="no public part"):
        data.fingerprint("public")


def test_fingerprints_follow_content_not_place(tree: Path, tmp_path: Path) -> None:
    check_fingerprint("stanford_dogs", tree, tmp_path / "copy", "private", CENTERED, **COUNT)


def test_fingerprints_follow_cropping_and_boxes(tree: Path, tmp_path: Path) -> None:
    whole = dataset("stanford_dogs", tree, **COUNT).fingerprint("private")
    cropped = dataset("stanford_dogs", tree, **COUNT, cropped=True).fingerprint("private")
    assert whole != cropped
    root = copied(tree, tmp_path / "copy")
    file = root / "Annotation/n02085620-Chihuahua/n02085620_7"
    file.write_text(file.read_text().replace("<xmin>30<", "<xmin>31<", 1))
    assert dataset("stanford_dogs", root, **COUNT).fingerprint("private") == whole
    assert dataset("stanford_dogs", root, **COUNT, cropped=True).fingerprint("private") != cropped


def test_spoilt_images_are_named(tree: Path, tmp_path: Path) -> None:
    check_spoilt_images("stanford_dogs", tree, tmp_path / "copy", "train", **COUNT)


def test_everything_missing_is_told_at_once_and_lists_may_lie_deeper(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"missing Images; train_list\.mat; test_list\.mat; put the official"):
        names(dataset("stanford_dogs", tmp_path / "empty"), "train")
    with pytest.raises(DataError, match=r"test_list\.mat; Annotation; put"):
        names(dataset("stanford_dogs", tmp_path / "empty", cropped=True), "train")
    with pytest.raises(DataError, match=f"has 30 images listed in {tree}, expected 20580"):
        names(dataset("stanford_dogs", tree), "train")
    copied(tree, tmp_path / "deep" / "stanford_dogs")
    (tmp_path / "deep/stanford_dogs/lists").mkdir()
    for name in ("train_list.mat", "test_list.mat"):
        (tmp_path / "deep/stanford_dogs" / name).rename(tmp_path / "deep/stanford_dogs/lists" / name)
    assert len(dataset("stanford_dogs", tmp_path / "deep", **COUNT).load("test")) == 3


def test_wrong_lists_are_told_with_the_entry(tree: Path, tmp_path: Path) -> None:
    root = copied(tree, tmp_path / "copy")
    files, labels = rows(tree, "train_list.mat")

    def error() -> str:
        with pytest.raises(DataError) as caught:
            names(dataset("stanford_dogs", root, expected_images=None), "train")
        return str(caught.value)

    rewrite(root, "train_list.mat", files, [2, *labels[1:]])
    assert f"give {files[0]} the label 2, but n02085620-Chihuahua is folder number 1 of 5" in error()
    rewrite(root, "train_list.mat", files, [*labels[:-1], 0])
    assert "train_list.mat entry 20 reads" in error()
    for bad in ("noslash.jpg", "../../etc/passwd", "n1-a/b/c.jpg", 7):
        rewrite(root, "train_list.mat", [files[0], bad, *files[2:]], labels)
        assert "train_list.mat entry 2 reads" in error(), bad
    rewrite(root, "train_list.mat", [files[0], *files], [labels[0], *labels])
    assert "lists" in error()
    assert "more than once" in error()
    rewrite(root, "train_list.mat", files, labels[1:])
    assert "train_list.mat has 20 names and 19 labels" in error()
    savemat(root / "train_list.mat", {"labels": np.array(labels)})
    assert "train_list.mat has no variable 'file_list'" in error()
    whole = (tree / "train_list.mat").read_bytes()
    for content in (b"", b"no matrix", whole[: len(whole) // 2], whole[:200] + b"\xff" * 40 + whole[240:]):
        (root / "train_list.mat").write_bytes(content)
        message = error()  # what is left of a truncated file may still be read
        assert "train_list.mat cannot be read as a MATLAB file" in message or "has no variable" in message


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "<annotation>",
            "<!DOCTYPE a [<!ENTITY b 'c'>]><annotation>",
            "holds XML declarations that no annotation",
        ),
        ("</annotation>", "", "cannot be read as an annotation"),
        ("<xmin>", "<xmin>x", "cannot be read as an annotation"),
        ("bndbox", "box", "marks no dog"),
        ("<xmin>", "<xmin>9", "marks an empty box"),
    ],
)
def test_wrong_annotations_are_told_when_they_are_needed(
    tree: Path, tmp_path: Path, old: str, new: str, message: str
) -> None:
    root = copied(tree, tmp_path / "copy")
    file = root / "Annotation/n02086240-Shih-Tzu/n02086240_107"
    file.write_text(file.read_text().replace(old, new))
    data = dataset("stanford_dogs", root, **COUNT, cropped=True)
    with pytest.raises(DataError, match=f"n02086240_107 {message}") as error:
        [names(data, part) for part in ("train", "test")]
    assert "data.*.cropped=false" in str(error.value)
    assert len(dataset("stanford_dogs", root, **COUNT).load("train")) == 27
