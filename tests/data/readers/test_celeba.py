from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from midre_exp.data.base import Part
from midre_exp.data.readers.file_list import FileListDataset
from midre_exp.data.readers.fixtures import write_celeba, write_celeba_hd
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import check_fingerprint, check_spoilt_images, copied, dataset, names, pixels

PRIVATE: tuple[Part, ...] = ("train", "test")
RULE = {"identities": 4, "least_images": 5, "public_images": 20}
STEPS = [{"_target_": "midre_exp.data.transforms.Resize", "_partial_": True}]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("celeba") / "tree"
    write_celeba(root, identities=4, images=5, lists=True)
    return root


@pytest.fixture(scope="module")
def bare(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without list files."""
    root = copied(tree, tmp_path_factory.mktemp("celeba") / "bare")
    for file in root.glob("celeba_*.txt"):
        file.unlink()
    return root


def celeba(root: Path, **changes: Any) -> FileListDataset:
    return dataset("celeba", root, **{**RULE, **changes})


def identities(root: Path) -> dict[str, str]:
    """Identity number by stem."""
    lines = (root / "Anno" / "identity_CelebA.txt").read_text().split("\n")
    return {line.split(".")[0]: line.split()[1] for line in lines if line}


@pytest.mark.parametrize("which", ["tree", "bare"])
def test_the_parts_have_the_expected_images_labels_and_classes(which: str, request: Any) -> None:
    root: Path = request.getfixturevalue(which)
    data = celeba(root)
    train, test, public = (data.load(part) for part in ("train", "test", "public"))
    assert train.images.shape == (17, 3, 16, 16)
    assert sorted(train.labels.tolist()) == [0] * 5 + [1] * 4 + [2] * 4 + [3] * 4
    assert sorted(test.labels.tolist()) == [0, 1, 2, 3]
    assert train.classes == test.classes
    assert len(train.classes) == 4
    assert (len(public), public.classes) == (20, ("unlabelled",))
    numbers = [14, 17, 20, 23]  # ascending identity number, not order of the file
    owner = identities(root)
    for part, images in (("train", train), ("test", test)):
        stems = [Path(name).stem for name in names(data, part)]
        assert [int(owner[stem]) for stem in stems] == [numbers[label] for label in images.labels]


@pytest.mark.parametrize("split", ["lists", "derived", "ppa"])
def test_no_image_is_in_two_parts_and_no_identity_on_both_sides(tree: Path, split: str) -> None:
    data = celeba(tree, split=split)
    parts = {part: {Path(name).stem for name in names(data, part)} for part in (*PRIVATE, "public")}
    assert not parts["train"] & parts["test"]
    private, public = parts["train"] | parts["test"], parts["public"]
    owner = identities(tree)
    assert not {owner[stem] for stem in private} & {owner[stem] for stem in public}


def test_pixels_are_the_published_crop_of_the_listed_file(bare: Path, tmp_path: Path) -> None:
    from PIL import Image

    data = celeba(bare)
    first = names(data, "test")[0]
    with Image.open(bare / first) as file:
        assert file.size == (178, 218)
        file.crop((35, 55, 143, 163)).save(tmp_path / "crop.png")
    assert data.load("test").images[0].equal(pixels(tmp_path / "crop.png"))


def test_png_trees_flat_trees_lf_headers_and_blanks_are_read_alike(bare: Path, tmp_path: Path) -> None:
    wanted = [Path(name).stem for part in PRIVATE for name in names(celeba(bare), part)]
    root = tmp_path / "flat"
    write_celeba(root, identities=4, images=5, extension="png")
    (root / "Img" / "img_align_celeba").rename(root / "img_align_celeba_png")
    text = (root / "Anno" / "identity_CelebA.txt").read_text().replace("\r\n", "\n").replace(" ", "   ")
    (root / "identity_CelebA.txt").write_text("\ufeffimage identity\n" + text)
    (root / "Anno" / "identity_CelebA.txt").unlink()
    data = celeba(root)
    assert [Path(name).stem for part in PRIVATE for name in names(data, part)] == wanted
    assert data.load("train").images.shape[0] == 17


def test_ppa_takes_the_most_frequent_identities_in_order_of_appearance(tmp_path: Path) -> None:
    root = tmp_path / "tree"
    write_celeba_hd(root, identities=4, images=5)
    data = dataset("celeba_hd", root, identities=4)
    counts: dict[str, int] = {}
    for owner in identities(root).values():
        counts[owner] = counts.get(owner, 0) + 1
    ranked = sorted(counts, key=lambda owner: -counts[owner])[:4]  # stable: ties as they appear
    train = data.load("train")
    assert train.classes == tuple(f"celeba-{owner}" for owner in ranked)
    assert len(train) + len(data.load("test")) == 6 + 5 * 3
    assert len(train) == 18
    assert "face_factor" in names(data, "train")[0]
    assert train.images[0].equal(pixels(root / names(data, "train")[0]))


def test_a_derived_split_warns_once_that_checkpoints_do_not_belong_to_it(
    bare: Path, tmp_path: Path, caplog: Any
) -> None:
    shutil.copytree(bare, tmp_path / "copy")
    with caplog.at_level(logging.WARNING):
        names(celeba(tmp_path / "copy"), "train")
        names(celeba(tmp_path / "copy"), "train")
    assert caplog.text.count("derived by rule") == 1


def test_lists_of_another_number_of_identities_are_refused(tmp_path: Path) -> None:
    write_celeba(tmp_path / "celeba", lists=True)
    with pytest.raises(
        DataError, match=r"celeba_trainset\.txt lists \d+ identities, data\.private\.identities=3"
    ):
        names(celeba(tmp_path / "celeba", identities=3), "train")


def test_fingerprints_follow_content_not_place(bare: Path, tmp_path: Path) -> None:
    check_fingerprint("celeba", bare, tmp_path / "copy", "private", STEPS, **RULE)


def test_fingerprints_follow_the_split_but_not_what_concerns_the_other_role(tree: Path) -> None:
    private = celeba(tree).fingerprint("private")
    assert celeba(tree, split="lists").fingerprint("private") == private
    derived = celeba(tree, split="derived").fingerprint("private")
    assert derived != private
    assert celeba(tree, split="derived", seed=1).fingerprint("private") != derived
    assert celeba(tree, split="derived", identities=3).fingerprint("private") != derived
    assert celeba(tree, split="derived", public_images=7).fingerprint("private") == derived
    public = celeba(tree, split="derived").fingerprint("public")
    assert celeba(tree, split="derived", public_images=7).fingerprint("public") != public


def test_spoilt_images_are_named(bare: Path, tmp_path: Path) -> None:
    check_spoilt_images("celeba", bare, tmp_path / "copy", "test", **RULE)


def test_everything_missing_is_told_at_once_with_the_expected_tree(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        names(celeba(tmp_path / "empty", split="derived"), "train")
    text = str(error.value)
    assert "missing the folder img_align_celeba or img_align_celeba_png; identity_CelebA.txt" in text
    assert "Expected:\n  <root>/" in text
    with pytest.raises(DataError, match=r"missing the folder .*nowhere itself"):
        names(celeba(tmp_path / "nowhere"), "train")


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("Anno/identity_CelebA.txt", "000002.jpg", "line 32 reads '000002.jpg', expected <image> <identity"),
        ("Anno/identity_CelebA.txt", "000002.jpg x7", "line 32 reads '000002.jpg x7'"),
        ("Anno/identity_CelebA.txt", "000002.png 7", "line 32 lists 000002.png a second time"),
        (
            "celeba_trainset.txt",
            "000002.jpg zero",
            "line 18 reads '000002.jpg zero', expected <image> <label>",
        ),
        ("celeba_trainset.txt", "999999.jpg 6", "uses 5 labels up to 6; they must be 0, 1, ..."),
        ("celeba_testset.txt", "999999.jpg 9", "uses the labels 9, which have no training image"),
        ("celeba_ganset.txt", "a b c", "line 21 reads 'a b c', expected <image>"),
        ("celeba_ganset.txt", "999999.jpg", "1 of the 21 images of the public part are not in"),
    ],
)
def test_wrong_lines_are_told_with_file_and_number(
    tree: Path, tmp_path: Path, file: str, line: str, message: str
) -> None:
    root = copied(tree, tmp_path / "copy")
    count = len((root / "Anno/identity_CelebA.txt").read_text().splitlines())
    with (root / file).open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(DataError) as error:
        names(celeba(root), "public")
    assert message.replace("line 32", f"line {count + 1}") in str(error.value)
    assert Path(file).name in str(error.value) or "public part" in message


def test_an_image_on_two_lists_and_a_private_identity_in_public_are_refused(
    tree: Path, tmp_path: Path
) -> None:
    root = copied(tree, tmp_path / "copy")
    train = (root / "celeba_trainset.txt").read_text()
    public = (root / "celeba_ganset.txt").read_text()
    tested = (root / "celeba_testset.txt").read_text()
    (root / "celeba_testset.txt").write_text(train.splitlines()[0] + "\n")
    with pytest.raises(DataError, match=r"celeba_trainset.txt and .*celeba_testset.txt share \d{6}"):
        names(celeba(root), "train")
    (root / "celeba_testset.txt").write_text(tested)
    (root / "celeba_ganset.txt").write_text(public + train.split()[0] + "\n")
    with pytest.raises(DataError, match="private and public lists share the images"):
        names(celeba(root), "train")
    (root / "celeba_trainset.txt").write_text(train.split("\n", 1)[1])
    with pytest.raises(DataError, match="public list shows private identities"):
        names(celeba(root), "train")


def test_too_few_identities_or_public_images_are_told_with_figures(bare: Path) -> None:
    with pytest.raises(DataError, match="5 identities have at least 5 images, 9 are wanted"):
        names(celeba(bare, identities=9), "train")
    with pytest.raises(DataError, match=r"offers 20 public images .* 1000 are wanted"):
        names(celeba(bare, public_images=1000), "train")


def test_options_that_cannot_be_used_are_refused_at_once(bare: Path) -> None:
    with pytest.raises(ConfigError, match="split=half is unknown"):
        celeba(bare, split="half")
    with pytest.raises(ConfigError, match="least_images=1 must be at least 2"):
        celeba(bare, least_images=1)
    with pytest.raises(ConfigError, match="part 'valid' is unknown"):
        celeba(bare).load("valid")  # type: ignore[arg-type]


def test_transforms_that_do_not_end_at_size_are_refused(bare: Path) -> None:
    transforms = [{"_target_": "midre_exp.data.transforms.Resize", "size": 8}]
    with pytest.raises(DataError, match=r"transforms make 8x8 px where data\.\*\.size=16"):
        celeba(bare, transforms=transforms).load("test")
    assert celeba(bare, transforms=transforms, size=8).load("test").images.shape[2:] == (8, 8)
    with pytest.raises(DataError, match="transforms make 8x8 px"):
        celeba(bare, transforms=transforms).load("test")  # also from the cache
    with pytest.raises(ConfigError, match="has no transforms"):
        celeba(bare, transforms=[])
    aligned = [{"_target_": "midre_exp.data.transforms.AlignedResize", "size": 16}]
    with pytest.raises(ConfigError, match="AlignedResize"):
        celeba(bare, transforms=aligned)
