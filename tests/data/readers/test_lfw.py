from __future__ import annotations

import logging
from pathlib import Path

import pytest
from PIL import Image

from midre_exp.cards import dataset_cards
from midre_exp.data.readers.fixtures import write_lfw
from midre_exp.data.readers.layout import warn_once
from midre_exp.data.readers.lfw import CROPS, OFFICIAL, SIDE
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build
from midre_exp.plan.keys import node_of
from tests.data.trees import check_fingerprint, check_spoilt_images, copied, dataset, names, pixels

COUNT = {"min_images": 5, "test_share": 0.4}
PUBLIC = {f"Extra_Person_{n}" for n in range(1, 7)}  # with 1, 2, 3, 4, 1, 2 pictures


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lfw") / "tree"
    write_lfw(root, identities=3, images=5)
    return root


def person(name: str) -> str:
    return name.split("/")[-2]


def test_people_with_many_pictures_are_private_and_all_others_public(tree: Path) -> None:
    data = dataset("lfw", tree, **COUNT)
    train, test, public = (data.load(part) for part in ("train", "test", "public"))
    assert train.classes == test.classes == ("Abba_Eban", "Extra_Person_0", "Zoran_Djindjic")
    assert train.labels.bincount().tolist() == [3] * 3 and test.labels.bincount().tolist() == [3, 2, 2]
    assert set(public.classes) == PUBLIC and len(public) == 13
    for part, images in (("train", train), ("test", test), ("public", public)):
        assert [person(name) for name in names(data, part)] == [images.classes[k] for k in images.labels]
    assert not set(names(data, "train")) & set(names(data, "test"))


def test_of_a_private_person_so_many_pictures_are_used_and_the_others_by_nobody(tree: Path) -> None:
    every, four = dataset("lfw", tree, **COUNT), dataset("lfw", tree, **COUNT, max_images=4)
    used = {*names(four, "train"), *names(four, "test")}
    assert len(used) == 12 and used < {*names(every, "train"), *names(every, "test")}
    assert names(four, "public") == names(every, "public")
    other = dataset("lfw", tree, **COUNT, max_images=4, seed=1)
    assert {*names(other, "train"), *names(other, "test")} != used


def test_the_first_pixels_are_those_of_the_square(tree: Path) -> None:
    first = names(dataset("lfw", tree, **COUNT), "train")[0]
    for crop, box in CROPS.items():
        with Image.open(tree / first) as file:
            top, left, side = box or (0, 0, SIDE)
            file.crop((left, top, left + side, top + side)).save(tree.parent / "cut.png")
        images = dataset("lfw", tree, **COUNT, crop=crop).load("train").images
        assert images[0].equal(pixels(tree.parent / "cut.png"))


@pytest.mark.parametrize("layout", ["funneled", "deepfunneled", "sklearn", "torchvision", "kaggle", "flat"])
def test_every_layout_is_read_alike(tree: Path, tmp_path: Path, layout: str) -> None:
    found = {"flat": ".", "sklearn": "lfw_home/lfw_funneled", "torchvision": "lfw-py/lfw_funneled"}
    found |= {"funneled": "lfw_funneled", "deepfunneled": "lfw-deepfunneled"}
    place = tmp_path / "data" / found.get(layout, "lfw-deepfunneled/lfw-deepfunneled")
    copied(tree / "lfw", place)
    (place.parent / "pairs.txt").write_text("10\t300\n")
    beside = place.parent / "lfw_allnames.csv"
    beside.write_text("name,images\n")
    wanted = [name.removeprefix("lfw/") for name in names(dataset("lfw", tree, **COUNT), "test")]
    for root in (tmp_path / "data", place):
        prefix = "" if root == place else f"{place.relative_to(root).as_posix()}/".removeprefix("./")
        assert list(names(dataset("lfw", root, **COUNT), "test")) == [prefix + name for name in wanted]


def test_what_get_and_prepare_leave_is_found_below_the_folder_of_all_data(tree: Path, tmp_path: Path) -> None:
    copied(tree, tmp_path / "data" / "lfw")
    (tmp_path / "data" / "celeba" / "Img").mkdir(parents=True)
    assert names(dataset("lfw", tmp_path / "data", **COUNT), "train")[0].startswith("lfw/lfw/Abba_Eban/")


def test_a_folder_without_people_is_refused_with_the_layouts(tmp_path: Path) -> None:
    (tmp_path / "lfw" / "Anna").mkdir(parents=True)
    (tmp_path / "lfw" / "Anna" / "1.jpg").write_bytes(b"")
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=r"(?s)LFW is incomplete in .*missing.*lfw_funneled"):
            dataset("lfw", root, **COUNT).list_files("train")


def test_a_smaller_copy_is_told_and_used(tree: Path, caplog: pytest.LogCaptureFixture) -> None:
    warn_once.cache_clear()
    data = dataset("lfw", tree, **COUNT)
    with caplog.at_level(logging.WARNING):
        data.load("train")
    (told,) = data.alarms("private")
    assert data.alarms("public") == dataset("lfw", tree, **COUNT, pool="pretraining").alarms("private") == []
    assert told == (
        "this copy of LFW has 29 pictures of 9 people, the official set 13,233 pictures of 5,749 people"
    )
    assert [record.message for record in caplog.records] == [f"{told} ({tree})"]
    card = dataset_cards()["lfw"]
    assert (card.images["all"], card.identities) == OFFICIAL


def test_the_whole_set_is_told_nothing(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("midre_exp.data.readers.lfw.OFFICIAL", (29, 9))
    assert dataset("lfw", tree, **COUNT).alarms("private") == []


def test_private_people_may_be_named(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "who.txt").write_text("Zoran_Djindjic\nExtra_Person_2\n")
    for named in (["Zoran_Djindjic", "Extra_Person_2"], str(tmp_path / "who.txt")):
        data = dataset("lfw", tree, **COUNT, private=named)
        assert data.class_names() == ("Extra_Person_2", "Zoran_Djindjic")
        assert "Abba_Eban" in data.load("public").classes
    with pytest.raises(ConfigError, match=r"private_identities names Bob, but .* holds Abba_Eban"):
        dataset("lfw", tree, **COUNT, private=["Bob"]).list_files("train")
    with pytest.raises(ConfigError, match="names Extra_Person_1, who have one picture"):
        dataset("lfw", tree, **COUNT, private=["Extra_Person_1", "Abba_Eban"]).list_files("train")


def test_those_to_pretrain_on_are_public_people_with_enough_pictures(tree: Path) -> None:
    pool = dataset("lfw", tree, **COUNT, pool="pretraining", pretraining_min_images=3)
    train, test = pool.load("train"), pool.load("test")
    assert train.classes == ("Extra_Person_3", "Extra_Person_4") and pool.num_identities() == 2
    assert train.labels.tolist() == [0, 1, 1] and test.labels.tolist() == [0, 0, 1, 1]
    private = dataset("lfw", tree, **COUNT)
    assert pool.fingerprint("private") != private.fingerprint("private")
    assert pool.fingerprint("public") == private.fingerprint("public")
    with pytest.raises(DataError, match=r"nobody to pre-train on: 0 of the 6 public .*most are 4"):
        dataset("lfw", tree, **COUNT, pool="pretraining", pretraining_min_images=9).load("train")


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"crop": "round"}, ConfigError, "crop=round is unknown; use face, tight, none"),
        ({"pool": "publik"}, ConfigError, "pool=publik is unknown"),
        ({"test_share": 1.0}, ConfigError, "test_share=1.0 must lie between 0 and 1"),
        ({"min_images": 1}, ConfigError, "min_images=1 must be at least 2"),
        ({"min_images": 7}, DataError, r"0 of the 9 people .*min_images=7 pictures \(the most are 6\)"),
    ],
)
def test_mistakes_are_told(tree: Path, changes: dict[str, object], error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        dataset("lfw", tree, **{**COUNT, **changes}).list_files("train")


def test_pictures_that_are_cut_already_are_refused_unless_nothing_is_cut(tree: Path, tmp_path: Path) -> None:
    root = copied(tree, tmp_path / "copy")
    for file in root.rglob("*.jpg"):
        with Image.open(file) as picture:
            picture.resize((64, 64)).save(file)
    with pytest.raises(DataError, match=r"has 64x64 px, the pictures of LFW have 250x250.*crop=none"):
        dataset("lfw", root, **COUNT).list_files("train")
    assert dataset("lfw", root, **COUNT, crop="none").load("train").images.shape[-1] == 16


def test_fingerprint(tree: Path, tmp_path: Path) -> None:
    stretch = [{"_target_": "midre_exp.data.transforms.CenterCrop", "_partial_": True}]
    for role in ("private", "public"):
        check_fingerprint("lfw", tree, tmp_path / role, role, stretch, **COUNT)


def test_spoilt_images_are_named(tree: Path, tmp_path: Path) -> None:
    check_spoilt_images("lfw", tree, tmp_path / "copy", "train", **COUNT)


def test_the_choice_of_data_reads_all_roles(tree: Path, tmp_path: Path) -> None:
    with packaged_configs():
        data = settings_of(
            ["data=lfw", f"data.root={tree}", "data.private.min_images=5", f"paths.store={tmp_path}"]
        )["data"]
    assert data["public"] == data["private"]
    read = build({**node_of(data, "pretraining"), "size": 16})
    assert set(read.load("train").classes) == {"Extra_Person_3", "Extra_Person_4"}
