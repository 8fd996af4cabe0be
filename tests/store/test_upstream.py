"""Stores that are only read: found in, verified, never written; two Unix users."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from midre_exp.errors import StoreError
from midre_exp.records import read_record
from midre_exp.run import run
from midre_exp.store.store import MARKER, Store, Workspace

needs_root = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="becomes two other users")


def fill(work: Workspace) -> None:
    work.save_tensors("weights", {"w": torch.ones(100)})


def forbidden(work: Workspace) -> None:
    pytest.fail("it was there and must not be built again")


def build(store: Store, make=fill, key: str = "k1"):
    return store.build("target", key, config={}, upstream={}, make=make, wait_message=pytest.fail)


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of whatever lies below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        found[str(path)] = (status.st_ino, status.st_mtime_ns)
    return found


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    build(Store(tmp_path / "lab"))
    return tmp_path / "lab"


def test_what_the_first_lacks_is_found_in_the_next_and_nothing_is_written_there(tmp_path, lab):
    before = everything(lab)
    store = Store([tmp_path / "mine", lab])
    assert store.peek("target", "k1") and not store.peek("target", "k2")
    found = build(store, forbidden)
    assert found.path == lab / "target" / "k1" and found.store == lab
    assert store.where("target", "k1") == found.path
    assert build(store, key="k2").store == tmp_path / "mine" == store.where("target", "k3").parents[1]
    assert [artifact.key for artifact in store.list()] == ["k2"]
    assert everything(lab) == before


def test_stamps_of_others_are_kept_in_mine_and_save_the_second_reading(tmp_path, lab, monkeypatch):
    for path in (lab / "target" / "k1").iterdir():
        os.utime(path, (1e9, 1e9))
    monkeypatch.setattr("midre_exp.store.files.SETTLE_SECONDS", 0.0)
    before = everything(lab / "target")
    assert Store([tmp_path / "mine", lab]).peek("target", "k1")
    (stamps,) = (tmp_path / "mine" / ".verified").glob("of-*/target/k1.json")
    assert "weights.safetensors" in json.loads(stamps.read_text())
    monkeypatch.setattr("midre_exp.store.store.verify", lambda *_: pytest.fail("read again"))
    assert Store([tmp_path / "mine", lab]).peek("target", "k1")
    assert everything(lab / "target") == before and not (lab / ".verified").exists()


def test_damage_in_anothers_store_is_told_once_and_mended_in_mine(tmp_path, lab, caplog):
    file = lab / "target" / "k1" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    before = everything(lab)
    store = Store([tmp_path / "mine", lab])
    with caplog.at_level(logging.WARNING):
        assert not store.peek("target", "k1")
        mended = build(store)
        assert store.find("target", "k1") is not None
    (told,) = caplog.records
    assert str(file.parent) in told.getMessage() and "left alone" in told.getMessage()
    assert mended.store == tmp_path / "mine" and everything(lab) == before


def test_damage_in_mine_falls_back_to_the_other(tmp_path, lab):
    mine = build(Store(tmp_path / "mine")).path
    (mine / "manifest.json").write_text("{}")
    assert build(Store([tmp_path / "mine", lab]), forbidden).store == lab
    assert (tmp_path / "mine" / "damaged" / "target-k1-1").is_dir()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda place: None, "no folder"),
        (lambda place: place.write_text(""), "no folder"),
        (lambda place: (place / "photos").mkdir(parents=True), "no store"),
    ],
    ids=["absent", "a file", "another folder"],
)
def test_a_place_that_is_no_store_is_a_mistake_told_at_once(tmp_path, make, said):
    make(tmp_path / "lab")
    with pytest.raises(StoreError, match=f"paths.store lists .*lab, which is {said}"):
        Store([tmp_path / "mine", tmp_path / "lab"]).check()


def test_no_place_at_all_is_a_mistake():
    with pytest.raises(StoreError, match="names no folder"):
        Store([])


def test_unfinished_work_on_another_file_system_is_told_at_the_start(tmp_path):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs two file systems")
    build(store := Store(tmp_path / "mine"))
    place = elsewhere / f"midre-{os.getpid()}"
    place.mkdir()
    try:
        (tmp_path / "mine" / "work").rmdir()
        (tmp_path / "mine" / "work").symlink_to(place)
        with pytest.raises(StoreError, match="different file systems"):
            store.check()
        with pytest.raises(StoreError, match="different file systems"):
            build(store, forbidden, key="k2")
    finally:
        shutil.rmtree(place)


def test_a_run_takes_stages_of_another_store_under_the_same_keys_and_says_where(tmp_path, tiny):
    first = tiny("defense=nodef")
    record = read_record(run(first))
    assert "found_in" not in record
    lab = Path(first["paths"]["store"])
    before = everything(lab)
    overrides = [f"paths.store=[{tmp_path / 'mine'},{lab}]", f"paths.results={tmp_path / 'again'}"]
    again = read_record(run(tiny("defense=nodef", *overrides)))
    assert again["artifacts"] == record["artifacts"] and again["metrics"] == record["metrics"]
    assert again["found_in"] == dict.fromkeys(record["artifacts"], str(lab))
    assert everything(lab) == before and not (tmp_path / "mine" / "target").exists()
    other = read_record(run(tiny("defense=midre", *overrides)))
    assert set(other["found_in"]) == {"evaluator", "features", "prior"}
    assert everything(lab) == before


def as_user(user: int, group: int, umask: int, act: Callable[[], None]) -> str:
    """What ``act`` raised in a process of another user; empty where all went well. Forked, for the
    interpreter itself may be hidden from others.
    """
    build(Store(tempfile.mkdtemp()))  # what is imported late is imported now
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([group])
            os.setgid(group)
            os.setuid(user)
            os.umask(umask)
            act()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


def open_to_others(path: Path) -> None:
    """Let everybody pass the folders above a test's, which pytest makes for its user alone."""
    for folder in (path, *path.parents):
        if str(folder).startswith("/tmp/"):
            folder.chmod(folder.stat().st_mode | 0o055)


@pytest.fixture
def two_folders(tmp_path: Path) -> tuple[Path, Path]:
    """A folder of the user 4001 and one of 4002."""
    open_to_others(tmp_path)
    folders = tmp_path / "lab", tmp_path / "mine"
    for place, user in zip(folders, (4001, 4002), strict=True):
        place.mkdir()
        os.chown(place, user, user)
    return folders


@needs_root
def test_a_user_who_may_only_read_lists_the_store_and_works(two_folders):
    lab, mine = two_folders
    assert as_user(4001, 4001, 0o022, lambda: build(Store(lab))) == ""
    before = everything(lab)

    def works() -> None:
        store = Store([mine, lab])
        store.check()
        found = build(store, forbidden)
        assert found.tensors()["w"].sum() == 100 and found.store == lab
        assert build(store, key="k2").store == mine

    assert as_user(4002, 4002, 0o022, works) == ""
    assert everything(lab) == before
    said = as_user(4002, 4002, 0o022, lambda: Store(lab).check())
    assert "read-only for you" in said and f"paths.store=[artifacts,{lab}]" in said


@needs_root
def test_a_whole_run_of_a_user_who_may_only_read(two_folders, stocked, tmp_path, tiny):
    lab, mine = two_folders
    places = [f"paths.{name}={mine / name}" for name in ("runs", "results")]
    stocked.rename(tmp_path / "own")
    record = run(tiny(f"paths.store={tmp_path / 'own'}", f"paths.results={tmp_path / 'own'}"))
    shutil.copytree(tmp_path / "own", lab, dirs_exist_ok=True)
    before = everything(lab)
    settings = tiny(f"paths.store=[{mine / 'store'},{lab}]", *places)
    assert as_user(4002, 4002, 0o022, lambda: (run(settings), None)[1]) == ""
    (again,) = (mine / "results").rglob("records/*.json")
    assert read_record(again)["metrics"] == read_record(record)["metrics"]
    assert everything(lab) == before and again.stat().st_uid == 4002
    said = as_user(4002, 4002, 0o022, lambda: (run(tiny(f"paths.store={lab}", *places)), None)[1])
    assert said.startswith("StoreError") and f"paths.store=[artifacts,{lab}]" in said


@needs_root
def test_an_artifact_that_its_owner_hides_is_one_sentence(two_folders):
    lab, mine = two_folders
    assert as_user(4001, 4001, 0o077, lambda: build(Store(lab))) == ""
    said = as_user(4002, 4002, 0o022, lambda: build(Store([mine, lab])))
    assert "StoreError: cannot read" in said and "ask its owner" in said


@needs_root
def test_a_group_shares_one_store_by_setgid_and_umask(two_folders):
    lab, _ = two_folders
    os.chown(lab, 4001, 5000)
    lab.chmod(0o2775)

    def is_killed() -> None:
        def dies(work: Workspace) -> None:
            (work.path / "state").write_text("half")
            os._exit(9)

        build(Store(lab), key="k0")
        build(Store(lab), dies)

    def takes_over() -> None:
        def goes_on(work: Workspace) -> None:
            assert (work.path / "state").read_text() == "half"
            (work.path / "state").write_text("more")
            fill(work)

        store = Store(lab)
        store.check()
        build(store, forbidden, key="k0")
        assert store.peek("target", "k0")
        build(store, goes_on)

    assert as_user(4001, 5000, 0o002, is_killed) == ""
    assert (lab / "work" / "target-k1" / "state").exists()
    assert as_user(4002, 5000, 0o002, takes_over) == ""
    assert not list((lab / "work").iterdir()) and not list((lab / "locks").iterdir())
    for path in lab.rglob("*"):
        status = path.lstat()
        assert status.st_gid == 5000 and status.st_mode & 0o060 == 0o060, path
    assert (lab / MARKER).is_file()
