from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from midre_exp.errors import StoreError
from midre_exp.store import files


def failing(number: int):
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_written_file_holds_the_data_and_nothing_lies_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text"
    files.write_atomic(path, "grün")
    files.write_atomic(path, "blau, größer")
    assert path.read_text(encoding="utf-8") == "blau, größer"
    assert [entry.name for entry in path.parent.iterdir()] == ["text"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "free space"),
        (errno.EDQUOT, "free space"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "read-only"),
        (errno.EIO, "another folder"),
    ],
)
def test_a_failed_write_is_one_sentence_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str
) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"old")
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(StoreError, match=remedy) as caught:
        files.write_atomic(path, b"new")
    assert str(path) in str(caught.value) and "paths." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_an_interrupted_write_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file/below"):
        files.write_atomic(tmp_path / "file" / "below" / "x", b"")


def test_equal_json_values_give_equal_bytes(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a", {"x": 1, "y": [0.1, None, "ö"]})
    files.write_json(tmp_path / "b", {"y": [0.1, None, "ö"], "x": 1})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert files.read_json(tmp_path / "a") == {"x": 1, "y": [0.1, None, "ö"]}


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[" * 100_000])
def test_broken_json_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(StoreError, match="is not JSON"):
        files.read_json(tmp_path / "a")


def test_missing_json_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"cannot read .*nowhere"):
        files.read_json(tmp_path / "nowhere")


def test_sha256_matches_the_published_test_vector(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(tmp_path / "abc") == expected


def test_a_settled_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    files.write_atomic(path, b"one")
    first = files.known_sha256(path)
    reads: list[Path] = []
    real = files.sha256

    def counting(path: Path) -> str:
        reads.append(path)
        return real(path)

    monkeypatch.setattr(files, "sha256", counting)
    files.known_sha256(path)
    assert len(reads) == 1, (
        "a file written a moment ago can change without a new stamp: it must be read again"
    )
    monkeypatch.setattr(files, "SETTLE_SECONDS", -1.0)
    assert files.known_sha256(path) == files.known_sha256(path) == first
    assert len(reads) == 2
    files.write_atomic(path, b"two")
    assert files.known_sha256(path) != first
