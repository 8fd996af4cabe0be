"""Every fixture is read through the whole config by the overrides that its last line prints."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from midre_exp.data.base import Part
from midre_exp.data.readers.file_list import FileListDataset
from midre_exp.data.readers.make_fixture import WRITERS, main
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build
from midre_exp.plan.keys import node_of

#: Arguments, the choice of data that reads them, and how many images each part then has.
CASES = [
    ("celeba --identities 3 --images 4", "celeba_celeba", {"train": 10, "test": 3, "public": 12}),
    ("celeba --identities 3 --images 4 --lists", "celeba_celeba", {"train": 10, "test": 3, "public": 12}),
    ("celeba_hd --identities 3 --images 4", "celeba_hd_ffhq", {"train": 11, "test": 2}),
    ("facescrub --identities 4 --images 3", "facescrub_ffhq", {"train": 10, "test": 2}),
    ("facescrub --layout flat", "facescrub_ffhq", {"train": 18, "test": 2}),
    ("vggface2 --identities 2 --images 3", "vggface2_ffhq", {"train": 4, "test": 2}),
    ("stanford_dogs --identities 7 --images 3", "dogs_afhq", {"train": 18, "test": 3}),
    ("ffhq --images 5", "celeba_ffhq", {"public": 5}),
    ("ffhq --images 2 --variant images1024", "vggface2_ffhq", {"public": 2}),
    ("lfw --identities 2 --images 4", "lfw", {"train": 7, "test": 2, "public": 7}),
    ("lfw --layout sklearn", "lfw", {"train": 12, "test": 4, "public": 13}),
    ("afhq --images 3", "dogs_afhq", {"public": 3}),
    ("afhq --images 3 --version 2", "dogs_afhq", {"public": 3}),
]


@pytest.mark.parametrize(("arguments", "data", "counts"), CASES, ids=[case[0] for case in CASES])
def test_the_printed_overrides_read_the_fixture(
    arguments: str, data: str, counts: dict[Part, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *options = arguments.split()
    assert main([name, str(tmp_path / "tree"), *options]) == 0
    overrides = shlex.split(capsys.readouterr().out.strip().split("\n")[-1])
    fixed = [f"data={data}", "resolution=24", "evaluator.resolution=32", f"paths.store={tmp_path / 'store'}"]
    with packaged_configs():
        found = settings_of([*fixed, *overrides])["data"]
        private, public, judged = (node_of(found, name) for name in ("private", "public", "evaluation"))
    read: dict[str, FileListDataset] = {}
    for part, count in counts.items():
        read[part] = build(public if part == "public" else private)
        images = read[part].load(part)
        assert images.images.shape == (count, 3, 24, 24)
        if part != "public":
            assert build(judged).load(part).images.shape == (count, 3, 32, 32)


def test_no_picture_is_in_two_fixtures(tmp_path: Path) -> None:
    faces: dict[bytes, Path] = {}
    for name in WRITERS:
        WRITERS[name](tmp_path / name, images=2)
    for file in tmp_path.rglob("*"):
        if file.suffix in (".jpg", ".jpeg", ".png"):
            content = file.read_bytes()
            assert content not in faces, f"{file} and {faces.get(content)}"
            faces[content] = file


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("lsun OUT", "dataset lsun is unknown; use one of celeba, celeba_hd, facescrub"),
        ("ffhq OUT --identities 3", "ffhq has no --identities; leave it out"),
        ("vggface2 OUT --lists", "vggface2 has no --lists; leave it out"),
        ("ffhq OUT --images 0", "--images=0 must be at least 1"),
        ("ffhq OUT --images many", "invalid int value: 'many'"),
        ("celeba OUT --images 1", "identities=5 and images=1 must be at least 1 and 2"),
        ("facescrub OUT --layout deep", "layout=deep is unknown; use blanks, underscores or flat"),
        ("lfw OUT --layout deep", "layout=deep is unknown; use raw, funneled"),
        ("ffhq", "the following arguments are required: out"),
        ("afhq FULL", "exists and is not an empty folder; name a new one"),
        ("afhq FULL/file", "exists and is not an empty folder; name a new one"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    arguments: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("mine")
    words = arguments.replace("OUT", str(tmp_path / "out")).replace("FULL", str(tmp_path / "full")).split()
    assert main(words) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""
    assert (tmp_path / "full/file").read_text() == "mine"
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["file"]
