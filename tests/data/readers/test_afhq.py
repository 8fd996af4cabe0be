from __future__ import annotations

from pathlib import Path

import pytest

from midre_exp.data.readers.fixtures import write_afhq
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import CENTERED, check_fingerprint, check_spoilt_images, dataset, names, pixels

COUNT = {"expected_images": 4}


@pytest.fixture(scope="module", params=[1, 2])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("afhq") / f"v{request.param}"
    write_afhq(root, images=4, version=request.param)
    return root


def test_the_dogs_of_the_train_folder_are_the_public_part(tree: Path) -> None:
    data = dataset("afhq_dogs", tree, **COUNT)
    public = data.load("public")
    assert public.images.shape == (4, 3, 16, 16)
    assert (public.labels.tolist(), public.classes) == ([0] * 4, ("unlabelled",))
    assert all("train/dog/" in name for name in names(data, "public"))
    assert public.images[2].equal(pixels(tree / names(data, "public")[2]))


def test_all_adds_the_folder_of_either_version_after_it(tree: Path) -> None:
    data = dataset("afhq_dogs", tree, use="all", expected_images=6)
    listed = names(data, "public")
    assert listed[:4] == names(dataset("afhq_dogs", tree, **COUNT), "public")
    assert all("val/dog/" in name or "test/dog/" in name for name in listed[4:])
    assert data.load("public").images.shape[0] == 6


def test_the_folder_above_may_be_missing(tree: Path) -> None:
    if (tree / "afhq").is_dir():
        inner = dataset("afhq_dogs", tree / "afhq", **COUNT).load("public").images
        assert inner.equal(dataset("afhq_dogs", tree, **COUNT).load("public").images)


def test_afhq_has_no_private_part(tree: Path) -> None:
    with pytest.raises(ConfigError, match="AFHQ-Dogs has no test part"):
        dataset("afhq_dogs", tree, **COUNT).load("test")
    with pytest.raises(ConfigError, match="use=val is unknown; use train or all"):
        dataset("afhq_dogs", tree, use="val")


def test_fingerprints_follow_content_not_place(tree: Path, tmp_path: Path) -> None:
    check_fingerprint("afhq_dogs", tree, tmp_path / "copy", "public", CENTERED, **COUNT)
    every = dataset("afhq_dogs", tree, use="all", expected_images=None).fingerprint("public")
    assert every != dataset("afhq_dogs", tree, **COUNT).fingerprint("public")


def test_spoilt_images_are_named(tree: Path, tmp_path: Path) -> None:
    check_spoilt_images("afhq_dogs", tree, tmp_path / "copy", "public", **COUNT)


def test_incomplete_trees_are_told(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 4 images in .*dog, expected 4739; complete the download"):
        names(dataset("afhq_dogs", tree), "public")
    with pytest.raises(DataError, match=f"has 6 images in {tree}.*, expected 4739"):
        names(dataset("afhq_dogs", tree, use="all"), "public")
    (tmp_path / "empty").mkdir()
    message = "missing the folder train/dog; the folder val/dog or test/dog; put"
    with pytest.raises(DataError, match=message):
        names(dataset("afhq_dogs", tmp_path / "empty", use="all"), "public")
