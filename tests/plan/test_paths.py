from __future__ import annotations

from pathlib import Path

import pytest

from midre_exp.errors import CheckpointError
from midre_exp.plan.digests import by_content
from midre_exp.plan.paths import expand_paths
from midre_exp.stages.preflight import check_files

ENDINGS = (".weights", "", ".PTH", ".Pth", ".th", ".model", ".pth.bak", ".pt2", ".zip", ".npz", ".h5")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("key", ["checkpoint", "weights", "pretrained"])
def test_weights_count_by_their_content_whatever_their_name(tmp_path: Path, key: str, ending: str) -> None:
    one, other = tmp_path / f"g{ending}", tmp_path / "elsewhere" / "renamed.pth"
    other.parent.mkdir()
    one.write_bytes(b"some weights")
    other.write_bytes(b"some weights")
    held = by_content({"target": {key: str(one)}})
    assert held == by_content({"target": {key: str(other)}})
    one.write_bytes(b"like weights")
    assert by_content({"target": {key: str(one)}}) != held


def test_files_below_a_key_and_files_of_plugins_count_by_content(tmp_path: Path) -> None:
    (tmp_path / "g").write_bytes(b"x")
    place = str(tmp_path / "g")
    found = by_content({"prior": {"pretrained": {"generator": place}}, "defense": {"my": {"mask": place}}})
    assert found["prior"]["pretrained"]["generator"].startswith("sha256:")
    assert found["defense"]["my"]["mask"].startswith("sha256:")


def test_words_are_no_files_even_beside_files_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("imagenet", "auto"):
        (tmp_path / name).write_bytes(b"x")
    node = {"target": {"weights": "imagenet"}, "split": "auto"}
    assert by_content(node) == node


def test_the_home_folder_is_written_out_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.pth").write_bytes(b"x")
    settings = expand_paths(
        {
            "paths": {"store": ["~/store", "/lab"]},
            "target": {"checkpoint": "~/x.pth", "name": "~", "width": 1},
            "data": {"root": "~/faces", "private": {"root": "~/faces"}},
        }
    )
    assert settings == {
        "paths": {"store": [f"{tmp_path}/store", "/lab"]},
        "target": {"checkpoint": f"{tmp_path}/x.pth", "name": "~", "width": 1},
        "data": {"root": f"{tmp_path}/faces", "private": {"root": f"{tmp_path}/faces"}},
    }
    assert by_content({"checkpoint": "~/x.pth"}) == by_content({"checkpoint": f"{tmp_path}/x.pth"})


def test_a_missing_file_is_told_whatever_its_name(tmp_path: Path) -> None:
    for name in ("a.weights", "a", "a.pth"):
        with pytest.raises(CheckpointError, match=r"evaluator\.checkpoint=.* is no file"):
            check_files("evaluator", {"checkpoint": str(tmp_path / name), "weights": "imagenet"})
    check_files("attack.surrogates", {"weights": "imagenet", "name": "lomma", "pretrained": {"a": None}})
