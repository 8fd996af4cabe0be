from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from midre_exp.data.readers.fixtures import write_facescrub
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import CENTERED, check_fingerprint, check_spoilt_images, copied, dataset, names, pixels

PEOPLE = (  # actors, then actresses, each sorted with underscores for blanks: "-" before "_"
    "Jean-Claude_Van_Damme",
    "Jean_Reno",
    "Stellan_Skarsgård",
    "Adrianne_León",
    "Zooey_Deschanel",
)
COUNT = {"expected_identities": 5}


@pytest.fixture(scope="module", params=["blanks", "underscores", "flat"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("facescrub") / request.param
    write_facescrub(root, layout=request.param)
    return root


@pytest.fixture(scope="module")
def blanks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("facescrub") / "tree"
    write_facescrub(root)
    return root


def identity_of(name: str) -> str:
    """Who is on a listed file, by its path alone."""
    return next(p for p in PEOPLE if f"/{p}/" in f"/{name.replace(' ', '_')}")


def test_every_layout_gives_the_same_identities_and_counts(tree: Path) -> None:
    data = dataset("facescrub", tree, **COUNT)
    train, test = data.load("train"), data.load("test")
    assert train.classes == test.classes == PEOPLE
    assert (len(train), len(test)) == (18, 2)
    assert train.images.shape == (18, 3, 16, 16)
    listed = names(data, "train") + names(data, "test")
    assert len(set(listed)) == 20
    labels = train.labels.tolist() + test.labels.tolist()
    assert [identity_of(name) for name in listed] == [PEOPLE[label] for label in labels]
    assert train.images[3].equal(pixels(tree / names(data, "train")[3]))


def test_the_split_permutes_images_in_order_of_label_and_name(blanks: Path) -> None:
    import numpy as np

    data = dataset("facescrub", blanks, **COUNT)
    every = sorted(
        names(data, "train") + names(data, "test"), key=lambda name: (PEOPLE.index(identity_of(name)), name)
    )
    order = np.random.RandomState(42).permutation(20)
    assert names(data, "train") == tuple(every[row] for row in order[:18])
    assert names(data, "test") == tuple(every[row] for row in order[18:])


def test_a_tree_one_folder_deeper_or_in_decomposed_unicode_is_read(blanks: Path, tmp_path: Path) -> None:
    root = tmp_path / "deep"
    copied(blanks, root / "facescrub")
    for folder in sorted((root / "facescrub").glob("*/faces/*")):
        folder.rename(folder.with_name(unicodedata.normalize("NFD", folder.name)))
    assert dataset("facescrub", root, **COUNT).load("train").classes == PEOPLE


def test_the_first_identities_are_private_and_the_others_public(tree: Path) -> None:
    data = dataset("facescrub", tree, **COUNT, identities=2)
    public = data.load("public")
    assert data.load("train").classes == PEOPLE[:2]
    assert public.classes == PEOPLE[2:]
    assert public.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    private = {identity_of(name) for part in ("train", "test") for name in names(data, part)}  # type: ignore[arg-type]
    assert not private & {identity_of(name) for name in names(data, "public")}


def test_all_identities_can_be_public(blanks: Path) -> None:
    data = dataset("facescrub_lowres", blanks, **COUNT, identities=0, size=64)
    assert data.load("public").images.shape == (20, 3, 64, 64)
    with pytest.raises(ConfigError, match="identities=0 leaves FaceScrub no train part"):
        data.load("train")
    with pytest.raises(ConfigError, match="all identities of FaceScrub are private"):
        dataset("facescrub", blanks, **COUNT).fingerprint("public")


def test_fingerprints_follow_content_not_place(tree: Path, tmp_path: Path) -> None:
    check_fingerprint("facescrub", tree, tmp_path / "copy", "private", CENTERED, **COUNT)


def test_fingerprints_follow_the_split(blanks: Path) -> None:
    prints = [dataset("facescrub", blanks, **COUNT, identities=k).fingerprint("private") for k in (2, 3, 5)]
    assert prints[0] != prints[1] != prints[2]
    assert prints[2] == dataset("facescrub", blanks, expected_identities=None).fingerprint("private")


def test_spoilt_images_are_named(blanks: Path, tmp_path: Path) -> None:
    check_spoilt_images("facescrub", blanks, tmp_path / "copy", "train", **COUNT)


def test_another_number_of_identities_is_told_with_the_folder(blanks: Path) -> None:
    with pytest.raises(DataError, match=f"5 identities in {blanks}, expected 530; complete the download"):
        names(dataset("facescrub", blanks), "train")
    with pytest.raises(DataError, match=r"has 5 identities in .*identities=6 are wanted"):
        names(dataset("facescrub", blanks, **COUNT, identities=6), "train")


def test_one_identity_under_two_names_is_refused(blanks: Path, tmp_path: Path) -> None:
    root = copied(blanks, tmp_path / "copy")
    copied(root / "actors/faces/Jean Reno", root / "actors/faces/Jean_Reno")
    with pytest.raises(DataError, match="'Jean Reno' and 'Jean_Reno', one person under two names"):
        names(dataset("facescrub", root, expected_identities=None), "train")
    copied(root / "actors/faces/Jean Reno", root / "actresses/faces/Jean Reno")
    (root / "actors/faces/Jean_Reno").rename(tmp_path / "away")
    with pytest.raises(DataError, match="Jean_Reno among actors and actresses"):
        names(dataset("facescrub", root, expected_identities=None), "train")


def test_missing_folders_and_identities_without_faces_are_told(blanks: Path, tmp_path: Path) -> None:
    root = copied(blanks, tmp_path / "copy")
    (root / "actors/faces/Nobody Here").mkdir()
    (root / "actors/faces/Nobody Here/moving.mov").write_bytes(b"ftypqt")
    with pytest.raises(DataError, match="has no face of Nobody_Here"):
        names(dataset("facescrub", root, expected_identities=None), "train")
    (root / "actresses").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"missing actresses/faces; put the official download there") as error:
        names(dataset("facescrub", root, **COUNT), "train")
    assert "<Name>/face/<sha1>.jpg" in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="missing actors/faces; actresses/faces"):
        names(dataset("facescrub", tmp_path / "empty"), "train")


def test_the_flat_layout_needs_lists_that_know_everybody(tmp_path: Path) -> None:
    root = tmp_path / "flat"
    write_facescrub(root, layout="flat")
    data = {"name": "facescrub", "root": root, "expected_identities": None}
    actors, actresses = root / "facescrub_actors.txt", root / "facescrub_actresses.txt"
    text = actors.read_text()

    actors.rename(root / "actors_users_normal_bbox.txt")  # the other release's name
    assert dataset(**data).load("train").classes == PEOPLE
    (root / "actors_users_normal_bbox.txt").unlink()
    with pytest.raises(DataError, match=r"missing facescrub_actors.txt or actors_users_normal_bbox.txt"):
        names(dataset(**data), "train")

    actors.write_text("\n".join(line for line in text.split("\n") if "Reno" not in line))
    with pytest.raises(DataError, match="do not name Jean_Reno"):
        names(dataset(**data), "train")
    actors.write_text(text + "Zooey Deschanel\t1\t2\thttp://x\t1,2,3,4\tff\n")
    with pytest.raises(DataError, match="both name Zooey_Deschanel"):
        names(dataset(**data), "train")
    actors.write_text(text + "Zooey Deschanel 1 2 http://x\n")
    with pytest.raises(DataError, match=r"facescrub_actors.txt line 14 reads .*between tabs"):
        names(dataset(**data), "train")
    actors.write_text(text.replace("\n", "\r\n"))
    assert dataset(**data).load("train").classes == PEOPLE
    actresses.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"facescrub_actresses.txt cannot be read as a text file"):
        names(dataset(**data), "train")
