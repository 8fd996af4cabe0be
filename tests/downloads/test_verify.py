"""Verifying small data sets in official layouts, whole and damaged in every way."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from midre_exp.data.readers import fixtures
from midre_exp.data.readers.file_list import FileList
from midre_exp.downloads.splits import split_sums
from midre_exp.downloads.verify import main
from tests.data.trees import copied, dataset
from tests.downloads.own_cards import md5, own_card

RULE = {"identities": 3, "least_images": 5, "public_images": 13}
PARTS = ("train", "test", "public")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a CelebA, and the card of just this one."""
    folder = tmp_path_factory.mktemp("verify")
    fixtures.write_celeba(folder / "celeba", identities=3, images=5, lists=True)
    data = dataset("celeba", folder / "celeba", **RULE)
    lists = {part: data.file_list(part) for part in PARTS}
    own_card(
        folder / "conf",
        "small",
        card="celeba",
        reader="celeba",
        expect=RULE,
        images={part: len(files.names) for part, files in lists.items()},
        md5={"identity_CelebA.txt": md5(folder / "celeba" / "Anno" / "identity_CelebA.txt")},
        splits=split_sums("lists", lists),
    )
    return folder


@pytest.fixture
def celeba(whole: Path, tmp_path: Path) -> Path:
    return copied(whole / "celeba", tmp_path / "celeba")


@pytest.fixture
def verified(whole: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str]]]:
    def run(root: Path, *more: str, name: str = "small", conf: Path | None = None) -> tuple[int, list[str]]:
        code = main([name, "--root", str(root), "--config-dir", str(conf or whole / "conf"), *more])
        captured = capsys.readouterr()
        assert captured.err == "" or code == 2
        return code, captured.out.splitlines()

    return run


def damage(lines: list[str]) -> list[str]:
    return [line.removeprefix("damage  ") for line in lines if line.startswith("damage")]


def test_a_whole_set_is_told_in_a_line_for_each_thing(celeba, verified):
    code, lines = verified(celeba)
    assert code == 0 and damage(lines) == []
    assert lines == [
        "ok      Anno/identity_CelebA.txt: the publishers' file (MD5)",
        "ok      small train: 13 images of 3 identities",
        "ok      small test: 3 images of 3 identities",
        "ok      small public: 13 images",
        "ok      small train split: image by image the literature's",
        "ok      small test split: image by image the literature's",
        "ok      small public split: image by image the literature's",
        "ok      small identities: 3: the lowest numbers with at least 5 images, one a label",
        "ok      pictures: 34 decoded",
        f"CelebA, aligned in {celeba}: nothing damaged",
    ]


def image(root: Path, number: int) -> Path:
    return sorted((root / "Img" / "img_align_celeba").iterdir())[number]


def cut_off(root: Path) -> str:
    path = image(root, 2)
    path.write_bytes(path.read_bytes()[:900])
    return f"{path.relative_to(root)}: truncated"


def emptied(root: Path) -> str:
    image(root, 2).write_bytes(b"")
    return f"{image(root, 2).relative_to(root)}: empty"


def resized(root: Path) -> str:
    name = (root / "celeba_trainset.txt").read_text().split()[0]
    path = root / "Img" / "img_align_celeba" / name
    Image.new("RGB", (178, 217)).save(path)
    return f"{path.relative_to(root)}: 178x217 px, not 178x218"


def web_page(root: Path) -> str:
    image(root, 2).write_text("<html>quota</html>")
    return f"{image(root, 2).relative_to(root)}: a web page"


def without_an_unused_image(root: Path) -> str:
    used = "".join((root / f"celeba_{part}set.txt").read_text() for part in ("train", "test", "gan"))
    path = next(p for p in (root / "Img" / "img_align_celeba").iterdir() if p.name not in used)
    path.unlink()
    return f"small images: 1 of 34 are not here: {path.stem}"


def without_a_used_image(root: Path) -> str:
    name = (root / "celeba_testset.txt").read_text().split()[0]
    (root / "Img" / "img_align_celeba" / name).unlink()
    return "small test: CelebA: 1 of the 3 images of the test part are not in"


def other_identity(root: Path) -> str:
    path = root / "Anno" / "identity_CelebA.txt"
    path.write_bytes(path.read_bytes().replace(b" 17\r\n", b" 18\r\n", 1))
    return "small identities: the labels 1 show several people or nobody known"


def swapped_labels(root: Path) -> str:
    for part in ("train", "test"):
        path = root / f"celeba_{part}set.txt"
        path.write_text(
            path.read_text().replace(" 0\n", " x\n").replace(" 1\n", " 0\n").replace(" x\n", " 1\n")
        )
    return "small identities: the labels 0, 1 are not the people of the rule"


def another_split(root: Path) -> str:
    path = root / "celeba_trainset.txt"
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([*others, first]) + "\n")
    return "small train split: not the literature's: images or labels differ"


def shorter_list(root: Path) -> str:
    path = root / "celeba_ganset.txt"
    path.write_text("\n".join(path.read_text().splitlines()[1:]) + "\n")
    return "small public: 12 images, the official set has 13"


def without_folder(root: Path) -> str:
    (root / "Img").rename(root / ".hidden")
    return "small train: CelebA is incomplete in"


@pytest.mark.parametrize(
    "spoil",
    [
        cut_off,
        emptied,
        resized,
        web_page,
        without_an_unused_image,
        without_a_used_image,
        other_identity,
        swapped_labels,
        another_split,
        shorter_list,
        without_folder,
    ],
)
def test_every_damage_has_its_line_and_exit_code_1(spoil, celeba, verified):
    told = spoil(celeba)
    code, lines = verified(celeba)
    assert code == 1
    assert any(line.startswith(told) for line in damage(lines)), lines
    assert all("\n" not in line for line in lines)


def test_rows_in_another_form_are_no_damage(celeba, verified):
    path = celeba / "Anno" / "identity_CelebA.txt"
    path.write_text("image identity\n" + path.read_text().replace("\r\n", "\n").replace(" ", "  "))
    code, lines = verified(celeba)
    assert code == 0
    assert lines[0].startswith("note    Anno/identity_CelebA.txt: the publishers' rows in another form")


def test_without_lists_the_split_is_told_as_derived(celeba, verified):
    for path in celeba.glob("celeba_*.txt"):
        path.unlink()
    code, lines = verified(celeba)
    assert any(line.startswith("note    small split: derived by rule") for line in lines)
    assert code == 0


def test_keys_of_a_run_read_another_set_and_are_not_held_against_the_card(celeba, verified):
    words = [f"data.private.root={celeba}", "data.private.identities=3"]
    code, lines = verified(Path("/nowhere"), *words)
    assert code == 0
    assert "note    small split: not compared with the literature's, since identities changed it" in lines


def test_quick_opens_no_picture(celeba, verified):
    cut_off(celeba)
    code, lines = verified(celeba, "--quick")
    assert code == 0 and not any("pictures" in line for line in lines)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (["small", "identities=3"], "is no data.private.KEY=VALUE"),
        (["small", "data.private.nothing=3"], "small has no key nothing; it has"),
        (["small", "--what"], "see midre-exp data verify --help"),
        (["celeba"], "does not exist. CelebA, aligned: agree to the terms"),
        (["smal"], "smal is no data set; did you mean small?"),
    ],
)
def test_misuse_is_told_in_a_sentence_with_exit_code_2(call, told, whole, tmp_path, capsys):
    name, *more = call
    root = tmp_path if name == "small" else tmp_path / "nothing"
    assert main([name, "--config-dir", str(whole / "conf"), "--root", str(root), *more]) == 2
    assert told in capsys.readouterr().err


def test_the_faces_that_ppa_uses_are_held_against_its_split(tmp_path, verified):
    fixtures.write_celeba_hd(tmp_path / "hd", identities=3, images=5)
    data = dataset("celeba_hd", tmp_path / "hd", identities=3)
    lists = {part: data.file_list(part) for part in PARTS}
    conf = own_card(
        tmp_path / "conf",
        "hd",
        card="celeba_hd",
        reader="celeba_hd",
        expect={"identities": 3},
        images={part: len(files.names) for part, files in lists.items()},
        md5={},
        splits=split_sums("ppa", lists),
    )
    code, lines = verified(tmp_path / "hd", name="hd", conf=conf)
    assert code == 0 and "ok      hd test split: image by image the literature's" in lines
    (identities,) = (tmp_path / "hd").rglob("identity_CelebA.txt")
    identities.write_text("\n".join(reversed(identities.read_text().splitlines())))
    code, lines = verified(tmp_path / "hd", name="hd", conf=conf)
    assert code == 1 and any("split: not the literature's" in line for line in damage(lines))


def test_the_rows_are_written_as_the_checksums_of_the_cards_want_them():
    data = [("b", 1), ("a", 0)]
    files = FileList(
        tuple(f"Img/{stem}.png" for stem, _ in data), tuple(label for _, label in data), ("x", "y")
    )
    sums = split_sums("lists", {"train": files, "public": files})
    assert sums["train"] == hashlib.sha256(b"b 1\na 0\n").hexdigest()
    assert sums["public"] == hashlib.sha256(b"a\nb\n").hexdigest()
    assert split_sums("ppa", {"test": files})["test"] == hashlib.sha256(b"b.jpg 1\na.jpg 0\n").hexdigest()
    assert split_sums("derived", {"test": files}) == {}


def test_vggface2_is_counted_by_its_meta_file(tmp_path, verified):
    root = tmp_path / "vggface2"
    fixtures.write_vggface2(root, identities=2, images=3)
    expect = {"expected_identities": 2, "expected_public_identities": 2}
    conf = own_card(
        tmp_path / "conf", "v", card="vggface2", reader="vggface2", expect=expect, images={"train": 4}
    )
    rows = ["Class_ID, Name, Sample_Num, Flag, Gender"]
    rows += [f'{p.name}, "A_B", 3, {int(p.parent.name == "train")}, m' for p in sorted(root.glob("t*/n*"))]
    (root / "meta").mkdir()
    (root / "meta" / "identity_meta.csv").write_text("\n".join(rows))
    assert verified(root, name="v", conf=conf)[0] == 0
    (root / "train" / "n000002" / "0003_01.jpg").unlink()
    code, lines = verified(root, name="v", conf=conf)
    assert code == 1
    assert "train/n000002: 2 images, identity_meta.csv counts 3" in damage(lines)


def test_ffhq_is_held_against_the_checksums_of_its_json(tmp_path, verified):
    root = tmp_path / "ffhq"
    fixtures.write_ffhq(root, images=4)
    expect = {"expected_images": 4}
    conf = own_card(
        tmp_path / "conf", "f", card="ffhq", reader="ffhq", expect=expect, images={"public": 4}, md5={}
    )
    entries = {
        str(row): {
            "thumbnail": {"file_path": path.relative_to(root).as_posix(), "file_md5": md5(path)},
            "image": {"file_path": f"images1024x1024/{path.name}", "file_md5": "0" * 32},
        }
        for row, path in enumerate(sorted(root.rglob("*.png")))
    }
    (root / "ffhq-dataset-v2.json").write_text(json.dumps(entries))
    code, lines = verified(root, name="f", conf=conf)
    assert code == 0 and "ok      pictures: 4 decoded, 4 checksums compared" in lines
    path = sorted(root.rglob("*.png"))[1]
    Image.new("RGB", (128, 128)).save(path)
    code, lines = verified(root, name="f", conf=conf)
    assert code == 1
    assert damage(lines) == [
        f"{path.relative_to(root)}: readable, but not the published file (its checksum differs)"
    ]


@pytest.mark.parametrize("name", ["facescrub", "stanford_dogs", "afhq_dogs"])
def test_other_sets_are_counted_and_decoded(name, tmp_path, verified):
    writer = {"afhq_dogs": "afhq"}.get(name, name)
    getattr(fixtures, f"write_{writer}")(tmp_path / "set", images=2)
    count = {"facescrub": {"expected_identities": 5}, "stanford_dogs": {"expected_images": 10}}
    counts = {"facescrub": {"train": 9, "test": 1}, "stanford_dogs": {"train": 9, "test": 1}}
    expect, images = count.get(name, {"expected_images": 2}), counts.get(name, {"public": 2})
    conf = own_card(tmp_path / "conf", "s", card=name, reader=name, expect=expect, images=images)
    assert verified(tmp_path / "set", name="s", conf=conf)[0] == 0
    path = next(p for p in sorted((tmp_path / "set").rglob("*")) if p.suffix in (".jpg", ".jpeg", ".png"))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    code, lines = verified(tmp_path / "set", name="s", conf=conf)
    assert code == 1 and len(damage(lines)) == 1 and path.name in damage(lines)[0]
