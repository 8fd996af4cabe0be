from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import time
from pathlib import Path

import pytest

from midre_exp.store import contents
from midre_exp.store.contents import DATABASE, content_hash, content_hashes, note, notes

NAMES = [f"{folder}/{number}.jpg" for folder in ("anna", "bob") for number in range(5)]


def age(path: Path) -> None:
    """As if it had been written a while ago: only such files are remembered."""
    os.utime(path, ns=(time.time_ns(), time.time_ns() - 10**10))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(contents, "is_settled", lambda stamp: True)  # nobody waits for the change time
    monkeypatch.setattr(contents, "_in_process", {})
    for name in NAMES:
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "store").mkdir()
    return tmp_path / "tree"


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read."""
    found: list[str] = []
    real = contents._sha256

    def spy(path: str) -> str | None:
        found.append(path)
        return real(path)

    monkeypatch.setattr(contents, "_sha256", spy)
    return found


def expected() -> list[str]:
    return [hashlib.sha256(name.encode()).hexdigest() for name in NAMES]


def test_a_second_look_reads_nothing(tree: Path, read: list[str]) -> None:
    store = tree.parent / "store"
    assert content_hashes(tree, NAMES, store) == expected()
    assert len(read) == len(NAMES)
    assert content_hashes(tree, NAMES, store) == expected()
    assert content_hashes(tree, NAMES[3:7], store) == expected()[3:7]
    assert len(read) == len(NAMES)
    assert content_hashes(tree, NAMES, store, reread=True) == expected()
    assert len(read) == 2 * len(NAMES)


def test_another_content_of_the_same_size_is_seen_and_a_touch_changes_nothing(
    tree: Path, read: list[str]
) -> None:
    store = tree.parent / "store"
    content_hashes(tree, NAMES, store)
    times = (tree / NAMES[2]).stat()
    (tree / NAMES[2]).write_bytes(b"anna/2.JPG")
    os.utime(tree / NAMES[2], ns=(times.st_atime_ns, times.st_mtime_ns))  # as if it had never been touched
    os.utime(tree / NAMES[7])
    found = content_hashes(tree, NAMES, store)
    assert [i for i, (now, then) in enumerate(zip(found, expected(), strict=True)) if now != then] == [2]
    assert [Path(path).name for path in read[len(NAMES) :]] == ["2.jpg", "2.jpg"]


def test_what_is_no_readable_file_has_no_hash(tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    (tree / "dangling").symlink_to(tree / "nowhere")
    assert (
        content_hashes(tree, ["pipe", "dangling", "absent", "anna", "a\0b"], tree.parent / "store")
        == [None] * 5
    )
    assert content_hash(tree / NAMES[0]) == expected()[0]


def test_fresh_files_are_not_remembered(tree: Path, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "is_settled", lambda stamp: False)
    for _ in range(2):
        content_hashes(tree, NAMES, tree.parent / "store")
    assert len(read) == 2 * len(NAMES)


def test_a_store_that_may_only_be_read_is_used_and_left_alone(
    tree: Path, read: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tree.parent / "store"
    content_hashes(tree, NAMES[:5], store)
    before = (store / DATABASE).read_bytes()
    real = os.access  # root may write anywhere
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))
    for _ in range(2):
        assert content_hashes(tree, NAMES, store) == expected()
    assert len(read) == len(NAMES)
    assert (store / DATABASE).read_bytes() == before
    assert [path.name for path in store.iterdir()] == [DATABASE]


def test_planning_makes_no_store(tree: Path) -> None:
    assert content_hashes(tree, NAMES, tree.parent / "elsewhere") == expected()
    assert not (tree.parent / "elsewhere").exists()


def test_what_was_known_before_there_was_a_store_is_written_to_it(tree: Path, read: list[str]) -> None:
    store = tree.parent / "later"
    content_hashes(tree, NAMES, store)
    store.mkdir()
    content_hashes(tree, NAMES, store)
    contents._in_process.clear()  # another process
    assert content_hashes(tree, NAMES, store) == expected()
    assert len(read) == len(NAMES)


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500])
def test_a_damaged_memory_is_made_anew(tree: Path, read: list[str], content: bytes) -> None:
    store = tree.parent / "store"
    (store / DATABASE).write_bytes(content)
    for _ in range(3):
        assert content_hashes(tree, NAMES, store) == expected()
    assert len(read) <= 2 * len(NAMES)


def _look(tree: Path, store: Path, places: list[str], together: object) -> None:
    together.wait()  # type: ignore[attr-defined]
    assert content_hashes(tree, places, store) == [hashlib.sha256(p.encode()).hexdigest() for p in places]


def test_processes_share_one_memory(tmp_path: Path) -> None:
    names = [f"{number}.jpg" for number in range(400)]
    for name in names:
        path = tmp_path / "tree" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "store").mkdir()
    time.sleep(contents.is_settled.__globals__["SETTLE_SECONDS"] + 0.1)
    spawn = multiprocessing.get_context("spawn")
    together = spawn.Barrier(3)
    shares = (names[:250], names[150:], names)
    jobs = [
        spawn.Process(target=_look, args=(tmp_path / "tree", tmp_path / "store", share, together))
        for share in shares
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0, 0]
    with sqlite3.connect(tmp_path / "store" / DATABASE) as connection:
        assert connection.execute("SELECT COUNT(*) FROM files").fetchone() == (400,)


def test_notes_are_kept_by_content(tmp_path: Path) -> None:
    digests = [f"{number:064x}" for number in range(1200)]
    note("picture", {digest: f"note {digest[-4:]}" for digest in digests[:1100]}, tmp_path)
    found = notes("picture", digests, tmp_path)
    assert len(found) == 1100
    assert found[digests[7]] == "note 0007"
    assert notes("other", digests, tmp_path) == {}
    assert notes("picture", digests, None) == {}
