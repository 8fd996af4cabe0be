from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from midre_exp.data.readers.fixtures import write_vggface2
from midre_exp.data.readers.vggface2 import enlarged
from midre_exp.errors import ConfigError, DataError
from tests.data.trees import check_fingerprint, check_spoilt_images, copied, dataset, names, pixels

COUNT = {"expected_identities": 3, "expected_public_identities": 3}
STRETCH = [{"_target_": "midre_exp.data.transforms.Resize", "_partial_": True}]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("vggface2") / "tree"
    write_vggface2(root, identities=3, images=10)
    return root


def identity_of(name: str) -> str:
    return name.split("/")[-2]


def test_labels_are_ranks_of_train_folders_and_test_folders_are_public(tree: Path) -> None:
    data = dataset("vggface2", tree, **COUNT)
    train, test, public = (data.load(part) for part in ("train", "test", "public"))
    assert train.classes == test.classes == ("n000002", "n000004", "n000006")
    assert public.classes == ("n000001", "n000003", "n000005")
    assert train.labels.bincount().tolist() == [9] * 3
    assert test.labels.bincount().tolist() == [1] * 3
    assert public.labels.tolist() == [0] * 10 + [1] * 10 + [2] * 10
    for part, images in (("train", train), ("test", test), ("public", public)):
        assert [identity_of(name) for name in names(data, part)] == [images.classes[k] for k in images.labels]
    assert not set(names(data, "train")) & set(names(data, "test"))
    assert not {identity_of(n) for n in names(data, "train")} & {
        identity_of(n) for n in names(data, "public")
    }


def test_fewer_identities_keep_labels_and_held_out_images(tree: Path) -> None:
    every, two = dataset("vggface2", tree, **COUNT), dataset("vggface2", tree, **COUNT, identities=2)
    assert two.load("train").classes == ("n000002", "n000004")
    assert names(two, "test") == names(every, "test")[:2]


def test_the_held_out_share_and_draw_are_options(tree: Path) -> None:
    half = dataset("vggface2", tree, **COUNT, test_share=0.5)
    assert half.load("test").labels.bincount().tolist() == [5] * 3
    other = dataset("vggface2", tree, **COUNT, test_share=0.5, seed=1)
    assert names(half, "test") != names(other, "test")


def test_a_tree_one_folder_deeper_is_split_alike(tree: Path, tmp_path: Path) -> None:
    copied(tree, tmp_path / "deep" / "vggface2")
    data = dataset("vggface2", tmp_path / "deep", **COUNT)
    assert names(data, "test") == tuple(
        f"vggface2/{n}" for n in names(dataset("vggface2", tree, **COUNT), "test")
    )


def test_a_box_is_enlarged_about_its_centre() -> None:
    assert enlarged(10, 20, 100, 50, 0.0) == (10, 20, 110, 70)
    assert enlarged(10, 20, 100, 60, 0.3) == (-5, 11, 125, 89)


@pytest.mark.parametrize("place", ["bb_landmark", ".", "meta/bb_landmark"])
def test_the_detectors_box_is_cut_out_on_request(tree: Path, tmp_path: Path, place: str) -> None:
    root = copied(tree, tmp_path / "copy")
    (root / "bb_landmark").rename(tmp_path / "boxes")
    (root / place).mkdir(parents=True, exist_ok=True)
    for file in (tmp_path / "boxes").iterdir():
        file.rename(root / place / file.name)
    for part in ("train", "public"):
        data = dataset("vggface2", root, **COUNT, box_margin=0.3, transforms=STRETCH)
        first = names(data, part)[0]
        with Image.open(root / first) as file:
            width, height = file.size
            file.crop(enlarged(width // 4, height // 4, width // 2, height // 2, 0.3)).save(
                tmp_path / "cut.png"
            )
        assert data.load(part).images[0].equal(pixels(tmp_path / "cut.png"))


def test_boxes_that_are_missing_wrong_or_double_are_told(tree: Path, tmp_path: Path) -> None:
    root = copied(tree, tmp_path / "copy")
    csv = root / "bb_landmark" / "loose_bb_train.csv"
    text = csv.read_text()

    def error() -> str:
        with pytest.raises(DataError) as caught:
            names(dataset("vggface2", root, **COUNT, box_margin=0.3), "train")
        return str(caught.value)

    csv.write_text("\n".join(line for line in text.split("\n") if "n000004/0003_01" not in line))
    assert "loose_bb_train.csv has no box of 1 images: n000004/0003_01" in error()
    csv.write_text(text + '"n000004/0099_01",1,2,3\n')
    assert "loose_bb_train.csv line 32 reads 'n000004/0099_01 1 2 3'" in error()
    csv.write_text(text + '"n000004/0099_01",1,2,3,0\n')
    assert "line 32" in error()
    csv.write_text(text + '"n000004/0003_01",1,2,3,4\n')
    assert "lists n000004/0003_01 a second time" in error()
    csv.unlink()
    assert "missing bb_landmark/loose_bb_train.csv, which data.*.box_margin=0.3 needs" in error()
    assert len(dataset("vggface2", root, **COUNT).load("train")) == 27  # whole images need no boxes


def test_fingerprints_follow_content_not_place(tree: Path, tmp_path: Path) -> None:
    check_fingerprint("vggface2", tree, tmp_path / "private", "private", STRETCH, **COUNT)
    check_fingerprint("vggface2", tree, tmp_path / "public", "public", STRETCH, **COUNT)


def test_fingerprints_follow_the_options_of_their_role_only(tree: Path, tmp_path: Path) -> None:
    def prints(**changes: object) -> tuple[dict[str, object], dict[str, object]]:
        data = dataset("vggface2", tree, **{**COUNT, **changes})
        return data.fingerprint("private"), data.fingerprint("public")

    private, public = prints()
    for change in ({"identities": 2}, {"test_share": 0.2}, {"seed": 1}):
        assert prints(**change)[0] != private
        assert prints(**change)[1] == public
    assert prints(box_margin=0.3) != prints(box_margin=0.4) != (private, public)
    root = copied(tree, tmp_path / "copy")
    (root / "test").rename(tmp_path / "away")
    assert dataset("vggface2", root, **COUNT).fingerprint("private") == private


def test_spoilt_images_are_named(tree: Path, tmp_path: Path) -> None:
    check_spoilt_images("vggface2", tree, tmp_path / "copy", "public", **COUNT)


def test_malformed_trees_are_told(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"has 3 identities in {tree / 'train'}, expected 8631"):
        names(dataset("vggface2", tree), "train")
    with pytest.raises(DataError, match=f"has 3 identities in {tree / 'test'}, expected 500"):
        names(dataset("vggface2", tree, expected_identities=3), "public")
    with pytest.raises(DataError, match=r"has 3 identities in .*identities=4 are wanted"):
        names(dataset("vggface2", tree, **COUNT, identities=4), "train")
    root, loose = (
        copied(tree, tmp_path / "copy"),
        {"expected_identities": None, "expected_public_identities": None},
    )
    copied(root / "train/n000002", root / "test/n000002")
    with pytest.raises(DataError, match="has n000002 in train and test"):
        names(dataset("vggface2", root, **loose), "public")
    (root / "train/n000099").mkdir()
    with pytest.raises(DataError, match="train has no image of n000099"):
        names(dataset("vggface2", root, **loose), "train")
    (root / "train").rename(tmp_path / "away")
    with pytest.raises(DataError, match=r"missing the folder train; .*(\n.*)*8,631 identities"):
        names(dataset("vggface2", root, **loose), "train")


@pytest.mark.parametrize(
    ("key", "value"), [("test_share", 0), ("test_share", 1), ("identities", 0), ("box_margin", -0.1)]
)
def test_options_that_cannot_be_used_are_refused(tree: Path, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{key}={value} must"):
        dataset("vggface2", tree, **{key: value})
