from __future__ import annotations

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from midre_exp.errors import StoreError
from midre_exp.store import artifact as artifacts
from midre_exp.store import files, store
from midre_exp.store.lock import BuildLock
from midre_exp.store.store import Artifact, Store, Workspace

ROOT = Path(__file__).parents[2]
CONFIG = {"lr": 0.1, "epochs": 3}
UPSTREAM = {"data": "d1"}
FILES = ["weights.safetensors", "history.json", "notes.txt", "manifest.json", "manifest.sha256"]


def fill(work: Workspace) -> None:
    work.save_tensors("weights", {"w": torch.arange(6.0).view(2, 3), "steps": torch.tensor(7)})
    work.save_json("history", [1.5, None, "ö"])
    work.save_file("notes.txt", b"made by hand")
    work.metrics["acc"] = 93.25


def build(place: Path | Store, make: Callable[[Workspace], None] = fill, key: str = "k1") -> Artifact:
    """One build of stage "target"; waiting for anybody is an error unless a test says otherwise."""
    where = place if isinstance(place, Store) else Store(place)
    return where.build("target", key, config=CONFIG, upstream=UPSTREAM, make=make, wait_message=pytest.fail)


def forbidden(work: Workspace) -> None:
    pytest.fail("the artifact was there and must not be built again")


def flip(path: Path, position: int = -1) -> None:
    """Change one bit in place (a rewritten file would cost the file system a flush)."""
    with path.open("r+b") as file:
        file.seek(position, os.SEEK_END if position < 0 else os.SEEK_SET)
        old = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([old ^ 1]))


def os_error(number: int, *filename: str) -> OSError:
    return OSError(number, os.strerror(number), *filename)


def script(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Python code in a process of its own, with the store imported."""
    head = "import os, sys, time\nfrom pathlib import Path\nfrom midre_exp.store.store import Store\n"
    command = [sys.executable, "-c", head + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_a_built_artifact_gives_back_what_was_saved(tmp_path: Path) -> None:
    for artifact in (build(tmp_path), build(tmp_path, forbidden)):
        assert artifact.path == tmp_path / "target" / "k1"
        assert torch.equal(artifact.tensors()["w"], torch.arange(6.0).view(2, 3))
        assert artifact.tensors("weights")["steps"].item() == 7
        assert artifact.json("history") == [1.5, None, "ö"]
        assert artifact.metrics == {"acc": 93.25}
        manifest = artifact.manifest
        assert (manifest["stage"], manifest["key"]) == ("target", "k1")
        assert (manifest["config"], manifest["upstream"], manifest["device"]) == (CONFIG, UPSTREAM, "cpu")
        assert manifest["files"]["notes.txt"]["bytes"] == 12
        assert {"python", "torch"} <= manifest["versions"].keys()
        assert artifact.seconds >= 0
    assert sorted(entry.name for entry in artifact.path.iterdir()) == sorted(FILES)
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "locks").iterdir()) == []


def test_the_second_build_does_not_call_make(tmp_path: Path) -> None:
    assert build(tmp_path).manifest == build(tmp_path, forbidden).manifest


def test_tensors_that_share_memory_or_are_views_can_be_saved(tmp_path: Path) -> None:
    whole = torch.arange(12.0, requires_grad=True).view(3, 4)

    def make(work: Workspace) -> None:
        work.save_tensors("weights", {"a": whole, "b": whole.t(), "c": whole})

    found = build(tmp_path, make).tensors()
    assert torch.equal(found["b"], whole.t()) and torch.equal(found["c"], whole)


def test_asking_for_a_file_that_an_artifact_lacks_names_those_it_has(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no file other\.json, only history\.json"):
        build(tmp_path).json("other")


def test_manifest_checksum_is_understood_by_the_usual_tool(tmp_path: Path) -> None:
    line = (build(tmp_path).path / "manifest.sha256").read_text()
    assert line == f"{files.sha256(tmp_path / 'target/k1/manifest.json')}  manifest.json\n"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_damage_is_named_set_aside_and_rebuilt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, harm: str
) -> None:
    path = build(tmp_path).path / name
    if harm == "flip":
        flip(path, 3)
    elif harm == "truncate":
        os.truncate(path, path.stat().st_size // 2)
    else:
        path.unlink()
    shop = Store(tmp_path)
    assert not shop.peek("target", "k1")
    with caplog.at_level(logging.WARNING):
        assert shop.find("target", "k1") is None
    assert len(caplog.records) == 1
    message = caplog.records[0].getMessage()
    assert name.partition(".")[0] in message and str(path.parent) in message
    assert (tmp_path / "damaged" / "target-k1-1").is_dir()
    assert build(shop).tensors()["w"].sum() == 15
    flip(path)
    assert build(shop).metrics["acc"] == 93.25
    assert (tmp_path / "damaged" / "target-k1-2").is_dir()


def test_every_single_byte_of_a_manifest_is_guarded(tmp_path: Path) -> None:
    folder = build(tmp_path).path
    path = folder / "manifest.json"
    for position in range(path.stat().st_size):
        flip(path, position)
        with pytest.raises(artifacts.DamagedError):
            artifacts.read_manifest(folder, "target", "k1")
        flip(path, position)
    assert artifacts.verify(folder, "target", "k1")


def test_an_artifact_under_another_key_is_damaged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    build(tmp_path).path.rename(tmp_path / "target" / "k2")
    assert Store(tmp_path).find("target", "k2") is None
    assert "belongs to target k1" in caplog.text


def test_damage_after_it_was_found_is_noticed_when_read(tmp_path: Path) -> None:
    artifact = build(tmp_path)
    flip(artifact.path / "weights.safetensors")
    with pytest.raises(StoreError, match=r"weights\.safetensors is damaged"):
        artifact.tensors()


def test_an_artifact_is_hashed_once_per_process_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Store(tmp_path)
    path = build(shop).path / "weights.safetensors"
    monkeypatch.setattr(files, "SETTLE_SECONDS", -1.0)
    assert shop.find("target", "k1")
    real = files.sha256
    with monkeypatch.context() as patch:
        patch.setattr(files, "sha256", lambda path: pytest.fail(f"{path} was read again"))
        assert shop.find("target", "k1") and Store(tmp_path).find("target", "k1")
    flip(path)
    os.utime(path, (1, 1))
    assert files.sha256 is real
    assert shop.find("target", "k1") is None


def test_peek_reads_files_once_and_notices_any_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Store(tmp_path)
    assert not shop.peek("target", "k1")
    folder = build(shop).path
    stamps = tmp_path / ".verified" / "target" / "k1.json"
    assert shop.peek("target", "k1")
    assert not stamps.exists(), "files written a moment ago may change without a new time stamp"
    monkeypatch.setattr(files, "SETTLE_SECONDS", -1.0)
    assert shop.peek("target", "k1")
    assert json.loads(stamps.read_text()).keys() == set(FILES)
    with monkeypatch.context() as patch:
        patch.setattr(store, "verify", lambda *args: pytest.fail("verified again without need"))
        assert Store(tmp_path).peek("target", "k1")
    for name in FILES:
        path = folder / name
        good = path.read_bytes()
        flip(path)
        os.utime(path, (1, 1))
        assert not shop.peek("target", "k1"), name
        path.write_bytes(good)
        assert shop.peek("target", "k1")
    (folder / "notes.txt").unlink()
    assert not shop.peek("target", "k1")
    assert folder.is_dir(), "peek only looks"


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"manifest.json": 3}', b'{"x": [1, 2, 3, 4]}'])
def test_garbled_stamps_are_no_proof(tmp_path: Path, text: bytes) -> None:
    path = build(tmp_path).path
    files.write_atomic(tmp_path / ".verified" / "target" / "k1.json", text)
    assert Store(tmp_path).peek("target", "k1")
    flip(path / "weights.safetensors")
    assert not Store(tmp_path).peek("target", "k1")


def test_a_failing_builder_leaves_its_work_and_no_artifact(tmp_path: Path) -> None:
    def breaks(work: Workspace) -> None:
        (work.path / "checkpoint").write_text("step 3")
        work.save_file("half.txt", b"half")
        raise ZeroDivisionError("a bug")

    with pytest.raises(ZeroDivisionError, match="a bug"):
        build(tmp_path, breaks)
    assert Store(tmp_path).find("target", "k1") is None
    assert not (tmp_path / "target").exists()
    assert list((tmp_path / "locks").iterdir()) == []

    def continues(work: Workspace) -> None:
        assert (work.path / "checkpoint").read_text() == "step 3"
        assert len(list(work.path.glob(".publish-*"))) == 1, "half outputs must not pile up"
        fill(work)

    artifact = build(tmp_path, continues)
    assert "half.txt" not in artifact.manifest["files"]
    assert not (artifact.path / "half.txt").exists()


def test_seconds_count_attempts_that_were_interrupted(tmp_path: Path) -> None:
    def interrupted(work: Workspace) -> None:
        time.sleep(0.2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, interrupted)
    assert list((tmp_path / "locks").iterdir()) == []
    assert build(tmp_path).seconds >= 0.2


UNFINISHED = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background
def make(work):
    (work.path / "checkpoint").write_text("step 3")
    work.save_file("half.txt", b"half")
    print("working", flush=True)
    time.sleep(60)
Store(sys.argv[1]).build("target", "k1", config={}, upstream={}, make=make)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_work_of_a_killed_process_is_continued_at_once(tmp_path: Path, number: signal.Signals) -> None:
    with script(UNFINISHED, tmp_path) as child:
        assert child.stdout is not None and child.stdout.readline() == b"working\n"
        child.send_signal(number)
        child.wait()
    is_locked = any((tmp_path / "locks").iterdir())
    assert is_locked == (number == signal.SIGKILL), "every end but SIGKILL gives the lock back"
    if number == signal.SIGTERM:
        assert child.returncode == 128 + number

    def continues(work: Workspace) -> None:
        assert (work.path / "checkpoint").read_text() == "step 3"
        fill(work)

    start = time.monotonic()
    artifact = build(tmp_path, continues)
    assert time.monotonic() - start < 5
    assert not (artifact.path / "half.txt").exists()
    assert list((tmp_path / "locks").iterdir()) == list((tmp_path / "work").iterdir()) == []


RACER = """
root, log = sys.argv[1:]
def make(work):
    with open(log, "a") as file:
        file.write(f"{work.path.name}\\n")
    time.sleep(0.15)
    work.save_json("maker", os.getpid())
while not Path(root, "go").exists():
    time.sleep(0.005)
makers = []
for key in ("k1", "k2", "k3"):
    artifact = Store(root).build("target", key, config={}, upstream={}, make=make)
    makers.append(artifact.json("maker"))
print(*makers)
"""


def test_racing_processes_build_each_artifact_once_and_share_it(tmp_path: Path) -> None:
    children = [script(RACER, tmp_path, tmp_path / "log") for _ in range(3)]
    time.sleep(0.5)  # most of their start-up; the race is sharper, not other, when all wait for the sign
    (tmp_path / "go").touch()
    outputs = [child.communicate(timeout=20) for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], outputs
    assert sorted((tmp_path / "log").read_text().split()) == ["target-k1", "target-k2", "target-k3"]
    assert len({out for out, _ in outputs}) == 1, "all see the same artifacts"
    waits = b"".join(error for _, error in outputs)
    assert b"is being built by process" in waits


def test_builds_nest(tmp_path: Path) -> None:
    def outer(work: Workspace) -> None:
        inner = build(tmp_path, key="inner")
        work.save_json("inner", inner.metrics)

    assert build(tmp_path, outer, key="outer").json("inner") == {"acc": 93.25}


def lose_lock(root: Path) -> None:
    """As if another process had thought the holder dead."""
    (root / "locks" / "target-k1.lock").unlink()


def other_publishes(root: Path) -> None:
    """Another builder takes over, finishes first and cleans up."""
    lose_lock(root)
    build(root, lambda work: work.save_json("maker", "other"))


def test_who_publishes_second_discards_its_own(tmp_path: Path) -> None:
    def overtaken(work: Workspace) -> None:
        work.save_json("maker", "first")
        (tmp_path / "target").mkdir()
        output = work.path.parent / "elsewhere"
        work._output.rename(output)
        other_publishes(tmp_path)
        work.path.mkdir()
        output.rename(work._output)

    artifact = build(tmp_path, overtaken)
    assert artifact.json("maker") == "other"


def test_a_builder_whose_files_were_cleaned_away_gets_the_others_artifact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def overtaken(work: Workspace) -> None:
        work.save_json("maker", "first")
        other_publishes(tmp_path)

    assert build(tmp_path, overtaken).json("maker") == "other"
    assert "lost its lock" in caplog.text


def test_a_builder_that_lost_its_lock_and_fails_starts_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls = 0

    def make(work: Workspace) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            lose_lock(tmp_path)
            raise FileNotFoundError("a checkpoint the other builder removed")
        fill(work)

    assert build(tmp_path, make).metrics["acc"] == 93.25
    assert calls == 2


def test_an_artifact_published_first_by_a_slow_holder_wins_and_leaves_the_others_work(tmp_path: Path) -> None:
    def slow(work: Workspace) -> None:
        fill(work)
        lose_lock(tmp_path)

    assert build(tmp_path, slow).metrics["acc"] == 93.25
    assert (tmp_path / "work" / "target-k1").is_dir(), "the new holder is still working there"


def test_a_disk_that_is_full_on_publishing_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def make(work: Workspace) -> None:
        (work.path / "checkpoint").write_text("last step")
        fill(work)

        def full(descriptor: int) -> None:
            raise os_error(errno.ENOSPC)

        monkeypatch.setattr(os, "fsync", full)

    with pytest.raises(StoreError, match=r"manifest\.json.* full .*free space"):
        build(tmp_path, make)
    monkeypatch.setattr(os, "fsync", real)
    assert not (tmp_path / "target").exists()
    assert list((tmp_path / "locks").iterdir()) == []
    assert (tmp_path / "work" / "target-k1" / "checkpoint").read_text() == "last step"
    assert build(tmp_path).metrics["acc"] == 93.25


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_full_while_building_is_one_sentence(tmp_path: Path) -> None:
    def make(work: Workspace) -> None:
        with Path("/dev/full").open("w") as file:
            file.write("x")

    with pytest.raises(StoreError, match=r"a disk became full while target k1 .* kept in .*work/target-k1"):
        build(tmp_path, make)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_disk_errors_of_a_builder_inside_the_store_become_a_sentence(tmp_path: Path, number: int) -> None:
    def make(work: Workspace) -> None:
        raise os_error(number, str(work.path / "checkpoint"))

    with pytest.raises(StoreError, match=r"cannot write .*work/target-k1/checkpoint"):
        build(tmp_path, make)


@pytest.mark.parametrize(
    "error",
    [
        os_error(errno.EACCES, "/elsewhere/file"),
        os_error(errno.ENOSPC, "/elsewhere/file"),
        os_error(errno.EACCES),
        os_error(errno.ENOENT, "checkpoint"),
        os_error(errno.ECONNREFUSED),
    ],
)
def test_other_os_errors_of_a_builder_are_not_disguised(tmp_path: Path, error: OSError) -> None:
    def make(work: Workspace) -> None:
        raise error

    with pytest.raises(OSError) as caught:
        build(tmp_path, make)
    assert caught.value is error


def test_a_root_that_cannot_be_created_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    root = tmp_path / "file" / "store"
    with pytest.raises(StoreError, match=str(tmp_path / "file")):
        build(root)


def test_a_store_that_may_only_be_read_still_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(tmp_path)
    monkeypatch.setattr(files, "SETTLE_SECONDS", -1.0)

    def read_only(*args: object, **kwargs: object) -> None:
        raise os_error(errno.EROFS)

    monkeypatch.setattr(Path, "mkdir", read_only)
    monkeypatch.setattr(os, "fsync", read_only)
    assert Store(tmp_path).peek("target", "k1")
    assert build(tmp_path, forbidden).metrics["acc"] == 93.25
    with pytest.raises(StoreError, match="read-only"):
        build(tmp_path, key="k2")


@pytest.mark.parametrize(
    "stage", ["", "..", "a/b", "A", "a-b", ".verified", "work", "locks", "damaged", "a\n"]
)
def test_stage_names_cannot_leave_or_mix_up_the_store(tmp_path: Path, stage: str) -> None:
    shop = Store(tmp_path / "store")
    for ask in (shop.find, shop.peek):
        with pytest.raises(StoreError, match="stage name"):
            ask(stage, "k1")
    with pytest.raises(StoreError, match="stage name"):
        shop.build(stage, "k1", config={}, upstream={}, make=forbidden)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", ".", "..", "../k", "a/b", ".k", "k\0", "k" * 129, "ä", "k\n"])
def test_keys_cannot_leave_the_store(tmp_path: Path, key: str) -> None:
    with pytest.raises(StoreError, match="artifact key"):
        Store(tmp_path).build("target", key, config={}, upstream={}, make=forbidden)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "manifest.json", "manifest.sha256"])
def test_file_names_cannot_leave_or_forge_an_artifact(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="file name"):
        build(tmp_path, lambda work: work.save_file(name, b""))


def test_list_gives_every_artifact_and_nothing_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop = Store(tmp_path)
    assert list(shop.list()) == []
    for key in ("b", "a", "c"):
        build(shop, key=key)
    with pytest.raises(ZeroDivisionError):
        build(shop, lambda work: 1 / 0, key="unfinished")
    flip(tmp_path / "target" / "b" / "manifest.json")
    assert [(artifact.stage, artifact.key) for artifact in shop.list()] == [("target", "a"), ("target", "c")]
    assert "manifest.json does not match" in caplog.text


def test_importing_the_store_does_not_import_torch() -> None:
    code = "import sys, midre_exp.store.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("with_lock", [True, False], ids=["with its lock", "its lock given back by others"])
def test_what_a_builder_left_that_was_killed_when_it_had_published_is_removed(
    tmp_path: Path, with_lock: bool
) -> None:
    build(tmp_path)
    work, lock = tmp_path / "work" / "target-k1", tmp_path / "locks" / "target-k1.lock"
    work.mkdir(parents=True)
    (work / "state.pt").write_bytes(b"progress")
    if with_lock:
        code = (
            "from midre_exp.store.lock import BuildLock; BuildLock(Path(sys.argv[1]), 'x').acquire(); "
            "os._exit(9)"
        )
        script(code, lock).wait()
        assert lock.exists()
    build(tmp_path, forbidden)
    assert not work.exists() and not lock.exists()


def test_what_a_living_builder_has_beside_a_published_artifact_stays(tmp_path: Path) -> None:
    build(tmp_path)
    work, lock = tmp_path / "work" / "target-k1", tmp_path / "locks" / "target-k1.lock"
    work.mkdir(parents=True)
    living = BuildLock(lock, "target k1")
    living.acquire()
    build(tmp_path, forbidden)
    assert work.exists() and living.is_held()
    living.release()


def test_the_waiter_who_takes_over_finished_work_removes_what_is_left_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path)
    work = tmp_path / "work" / "target-k1"
    work.mkdir(parents=True)
    find, answers = Store.find, iter([True])  # at the first look it was not yet published
    monkeypatch.setattr(Store, "find", lambda *a, **k: None if next(answers, False) else find(*a, **k))
    build(tmp_path, forbidden)
    assert not work.exists()
