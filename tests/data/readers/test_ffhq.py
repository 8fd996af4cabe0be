from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from midre_exp.data.readers.fixtures import write_ffhq
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import check_fingerprint, check_spoilt_images, copied, dataset, names, pixels

COUNT = {"expected_images": 8}
STRETCH = [{"_target_": "midre_exp.data.transforms.Resize", "_partial_": True}]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ffhq") / "tree"
    write_ffhq(root, images=8)
    return root


def test_thumbnails_are_cropped_and_unlabelled(tree: Path, tmp_path: Path) -> None:
    data = dataset("ffhq", tree, **COUNT)
    public = data.load("public")
    assert public.images.shape == (8, 3, 16, 16)
    assert public.labels.tolist() == [0] * 8
    assert public.classes == ("unlabelled",)
    assert names(data, "public")[3:5] == (
        "thumbnails128x128/00000/00003.png",
        "thumbnails128x128/01000/01000.png",
    )
    with Image.open(tree / names(data, "public")[5]) as file:
        file.crop((20, 20, 108, 108)).save(tmp_path / "crop.png")
    assert public.images[5].equal(pixels(tmp_path / "crop.png"))


def test_flat_folders_and_a_root_that_is_the_folder_are_read_in_the_same_order(
    tree: Path, tmp_path: Path
) -> None:
    wanted = dataset("ffhq", tree, **COUNT).load("public").images
    flat = tmp_path / "flat" / "ffhq-dataset" / "thumbnails128x128"
    flat.mkdir(parents=True)
    for file in tree.glob("thumbnails128x128/*/*.png"):
        (flat / file.name).write_bytes(file.read_bytes())
    for root in (tmp_path / "flat", flat, tree / "thumbnails128x128"):
        assert dataset("ffhq", root, **COUNT, store=tmp_path / "store").load("public").images.equal(wanted)


def test_full_images_are_cropped_to_800(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write_ffhq(root, images=1, variant="images1024")
    data = dataset("ffhq_1024", root, expected_images=1)
    with Image.open(root / "images1024x1024/01000/01000.png") as file:
        file.crop((112, 112, 912, 912)).save(tmp_path / "crop.png")
    assert data.load("public").images[0].equal(pixels(tmp_path / "crop.png"))


def test_pictures_of_the_other_variant_are_refused_not_cropped(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"00000.png has 128x128 px, this variant of FFHQ 1024x1024"):
        names(dataset("ffhq_1024", tree / "thumbnails128x128", **COUNT), "public")
    with pytest.raises(DataError, match="missing the folder images1024x1024"):
        names(dataset("ffhq_1024", tree, **COUNT), "public")
    with pytest.raises(ConfigError, match="variant=256 is unknown; use thumbnails or images1024"):
        dataset("ffhq", tree, variant="256")


def test_ffhq_has_no_private_part(tree: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no train part; use it as data.public only"):
        dataset("ffhq", tree, **COUNT).fingerprint("private")


def test_fingerprints_follow_content_not_place(tree: Path, tmp_path: Path) -> None:
    check_fingerprint("ffhq", tree, tmp_path / "copy", "public", STRETCH, **COUNT)


def test_spoilt_images_are_named(tree: Path, tmp_path: Path) -> None:
    check_spoilt_images("ffhq", tree, tmp_path / "copy", "public", **COUNT)


def test_incomplete_doubled_and_empty_trees_are_told(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has 8 images in {tree / 'thumbnails128x128'}, expected 70000"):
        names(dataset("ffhq", tree), "public")
    root = copied(tree, tmp_path / "copy")
    (root / "thumbnails128x128/00002.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"has .*00002\.\w+ and .*00002\.\w+; remove one of the copies"):
        names(dataset("ffhq", root, **COUNT), "public")
    (tmp_path / "empty/thumbnails128x128").mkdir(parents=True)
    with pytest.raises(DataError, match=r"the public part of FFHQ in .* has no images"):
        names(dataset("ffhq", tmp_path / "empty", expected_images=None), "public")
