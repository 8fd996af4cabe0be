"""What happens to files that cannot be read, and to files that are there twice."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import pytest

from midre_exp.data.duplicates import private_duplicates, public_duplicates
from midre_exp.data.readers import unreadable
from midre_exp.data.readers.fixtures import write_facescrub
from midre_exp.data.readers.folder import FaceFolder
from midre_exp.errors import ConfigError, DataError
from midre_exp.store.data import artifacts_of, compare
from midre_exp.store.store import Store
from tests.data.readers.test_folder import faces, make_tree
from tests.data.trees import dataset, names


@pytest.fixture
def scrub(tmp_path: Path) -> Path:
    write_facescrub(tmp_path / "scrub", layout="blanks")
    return tmp_path / "scrub"


def facescrub(root: Path, **changes: Any) -> Any:
    return dataset("facescrub", root, expected_identities=None, **changes)


def spoil(root: Path) -> list[str]:
    """One file of each part made unreadable; their names."""
    data = facescrub(root)
    victims = [names(data, "train")[0], names(data, "test")[0]]
    (root / victims[0]).write_bytes(b"<html>gone</html>")
    (root / victims[1]).write_bytes((root / victims[1]).read_bytes()[:200])
    return victims


@pytest.mark.parametrize("part", ["train", "test"])
def test_refuse_names_the_files_of_both_parts_with_a_list(scrub: Path, part: Any) -> None:
    victims = spoil(scrub)
    data = facescrub(scrub)
    with pytest.raises(DataError, match=r"FaceScrub .private.: 2 of .* cannot be read") as error:
        data.load(part)
    assert "unreadable=leave_out" in str(error.value)
    listed = scrub.parent / "store" / ".lists" / "unreadable-facescrub-private.txt"
    assert str(listed) in str(error.value)
    assert {line.split("\t")[0] for line in listed.read_text().splitlines()} == set(victims)
    assert "a web page" in listed.read_text()


def test_leave_out_draws_the_split_over_the_others(
    scrub: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {part: len(names(facescrub(scrub), part)) for part in ("train", "test")}
    victims = spoil(scrub)
    data = facescrub(scrub, unreadable="leave_out")
    train, test = data.load("train"), data.load("test")
    assert len(train) + len(test) == sum(whole.values()) - 2
    assert data.left_out("private") == 2
    assert "left out 2 of" in caplog.text
    assert train.classes == test.classes
    rest = scrub.parent / "rest"  # as if they had never been there
    shutil.copytree(scrub, rest)
    for name in victims:
        (rest / name).unlink()
    assert facescrub(rest).load("train").images.equal(train.images)
    looked: list[Path] = []  # what is known of a content is not looked at again
    monkeypatch.setattr(unreadable, "open_rgb", lambda path, official: looked.append(path))
    assert facescrub(scrub, unreadable="leave_out").left_out("private") == 2
    assert looked == []
    with pytest.raises(ConfigError, match="unreadable=skip is unknown; use refuse or leave_out"):
        facescrub(scrub, unreadable="skip")


def test_a_repaired_file_is_another_fingerprint(scrub: Path) -> None:
    for policy in ("refuse", "leave_out"):
        whole = facescrub(scrub, unreadable=policy).fingerprint("private")
        victim = names(facescrub(scrub), "train")[0]
        content = (scrub / victim).read_bytes()
        (scrub / victim).write_bytes(content[:-400] + bytes(400))  # of the same size
        assert facescrub(scrub, unreadable=policy).fingerprint("private") != whole
        (scrub / victim).write_bytes(content)
        assert facescrub(scrub, unreadable=policy).fingerprint("private") == whole


@pytest.mark.parametrize("ending", ["bmp", "pgm", "ppm"])
def test_a_replaced_picture_of_the_same_size_is_another_fingerprint(tmp_path: Path, ending: str) -> None:
    from PIL import Image

    for person in range(4):
        for number in range(3):
            path = tmp_path / "faces" / f"s{person}" / f"{number}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (9, 9), 10 * person + number).save(path)
    roles = ("private", "public")
    before = [faces(tmp_path / "faces").fingerprint(role) for role in roles]
    sizes = path.stat().st_size
    Image.new("L", (9, 9), 200).save(path)
    assert path.stat().st_size == sizes
    after = [faces(tmp_path / "faces").fingerprint(role) for role in roles]
    assert [one == other for one, other in zip(before, after, strict=True)].count(False) == 1
    Image.new("L", (9, 9), 32).save(path)
    assert [faces(tmp_path / "faces").fingerprint(role) for role in roles] == before


def test_a_folder_can_refuse_and_counts_what_it_leaves_out(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "faces")
    (root / "s1" / "1.png").write_bytes(b"")
    assert faces(root, private=["s1", "s2"]).left_out("private") == 1
    assert faces(root, private=["s1", "s2"]).left_out("public") == 0
    refusing = faces(root, private=["s1", "s2"], unreadable="refuse", store=tmp_path / "store")
    with pytest.raises(DataError, match=r"faces .private.: 1 of 20 images cannot be read: s1/1.png .empty."):
        refusing.load("train")
    (root / "s1" / "1.png").unlink()
    (root / "s1" / "1.png").symlink_to(root / "nowhere")
    dangling = faces(root, private=["s1", "s2"]).fingerprint("private")
    (root / "nowhere").write_bytes((root / "s1" / "2.png").read_bytes())
    assert faces(root, private=["s1", "s2"]).fingerprint("private") != dangling


def doubled(root: Path) -> FaceFolder:
    """People with copies: within one, across two private ones, from private to public."""
    make_tree(root)
    shutil.copy(root / "s1" / "1.png", root / "s1" / "again.png")
    shutil.copy(root / "s1" / "2.png", root / "s2" / "other.png")
    shutil.copy(root / "s1" / "3.png", root / "s9" / "leak.png")
    return faces(root, private=["s1", "s2"])


def test_duplicates_are_counted_and_listed(tmp_path: Path) -> None:
    data = doubled(tmp_path / "faces")
    said = private_duplicates(data, tmp_path / "store")
    assert said[0].startswith("folder: 1 private image(s) have the content of another image of the same")
    assert said[1].startswith("folder: 1 private image(s) stand under several identities")
    listed = (tmp_path / "store/.lists/duplicates-folder-private.txt").read_text()
    assert "s1/again.png\ts1/1.png" in listed
    leaked = public_duplicates(data, data, tmp_path / "store")
    assert leaked == ["folder: 1 private image(s) are also public images of folder"]
    data.duplicates = "refuse"
    with pytest.raises(DataError, match=r"1 private image.s. have the content of .*; remove the copies"):
        private_duplicates(data, None)
    with pytest.raises(DataError, match=r"also public images of folder, all listed in"):
        public_duplicates(data, data, None)
    assert "s1/3.png\ts9/leak.png" in (tmp_path / "store/.lists/duplicates-folder-public.txt").read_text()
    clean = faces(make_tree(tmp_path / "clean"), private=["s1", "s2"])
    assert private_duplicates(clean, None) + public_duplicates(clean, clean, None) == []


def test_a_test_image_that_was_trained_on_is_told(tmp_path: Path) -> None:
    data = faces(make_tree(tmp_path / "faces", identities=3), private=["s1"], test_share=0.5)
    files = data.source_files("private")
    tested, trained = (next(f.name for f in files if f.part == part) for part in ("test", "train"))
    shutil.copy(tmp_path / "faces" / trained, tmp_path / "faces" / tested)
    again = faces(tmp_path / "faces", private=["s1"], test_share=0.5)
    assert any(
        "test image(s) have the content of a training image" in said
        for said in private_duplicates(again, None)
    )


def test_verify_data_names_what_changed_and_what_is_missing(tmp_path: Path) -> None:
    root, store = make_tree(tmp_path / "faces"), tmp_path / "store"
    data = faces(root, private=["s1", "s2"], store=store)
    data.load("train")
    data.load("public")
    found = {each.title: each for each in compare(Store(store))}
    assert found.keys() == {"folder (private)", "folder (public)"}
    assert all(each.is_same for each in found.values())
    assert found["folder (private)"].count == 20
    assert found["folder (private)"].files == data.fingerprint("private")["files"]
    assert artifacts_of(Store(store)) == {}
    (root / "s1" / "3.png").write_bytes((root / "s1" / "4.png").read_bytes())
    (root / "s2" / "4.png").unlink()
    (root / "s1" / "new.png").write_bytes(b"")  # nothing was made from it
    private = next(each for each in compare(Store(store)) if each.title == "folder (private)")
    assert (private.changed, private.missing) == (("s1/3.png",), ("s2/4.png",))


def test_a_list_without_a_store_lies_among_temporary_files(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    with caplog.at_level(logging.WARNING):
        unreadable.warn_left_out("X", 3, {"a": "empty"}, None)
    place = unreadable.write_list("a b", ["x"], None)
    assert place.read_text() == "x\n"
    assert "all are listed in" in caplog.text
