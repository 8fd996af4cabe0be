"""`midre-exp data inspect`: what it says of trees, as text and as JSON."""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from midre_exp.data.readers import fixtures
from midre_exp.data.readers.inspect import main
from tests.data.readers.test_identities import plant


def told(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(argument) for argument in arguments])
    out, err = capfd.readouterr()
    return code, out, err


def as_json(capfd: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    code, out, _ = told(capfd, *arguments, "--json")
    report: dict[str, Any] = json.loads(out)
    return code, report


def test_a_plain_tree_is_told_with_the_command_that_uses_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, *(f"s{person}/{number}.png" for person in (1, 2, 10) for number in range(3)), "s2/9.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "s10" / "wide.png")
    code, report = as_json(capfd, tmp_path)
    assert code == 0
    assert (report["identities"], report["images"], report["layout"]) == (3, 11, "<identity>/<image>")
    assert report["images_each"]["smallest"] == {"s1": 3, "s2": 4, "s10": 4}
    assert report["images_each"]["identities_with_at_least"] == {
        "1": 3,
        "2": 3,
        "5": 0,
        "10": 0,
        "20": 0,
        "30": 0,
    }
    assert report["orders"]["alphabetical"] == ["s1", "s10", "s2"]
    assert report["pictures"]["sizes"] == {"4x4": 10, "30x20": 1}
    assert report["pictures"]["modes"] == {"L": 10, "RGB": 1}
    assert report["pictures"]["width"] == {"least": 4, "median": 4, "most": 30}
    words = shlex.split(report["command"])
    assert words[:4] == ["midre-exp", "run", "data=folder", f"data.root={tmp_path}"]
    assert words[-1] == f"attack.identities={report['private']}"
    code, out, err = told(capfd, tmp_path)
    assert (code, err) == (0, "")
    assert "3: s1, s2, s10" in out
    assert report["command"] in out


def test_people_with_few_images_are_counted_and_the_key_is_given(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, "a/1.png", "b/1.png", "b/2.png", "c/1.png", "c/2.png", "c/3.png", "d/notes.txt")
    code, report = as_json(capfd, tmp_path)
    assert code == 0
    assert report["empty"] == ["d"]
    assert "data.min_images=2" in report["command"]
    assert report["private"] == report["public"] == 1
    code, out, _ = told(capfd, tmp_path, "--min-images", 3)
    assert code == 2
    assert "holds the images of one identity, c" in out


def test_splits_leftovers_and_duplicates_are_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plant(
        tmp_path, "Train/a/1.png", "Train/a/2.png", "Test/a/3.png", "Train/b/1.png", "Test/b/x.png",
        "Train/stray.png", "Train/a/@eaDir/1.png", "Test/b/photo.heic", "Test/c/1.png",
    )  # fmt: skip
    for shade, name in enumerate(("Train/a/1", "Train/b/1", "Test/b/x", "Test/c/1", "Train/a/2", "Test/a/3")):
        Image.new("L", (4, 4), 40 * min(shade, 4)).save(tmp_path / f"{name}.png")
    Image.new("L", (4, 4), 0).save(tmp_path / "Test/c/1.png")  # as Train/a/1
    code, report = as_json(capfd, tmp_path)
    assert code == 0
    assert report["splits"] == {
        "train": {"identities": 2, "images": 3},
        "test": {"identities": 3, "images": 3},
    }
    assert report["duplicates"]["across_a_split"] == [
        ["Test/a/3.png", "Train/a/2.png"], ["Train/a/1.png", "Test/c/1.png"],
    ]  # fmt: skip
    assert report["passed_over"] == {"@eadir": 1}
    assert report["foreign_endings"] == {"heic": 1}
    _, out, _ = told(capfd, tmp_path)
    for words in ("train 3 images of 2", "1 image(s) belong to no identity: Train/stray.png", "1 .heic",
                  "@eadir", "across a split, 2 group(s)"):  # fmt: skip
        assert words in out


def test_duplicates_within_and_across_people(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, "a/1.png", "a/2.png", "b/10.png", "b/11.png")  # a shade per length of the name
    Image.new("L", (4, 4), 99).save(tmp_path / "b/12.png")
    Image.new("L", (4, 4), 99).save(tmp_path / "a/3.png")
    _, report = as_json(capfd, tmp_path)
    assert report["duplicates"] == {
        "within_an_identity": [["a/1.png", "a/2.png"], ["b/10.png", "b/11.png"]],
        "across_identities": [["a/3.png", "b/12.png"]],
        "across_a_split": [],
    }


def test_unreadable_images_are_found_by_header_or_by_decoding(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, *(f"{person}/{number}.png" for person in "ab" for number in range(3)))
    noise = Image.effect_noise((64, 64), 90)
    noise.save(tmp_path / "a/cut.png")
    content = (tmp_path / "a/cut.png").read_bytes()
    (tmp_path / "a/cut.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "b/page.png").write_text("<html>")
    _, report = as_json(capfd, tmp_path)
    assert list(report["pictures"]["unreadable"]) == ["b/page.png"]
    _, report = as_json(capfd, tmp_path, "--decode")
    assert list(report["pictures"]["unreadable"]) == ["a/cut.png", "b/page.png"]


def test_an_open_layout_is_a_problem_with_its_remedies(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, "2019/a/1.png", "2019/b/1.png", "2020/a/1.png", "2020/b/2.png")
    code, out, _ = told(capfd, tmp_path)
    assert code == 2
    assert "data.identity_level=2 for 2 identities (a, b)" in out
    code, report = as_json(capfd, tmp_path, "--identity-level", 2)
    assert code == 0
    assert "data.identity_level=2" in report["command"]


def test_labels_are_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    plant(tmp_path, "1.png", "2.png", "3.png", "4.png")
    (tmp_path / "who.csv").write_text("path,identity\n1.png,007\n2.png,007\n3.png,8\n4.png,8\n")
    code, report = as_json(capfd, tmp_path, "--labels", "who.csv")
    assert code == 0
    assert report["names"] == ["007", "8"]
    assert "data.labels=who.csv" in report["command"]


@pytest.mark.parametrize("arguments", [["/nowhere"], ["--split", "x", "."], [], ["--colour", "."]])
def test_a_mistake_is_one_sentence(capfd: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    code, out, err = told(capfd, *arguments)
    assert code == 2
    assert len((out + err).strip().splitlines()) < 8
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "name, write",
    [
        ("celeba", fixtures.write_celeba),
        ("facescrub", fixtures.write_facescrub),
        ("vggface2", fixtures.write_vggface2),
        ("stanford_dogs", fixtures.write_stanford_dogs),
        ("ffhq", fixtures.write_ffhq),
        ("afhq_dogs", fixtures.write_afhq),
        *[("lfw", partial(fixtures.write_lfw, layout=layout)) for layout in fixtures.LFW_LAYOUTS],
    ],
)
def test_official_downloads_are_recognised(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str, write: Any
) -> None:
    write(tmp_path / "download")
    code, report = as_json(capfd, tmp_path / "download")
    assert code == 0
    assert name in [official["name"] for official in report["official"]]
