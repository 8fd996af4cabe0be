from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from midre_exp.store.__main__ import main
from midre_exp.store.artifact import readable
from midre_exp.store.store import Store


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
