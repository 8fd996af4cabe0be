"""Which folder is a person, which a split, and which trees are refused with what remedy."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from midre_exp.data.readers.identities import Identities, read_identities
from midre_exp.errors import ConfigError, DataError

ENDINGS = ("png", "jpg")


def plant(root: Path, *names: str) -> Path:
    """A tree of tiny images, or of texts where a name has another ending."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.new("L", (4, 4), len(name) % 250).save(path)
        else:
            path.write_text("text")
    return root


def people(
    root: Path, split: str = "auto", level: int | None = None, labels: Path | None = None
) -> Identities:
    return read_identities(root, ENDINGS, split=split, level=level, labels=labels)


def names(found: Identities) -> dict[str, dict[str, list[str]]]:
    """Names of images by identity and part."""
    return {
        person: {part: [file.name for file in some] for part, some in files.items()}
        for person, files in found.files.items()
    }


def test_folders_in_the_root_are_people_with_their_subfolders(tmp_path: Path) -> None:
    plant(tmp_path, "s2/1.png", "s2/more/2.png", "s10/1.png", "s1/face/only/1.png")
    found = people(tmp_path)
    assert names(found) == {
        "s1": {"": ["s1/face/only/1.png"]},
        "s2": {"": ["s2/1.png", "s2/more/2.png"]},
        "s10": {"": ["s10/1.png"]},
    }
    assert list(found.files) == ["s1", "s2", "s10"]
    assert not found.splits


@pytest.mark.parametrize("train, other, part", [
    ("train", "val", "val"), ("Train", "TEST", "test"), ("training", "valid", "val"),
    ("TRAINING", "Validation", "val"), ("train", "testing", "test"), ("train", "eval", "val"),
])  # fmt: skip
def test_split_folders_are_the_split_and_not_people(
    tmp_path: Path, train: str, other: str, part: str
) -> None:
    plant(tmp_path, f"{train}/anna/1.png", f"{train}/bob/1.png", f"{other}/anna/2.png", f"{other}/zoe/2.png")
    expected = {
        "anna": {"train": [f"{train}/anna/1.png"], part: [f"{other}/anna/2.png"]},
        "bob": {"train": [f"{train}/bob/1.png"]},
        "zoe": {part: [f"{other}/zoe/2.png"]},
    }
    found = people(tmp_path)
    assert names(found) == expected
    assert found.splits == ("train", part)
    assert found.where == "<split>/<identity>"
    pooled = people(tmp_path, split="drawn")
    assert not pooled.splits
    assert [file.name for file in pooled.of("anna")] == sorted([f"{train}/anna/1.png", f"{other}/anna/2.png"])
    assert names(people(tmp_path, split="folders")) == expected


def test_a_split_deeper_down_and_below_each_person_is_found(tmp_path: Path) -> None:
    plant(
        tmp_path / "a",
        "set/images/train/anna/1.png",
        "set/images/test/anna/2.png",
        "set/images/test/bob/1.png",
    )
    found = people(tmp_path / "a")
    assert found.root == tmp_path / "a/set/images"
    assert names(found) == {
        "anna": {"train": ["train/anna/1.png"], "test": ["test/anna/2.png"]},
        "bob": {"test": ["test/bob/1.png"]},
    }
    plant(tmp_path / "b", "anna/train/1.png", "anna/test/2.png", "bob/train/1.png")
    found = people(tmp_path / "b")
    assert found.where == "<identity>/<split>"
    assert names(found) == {
        "anna": {"train": ["anna/train/1.png"], "test": ["anna/test/2.png"]},
        "bob": {"train": ["bob/train/1.png"]},
    }


def test_a_person_called_like_a_split_is_a_person(tmp_path: Path) -> None:
    plant(tmp_path, "val/1.png", "zoe/1.png", "train/1.png")
    assert list(people(tmp_path).files) == ["train", "val", "zoe"]


def test_two_people_called_like_splits_need_a_word(tmp_path: Path) -> None:
    plant(tmp_path, "train/1.png", "test/1.png")
    with pytest.raises(DataError, match=r"test, train without one folder per identity.*data\.labels"):
        people(tmp_path)
    assert list(people(tmp_path, level=1).files) == ["test", "train"]


def test_a_root_one_level_too_high_is_gone_through(tmp_path: Path) -> None:
    plant(tmp_path, "images/person0/1.png", "images/person1/1.png", "README.txt", "stray.png")
    found = people(tmp_path)
    assert found.root == tmp_path / "images"
    assert names(found) == {"person0": {"": ["person0/1.png"]}, "person1": {"": ["person1/1.png"]}}
    assert [file.name for file in found.left_over] == ["stray.png"]
    assert names(found) == names(people(tmp_path / "images"))  # so the same draws and keys


#: Trees by name: the folders and files, and what the sentence must hold ({} is the root).
OPEN = {
    "one folder too high": (
        "images/p0/1 images/p1/1 masks/p0/1 masks/p1/1",
        ["level=1 for 2 identities (images, masks)", "level=2 for 2 identities (p0, p1)", "root={}/images"],
    ),
    "FaceScrub": (
        "actors/faces/al/1 actors/faces/bo/1 actresses/faces/cy/1 actresses/faces/di/1",
        ["level=1 for 2", "level=3 for 4 identities (al, bo, cy and 1 more)", "root={}/actors/faces"],
    ),
    "years": (
        "2019/anna/1 2019/bob/1 2020/anna/1 2020/bob/2",
        ["data.identity_level=2 for 2 identities (anna, bob)"],
    ),
    "mixed": ("anna/1 images/p0/1 images/p1/1", ["beside anna, which hold images", "data.root={}/images"]),
    "blanks": ("my%set/p0/1 my%set/p1/1 other/p0/1 other/p1/1", ["data.root='\"{}/my set\"'"]),
    "flat test folder": ("train/p0/1 train/p1/1 test/1", ["data.root={}/train to use that alone"]),
    "more than a split": (
        "train/p0/1 train/p1/1 val/p0/1 extra/p0/1 extra/p2/1",
        ["data.split=folders", "beside extra", "identity_level=1"],
    ),
    "flat": ("1 2", ["2 images", "data.labels=FILE"]),
}


@pytest.mark.parametrize("tree, remedies", OPEN.values(), ids=OPEN)
def test_a_tree_of_several_readings_is_refused_with_all_of_them(
    tmp_path: Path, tree: str, remedies: list[str]
) -> None:
    plant(tmp_path, *(f"{name.replace('%', ' ')}.png" for name in tree.split()))
    with pytest.raises(DataError) as caught:
        people(tmp_path)
    for remedy in remedies:
        assert remedy.format(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_level_of_identities_can_be_given(tmp_path: Path) -> None:
    plant(tmp_path, "2019/anna/1.png", "2020/anna/2.png", "2020/bob/1.png", "2020/stray.png")
    found = people(tmp_path, level=2)
    assert names(found) == {
        "anna": {"": ["2019/anna/1.png", "2020/anna/2.png"]},
        "bob": {"": ["2020/bob/1.png"]},
    }
    assert [file.name for file in found.left_over] == ["2020/stray.png"]
    assert list(people(tmp_path, level=1).files) == ["2019", "2020"]
    with pytest.raises(DataError, match="identity_level=4"):
        people(tmp_path, level=4)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ConfigError, match="identity_level"):
            people(tmp_path, level=wrong)  # type: ignore[arg-type]


def test_the_level_of_identities_leaves_a_split_above_it(tmp_path: Path) -> None:
    plant(tmp_path, "train/f/anna/1.png", "train/g/bob/1.png", "val/f/anna/2.png", "val/g/bob/2.png")
    found = people(tmp_path, level=3)
    assert found.splits == ("train", "val")
    assert found.where == "<split>/*/<identity>"
    assert not people(tmp_path, level=3, split="drawn").splits


def test_folders_that_must_be_a_split_are_asked_for(tmp_path: Path) -> None:
    plant(tmp_path, "anna/1.png", "bob/1.png")
    with pytest.raises(ConfigError, match="no folders called train"):
        people(tmp_path, split="folders")
    with pytest.raises(ConfigError, match=r"data\.split=half"):
        people(tmp_path, split="half")


def test_others_beside_a_split_can_be_left_out(tmp_path: Path) -> None:
    plant(tmp_path, "train/p0/1.png", "test/p0/1.png", "extra/p2/1.png")
    found = people(tmp_path, split="folders")
    assert list(found.files) == ["p0"]
    assert [file.name for file in found.left_over] == ["extra/p2/1.png"]


def test_thumbnails_and_archives_are_passed_over_and_counted(tmp_path: Path) -> None:
    plant(
        tmp_path, "anna/1.png", "anna/@eaDir/1.png/SYNOPHOTO_THUMB_M.png", "bob/1.png",
        "bob/.thumbnails/1.png", "__MACOSX/anna/1.png", "lost+found/x.png", "anna/Thumbs.db",
        "bob/2.heic", "bob/3.heic", "bob/raw",
    )  # fmt: skip
    found = people(tmp_path)
    assert names(found) == {"anna": {"": ["anna/1.png"]}, "bob": {"": ["bob/1.png"]}}
    assert found.tree.litter == Counter(["@eadir", ".thumbnails", "__macosx", "lost+found", "thumbs.db"])
    assert found.tree.foreign == Counter({"heic": 2, "": 1})


def test_names_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    plant(tmp_path, "Anna/1.png", "anna/1.png", "bob/1.png")
    found = people(tmp_path)
    if len(found.files) == 3:  # not on a disk that takes them for one
        assert found.alike() == [("Anna", "anna")]


def test_links_are_followed_but_never_in_circles(tmp_path: Path) -> None:
    plant(tmp_path / "store", "anna/1.png", "bob/1.png")
    (tmp_path / "tree").mkdir()
    for person in ("anna", "bob"):
        (tmp_path / "tree" / person).symlink_to(tmp_path / "store" / person)
    (tmp_path / "store/anna/up").symlink_to(tmp_path / "store")
    (tmp_path / "tree/all").symlink_to(tmp_path / "tree")
    (tmp_path / "tree/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "tree/self").symlink_to(tmp_path / "tree/self")
    found = people(tmp_path / "tree")
    assert set(found.files) == {"anna", "bob"}
    assert "all" in found.tree.circles
    assert all(image.path.is_file() for person in found.files for image in found.of(person))


def test_links_cannot_multiply_a_tree(tmp_path: Path) -> None:
    plant(tmp_path, *(f"d{depth}/x.png" for depth in range(25)))
    for depth in range(24):
        for twin in "ab":
            (tmp_path / f"d{depth}" / twin).symlink_to(tmp_path / f"d{depth + 1}")
    assert people(tmp_path).tree.top.count < 1000  # 2 ** 25 without a limit


def test_five_thousand_people_are_read_in_seconds(tmp_path: Path) -> None:
    for number in range(5000):
        (tmp_path / f"p{number}").mkdir()
        (tmp_path / f"p{number}" / "1.png").write_bytes(b"x")
    assert len(people(tmp_path).files) == 5000


@pytest.mark.parametrize("text", [
    "path,identity\na/1.png,007\nb/2.png,1e5\nb/3.png,007\n",
    "a/1.png,007\nb/2.png,1e5\nb/3.png,007\n",
    "\ufeffidentity;x;path\r\n007;9;a/1.png\r\n1e5;9;b/2.png\r\n\r\n007;9;b/3.png\r\n",
    "id\tfile\n007\t1.png\n1e5\t2\n007\t3\n",
    "a/1.png 007\nb/2.png 1e5\nb/3.png 007\n",
    "name,label\n./a/1.png,007\nb\\2.png,1e5\n3,007\n",
])  # fmt: skip
def test_a_label_file_says_who_is_who_and_stays_text(tmp_path: Path, text: str) -> None:
    plant(tmp_path, "a/1.png", "b/2.png", "b/3.png", "b/4.png")
    (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
    found = people(tmp_path, labels=tmp_path / "labels.csv")
    assert names(found) == {"007": {"": ["a/1.png", "b/3.png"]}, "1e5": {"": ["b/2.png"]}}
    assert [file.name for file in found.left_over] == ["b/4.png"]


def test_a_label_file_may_tell_the_split(tmp_path: Path) -> None:
    plant(tmp_path, "1.png", "2.png")
    (tmp_path / "labels.csv").write_text("path,identity,split\n1.png,anna,Train\n2.png,anna,valid\n")
    found = people(tmp_path, labels=tmp_path / "labels.csv")
    assert names(found) == {"anna": {"train": ["1.png"], "val": ["2.png"]}}
    plant(tmp_path / "b", "train/1.png", "test/2.png")
    (tmp_path / "b/l.csv").write_text("train/1.png,anna\ntest/2.png,anna\n")
    assert people(tmp_path / "b", labels=tmp_path / "b/l.csv").splits == ("train", "test")
    assert not people(tmp_path / "b", labels=tmp_path / "b/l.csv", split="drawn").splits


@pytest.mark.parametrize("text, words", [
    ("", "holds no lines"),
    ("path,identity\n9.png,anna\n", "names 1 of 1 images that are not below"),
    ("path,identity\n1.png,anna\n1.png,bob\n", "line 3 lists 1.png a second time, as 'bob' after 'anna'"),
    ("path,identity\n1.png\n", "line 2 reads '1.png', expected a path and an identity"),
    ("path,identity\n1.png,\n", "line 2 has no identity"),
    ("picture,who\n1.png,anna\n", "neither an image below"),
    ("path,identity,split\n1.png,anna,some\n", "into the split 'some'"),
    ('path,identity\n"1.png,anna\n', "cannot be read as a csv file"),
])  # fmt: skip
def test_a_label_file_that_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    plant(tmp_path, "1.png", "2.png")
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError) as caught:
        people(tmp_path, labels=tmp_path / "labels.csv")
    assert words in str(caught.value)
    assert "labels.csv" in str(caught.value)


def test_a_bare_name_of_several_images_is_refused(tmp_path: Path) -> None:
    plant(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "labels.csv").write_text("path,identity\n1.png,anna\n")
    with pytest.raises(DataError, match=r"of which there are several: 1\.png"):
        people(tmp_path, labels=tmp_path / "labels.csv")
