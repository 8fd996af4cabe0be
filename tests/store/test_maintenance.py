from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from midre_exp.store import lockfile
from midre_exp.store.__main__ import main
from midre_exp.store.artifact import readable
from midre_exp.store.store import MARKER, Store


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with a needed and an idle artifact, decoded images, an unfinished build and a record."""
    store = Store(tmp_path / "artifacts")
    for stage, key in (("target", "aa"), ("target", "bb"), ("images", "cc")):
        store.build(
            stage,
            key,
            config={},
            upstream={},
            make=lambda work: work.save_tensors("weights", {"w": torch.ones(100)}),
        )
    unfinished = tmp_path / "artifacts" / "work" / "attack-dd"
    unfinished.mkdir(parents=True)
    (unfinished / "state.pt").write_bytes(bytes(1000))
    records = tmp_path / "results" / "mini" / "records"
    records.mkdir(parents=True)
    (records / "a.json").write_text(json.dumps({"artifacts": {"target": "aa", "metrics": "ee"}}))
    return tmp_path


def call(place: Path, *arguments: str) -> int:
    results = ("--results", str(place / "results")) if arguments[0] == "gc" else ()
    return main(["--store", str(place / "artifacts"), *arguments, *results])


def test_verify_reads_every_byte_and_names_what_is_damaged(place, capsys):
    assert call(place, "verify") == 0
    assert "3 artifacts checked, 0 damaged" in capsys.readouterr().out
    file = place / "artifacts" / "target" / "aa" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert call(place, "verify") == 1
    out = capsys.readouterr().out
    assert "target/aa: weights.safetensors does not match its checksum" in out and "1 damaged" in out
    assert file.exists()  # looked at, not touched


def test_gc_tells_before_it_removes_and_keeps_what_records_need(place, capsys):
    def present():
        return {
            name for name in ("target/aa", "target/bb", "images/cc") if (place / "artifacts" / name).exists()
        }

    assert call(place, "gc") == 0
    out = capsys.readouterr().out
    assert "would remove" in out and "target/bb" in out and "attack-dd" in out and "target/aa" not in out
    assert present() == {"target/aa", "target/bb", "images/cc"}
    assert call(place, "gc", "--delete") == 0
    assert present() == {"target/aa", "images/cc"}
    assert not (place / "artifacts" / "work" / "attack-dd").exists()
    assert call(place, "gc", "--delete", "--images") == 0
    assert present() == {"target/aa"}


def test_gc_removes_temporary_files_of_writers_killed_long_ago(place, capsys):
    store, records = place / "artifacts", place / "results" / "mini" / "records"
    old = [store / ".verified" / "target" / ".aa.json.0123.tmp", records / ".a.json.0123.tmp"]
    old += [
        store / ".probe-17",
        store / "locks" / "target-aa.lock.0123.tmp",
        store / "locks" / "x.lock.takeover",
    ]
    new = [records / ".a.json.4567.tmp", store / "locks" / "target-aa.lock"]
    for path in (*old, *new):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half a fi")
    long_ago = time.time() - 7200
    for path in (*old, new[-1]):
        os.utime(path, (long_ago, long_ago))
    assert call(place, "gc") == 0
    said = capsys.readouterr().out
    assert all(f"would remove: {path}" in said and path.exists() for path in old)
    assert call(place, "gc", "--delete") == 0
    assert not any(path.exists() for path in old) and all(path.exists() for path in new)
    assert (records / "a.json").exists() and (store / "target" / "aa").exists()


def test_gc_leaves_a_build_alone_that_is_going_on(place, capsys):
    builder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\n"
            "from midre_exp.store.lock import BuildLock\nfrom pathlib import Path\n"
            "lock = BuildLock(Path(sys.argv[1]), 'attack dd'); lock.acquire(); print('held', "
            "flush=True); time.sleep(60)",
            str(place / "artifacts" / "locks" / "attack-dd.lock"),
        ],
        stdout=subprocess.PIPE,
    )
    try:
        assert builder.stdout is not None and builder.stdout.readline() == b"held\n"
        assert call(place, "gc", "--delete") == 0
        assert "1 in use" in capsys.readouterr().out
        assert (place / "artifacts" / "work" / "attack-dd").exists()
    finally:
        builder.kill()
        builder.wait()
    assert call(place, "gc", "--delete") == 0  # its process has gone
    assert not (place / "artifacts" / "work" / "attack-dd").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"artifacts": 3}'])
def test_gc_removes_nothing_when_a_record_cannot_be_read(place, capsys, content):
    (place / "results" / "mini" / "records" / "b.json").write_text(content)
    assert call(place, "gc", "--delete") == 2
    assert "b.json" in capsys.readouterr().err
    assert (place / "artifacts" / "target" / "bb").exists()


def test_gc_without_any_record_and_a_missing_store_are_mistakes(place, tmp_path, capsys):
    assert main(["--store", str(place / "artifacts"), "gc", "--results", str(tmp_path / "none")]) == 2
    assert "no record" in capsys.readouterr().err
    assert main(["--store", str(tmp_path / "nowhere"), "du"]) == 2
    assert "nowhere" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


def test_du_adds_up(place, capsys):
    assert call(place, "du") == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1].split()[:2] == ["target", "2"]
    assert "work" in out and "total" in out


@pytest.mark.parametrize(
    ("count", "text"), [(999, "999 B"), (1500, "1.5 kB"), (2_500_000_000, "2.5 GB"), (3e12, "3.0 TB")]
)
def test_sizes_are_written_for_people(count, text):
    assert readable(count) == text


def test_gc_works_only_in_what_carries_the_mark_of_a_store(place, capsys, tmp_path):
    theirs = tmp_path / "project"
    for name in (
        ".env.a1b2c3.tmp",
        "damaged/photo-1-1/a.jpg",
        "work/my-thesis/chapter.tex",
        "target/x/y.txt",
    ):
        (theirs / name).parent.mkdir(parents=True, exist_ok=True)
        (theirs / name).write_text("precious")
        os.utime(theirs / name, (1e9, 1e9))
    before = sorted(theirs.rglob("*"))
    gc = ("gc", "--delete", "--images", "--results", str(place / "results"))
    assert main(["--store", str(theirs), *gc]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "carries no mark of a store" in said and "target" in said
    assert sorted(theirs.rglob("*")) == before
    Store(theirs).build(
        "target", "aa", config={}, upstream={}, make=lambda work: None
    )  # a folder of many things
    assert main(["--store", str(theirs), *gc]) == 2
    assert main(["--store", str(theirs), "mark"]) == 2
    assert set(before) <= set(theirs.rglob("*"))


def test_the_mark_of_a_later_version_is_left_alone(place, capsys):
    (place / "artifacts" / MARKER).write_text('{"store": "midre-exp", "version": 2}')
    assert call(place, "gc", "--delete") == 2
    assert MARKER in capsys.readouterr().err and (place / "artifacts" / "target" / "bb").exists()


def test_a_store_of_an_earlier_version_is_marked_by_the_next_build_or_on_request(place, capsys):
    marker = place / "artifacts" / MARKER
    for mark in (
        lambda: Store(place / "artifacts").build("target", "aa", config={}, upstream={}, make=pytest.fail),
        lambda: call(place, "mark"),
    ):
        marker.unlink()
        assert call(place, "gc", "--delete") == 2
        assert "midre-exp store mark" in capsys.readouterr().err
        assert (place / "artifacts" / "target" / "bb").exists()
        mark()
        assert marker.exists() and call(place, "gc") == 0


def test_gc_leaves_alone_what_it_does_not_know(place, capsys):
    store = place / "artifacts"
    for name in ("notes.txt", "work/README/x", "damaged/mine/x", "Photos/me/x", "locks/x.txt", ".bashrc.tmp"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("precious")
        os.utime(store / name, (1e9, 1e9))
    (store / "work" / "attack-ee").symlink_to(place / "results")
    mine = {path for path in store.rglob("*") if path.is_file() and path.read_bytes() == b"precious"}
    assert call(place, "gc", "--delete") == 0
    assert (
        all(path.exists() for path in mine) and (place / "results" / "mini" / "records" / "a.json").exists()
    )
    assert "left alone, for they are not the store's: Photos, notes.txt" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["mini/records/a/b.json", "old/2025/mini/records/b.json", "copy of b.json"])
def test_a_record_counts_wherever_it_lies(place, where):
    path = place / "results" / where
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"artifacts": {"target": "bb"}}))
    (place / "results" / "claims.json").write_text("[1, {}]")
    assert call(place, "gc", "--delete") == 0
    assert (place / "artifacts" / "target" / "bb").exists()


def test_records_of_several_people_and_behind_links_count(place, tmp_path):
    theirs = tmp_path / "theirs" / "mini" / "records"
    theirs.mkdir(parents=True)
    (theirs / "b.json").write_text(json.dumps({"artifacts": {"target": "bb"}}))
    assert call(place, "gc", "--delete", "--results", str(tmp_path / "theirs")) == 0
    assert (place / "artifacts" / "target" / "bb").exists()
    (place / "results" / "theirs").symlink_to(tmp_path / "theirs")
    (tmp_path / "theirs" / "back").symlink_to(place / "results")  # a circle
    assert call(place, "gc", "--delete") == 0
    assert (place / "artifacts" / "target" / "bb").exists()


def test_verify_and_du_tell_mine_from_what_is_only_read_and_gc_touches_mine_alone(place, tmp_path, capsys):
    lab = tmp_path / "lab"
    Store(lab).build("target", "zz", config={}, upstream={}, make=lambda work: work.save_json("x", 1))
    both = ("--store", str(place / "artifacts"), "--store", str(lab))
    (lab / "target" / "zz" / "x.json").write_text("2\n")
    assert main([*both, "verify"]) == 1
    out = capsys.readouterr().out
    assert "3 artifacts checked, 0 damaged" in out
    assert f"1 artifacts checked in {lab}, which is only read, 1 damaged" in out and "tell the owner" in out
    assert main([*both, "du"]) == 0
    assert f"in {lab}, which is only read" in capsys.readouterr().out
    assert main([*both, "gc", "--delete", "--results", str(place / "results")]) == 0
    assert f"only read: {lab}" in capsys.readouterr().out
    assert (lab / "target" / "zz").exists() and not (place / "artifacts" / "target" / "bb").exists()


def test_a_lock_half_given_back_by_the_dead_is_cleared_at_the_next_start(tmp_path):
    locks = tmp_path / "locks"
    locks.mkdir()
    code = "import sys; from pathlib import Path; from midre_exp.store import lockfile\n"
    code += "for name in sys.argv[1:]: Path(name).write_bytes(lockfile.content('0' * 32, 'x'))"
    dead = [locks / f"target-aa.lock.{name}" for name in ("0123.gone", "0123.tmp", "takeover")]
    subprocess.run([sys.executable, "-c", code, *map(str, dead)], check=True)
    alive = locks / "target-bb.lock.0123.gone"
    alive.write_bytes(lockfile.content("1" * 32, "x"))
    Store(tmp_path).check()
    assert list(locks.iterdir()) == [alive]
