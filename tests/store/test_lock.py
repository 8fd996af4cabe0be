from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from midre_exp.errors import StoreError
from midre_exp.store import lock as locks
from midre_exp.store import lockfile as lockfiles
from midre_exp.store.lock import BuildLock

ROOT = Path(__file__).parents[2]


def quiet(message: str) -> None:
    pass


def never() -> bool:
    return False


def after(seconds: float):
    """A ``stop_waiting`` that gives up after that time."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def eventually(condition, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return bool(condition())


def foreign(path: Path, **fields: object) -> None:
    """A lock as another process would have left it."""
    text = json.loads(lockfiles.content("their-token", "their work"))
    path.write_text(json.dumps(text | fields))


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def litter(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if entry != path)


def test_a_free_lock_is_taken_and_given_back(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "deep" / "lock", "target abc")
    assert lock.acquire()
    holder = lockfiles.read(lock.path)
    assert holder is not None
    assert (holder.pid, holder.what, holder.beat) == (os.getpid(), "target abc", "0" * 12)
    assert lock.is_held()
    lock.release()
    assert not lock.is_held()
    assert list(lock.path.parent.iterdir()) == []


def test_a_waiter_is_told_once_who_builds_what(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "lock", "target abc")
    lock.acquire()
    said: list[str] = []
    assert not BuildLock(lock.path, "target abc").acquire(stop_waiting=after(0.4), wait_message=said.append)
    assert len(said) == 1
    assert "target abc" in said[0] and f"process {os.getpid()} on " in said[0]
    assert lock.is_held()
    lock.release()


def test_the_heartbeat_counts_in_place(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "lock", "work", beat_seconds=0.02)
    lock.acquire()
    inode = lock.path.stat().st_ino

    def beats() -> int:
        holder = lockfiles.read(lock.path)
        assert holder is not None and holder.token is not None and holder.beat is not None
        return int(holder.beat)

    assert eventually(lambda: beats() >= 3)
    assert lock.path.stat().st_ino == inode
    lock.release()
    assert litter(lock.path) == []


def test_a_lock_of_a_process_that_is_gone_is_taken_over_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    foreign(path, pid=dead_pid())
    lock = BuildLock(path, "work")
    start = time.monotonic()
    assert lock.acquire(wait_message=pytest.fail)
    assert time.monotonic() - start < 1.0
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_reused_process_number_is_not_mistaken_for_the_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    holder = lockfiles.parse(lockfiles.content("t", "w"))
    if holder.start is None:
        pytest.skip("this system does not tell when a process started")
    foreign(path, start=str(int(holder.start) - 1))  # our own number, but an older process
    lock = BuildLock(path, "work")
    assert lock.acquire(stop_waiting=after(2))
    lock.release()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="zombies are seen through /proc")
def test_a_killed_child_that_nobody_waited_for_counts_as_gone(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    script = (
        "import sys, time; from pathlib import Path; from midre_exp.store.lock import BuildLock\n"
        "BuildLock(Path(sys.argv[1]), 'work').acquire(); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        lock = BuildLock(path, "work")
        assert not lock.acquire(stop_waiting=after(0.2), wait_message=quiet), "a living holder keeps its lock"
        child.kill()
        lock = BuildLock(path, "work")
        assert lock.acquire(stop_waiting=after(3), wait_message=quiet)
        lock.release()


def test_a_silent_holder_on_another_host_is_taken_over_after_stale_seconds(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    foreign(path, machine="elsewhere", pid=dead_pid())
    lock = BuildLock(path, "work", stale_seconds=0.4)
    start = time.monotonic()
    assert lock.acquire(wait_message=quiet)
    assert 0.4 <= time.monotonic() - start < 2.0
    lock.release()


def test_a_beating_holder_is_never_taken_over_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = BuildLock(tmp_path / "lock", "work", beat_seconds=0.05)
    lock.acquire()
    os.utime(lock.path, (0, 0))
    now = time.time()
    jumps = iter(now + (-1) ** n * n * 1e6 for n in range(10**6))
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    monkeypatch.setattr(lockfiles, "is_gone", lambda holder: False)
    waiter = BuildLock(lock.path, "work", stale_seconds=0.5)
    assert not waiter.acquire(stop_waiting=after(1.2), wait_message=quiet)
    assert lock.is_held()
    lock.release()


def test_time_in_which_the_waiter_itself_was_frozen_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    watch = locks._Watch(60.0)
    holder = lockfiles.parse(lockfiles.content("t", "w"))._replace(machine="elsewhere")
    assert not watch.sees_dead(holder)
    clock[0] = 1e6
    assert not watch.sees_dead(holder), "a long freeze counts as two seconds at most"
    for _ in range(57):
        clock[0] += 1.0
        assert not watch.sees_dead(holder)
    assert not watch.sees_dead(holder._replace(beat="000000000001")), "a beat starts the count again"
    for _ in range(59):
        clock[0] += 1.0
        assert not watch.sees_dead(holder._replace(beat="000000000001"))
    clock[0] += 1.0
    assert watch.sees_dead(holder._replace(beat="000000000001"))


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b'{"token": "t", "pid": -1}', b'{"token": "t", "pid": 1, "odd": 2}']
)
def test_an_empty_or_garbled_lock_is_abandoned_after_a_short_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    monkeypatch.setattr(locks, "EMPTY_SECONDS", 0.2)
    path = tmp_path / "lock"
    path.write_bytes(text)
    lock = BuildLock(path, "work")
    start = time.monotonic()
    assert lock.acquire(wait_message=quiet)
    assert 0.2 <= time.monotonic() - start < 2.0
    assert lock.is_held()
    lock.release()


def test_a_takeover_that_died_half_way_does_not_block_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    foreign(path, pid=dead_pid())
    foreign(tmp_path / "lock.takeover", pid=dead_pid(), token="third")
    lock = BuildLock(path, "work")
    assert lock.acquire(stop_waiting=after(3), wait_message=quiet)
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_holder_notices_that_its_lock_was_taken_and_leaves_the_new_one_alone(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "lock", "work", beat_seconds=0.02)
    lock.acquire()
    foreign(tmp_path / "new", machine="elsewhere")
    (tmp_path / "new").replace(lock.path)
    before = lock.path.read_bytes()
    assert eventually(lambda: lock.was_lost)
    assert not lock.is_held()
    lock.release()
    assert lock.path.read_bytes() == before


def test_a_lock_removed_by_hand_counts_as_lost(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "lock", "work", beat_seconds=0.02)
    lock.acquire()
    lock.path.unlink()
    assert eventually(lambda: lock.was_lost)
    lock.release()


def test_removing_with_the_wrong_token_puts_the_lock_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    foreign(path)
    text = path.read_bytes()
    # the lock changes hands between the look and the removal
    monkeypatch.setattr(lockfiles, "read", lambda path: lockfiles.Holder(token="old"))
    assert not lockfiles.remove(path, "old")
    assert path.read_bytes() == text
    assert litter(path) == []


def test_locks_work_where_hard_links_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links")

    monkeypatch.setattr(os, "link", no_links)
    lock = BuildLock(tmp_path / "lock", "work")
    assert lock.acquire()
    assert not BuildLock(lock.path, "work").acquire(stop_waiting=after(0.1), wait_message=quiet)
    lock.release()
    foreign(lock.path, pid=dead_pid())
    lock = BuildLock(lock.path, "work")
    assert lock.acquire(stop_waiting=after(3), wait_message=quiet)
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_a_link_whose_answer_was_lost_counts_as_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def forgetful(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError

    monkeypatch.setattr(os, "link", forgetful)
    assert lockfiles.create(tmp_path / "lock", b"text")


def test_a_race_for_a_dead_holders_lock_has_one_holder_at_a_time(tmp_path: Path) -> None:
    gone = dead_pid()
    inside = 0
    most = 0
    turns = 0
    kept: list[bool] = []
    guard = threading.Lock()

    def contend(path: Path, start: threading.Barrier) -> None:
        nonlocal inside, most, turns
        lock = BuildLock(path, "work", beat_seconds=0.01)
        start.wait()
        lock.acquire(wait_message=quiet)
        with guard:
            inside += 1
            most = max(most, inside)
            turns += 1
        time.sleep(0.002)
        with guard:
            inside -= 1
            kept.append(lock.is_held())
        lock.release()

    for number in range(5):
        path = tmp_path / f"lock{number}"
        foreign(path, pid=gone)
        start = threading.Barrier(6)
        threads = [threading.Thread(target=contend, args=(path, start)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert (turns, most) == (30, 1)
    assert all(kept)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_hold_locks_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot create"):
        BuildLock(tmp_path / "file" / "locks" / "lock", "work").acquire()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"cannot lock .*full"):
        BuildLock(tmp_path / "lock", "work").acquire()
    assert litter(tmp_path / "file") == []


def test_an_interrupted_waiter_leaves_nothing_behind(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "lock", "work")
    lock.acquire()

    def interrupt(message: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        BuildLock(lock.path, "work").acquire(wait_message=interrupt)
    assert lock.is_held()
    assert litter(lock.path) == []
    lock.release()


def test_a_forked_child_does_not_release_its_parents_lock(tmp_path: Path) -> None:
    lock = BuildLock(tmp_path / "lock", "work")
    lock.acquire()
    lock._pid += 1  # what a child sees: the lock was taken by another process number
    lock.release()
    assert lock.is_held()
    lock._pid -= 1
    lock.release()
    assert not lock.is_held()


def test_locks_of_dead_builders_are_released_and_those_of_living_ones_stay(tmp_path: Path) -> None:
    foreign(tmp_path / "dead.lock", pid=dead_pid())
    foreign(tmp_path / "elsewhere.lock", pid=dead_pid(), machine="another")
    ours = BuildLock(tmp_path / "living.lock", "target abc")
    ours.acquire()
    locks.release_dead(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["elsewhere.lock", "living.lock"]
    assert ours.is_held()
    ours.release()
    locks.release_dead(tmp_path / "no such folder")
