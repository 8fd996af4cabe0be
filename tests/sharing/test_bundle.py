"""Bundles of records: what goes out, what comes in, and what does not."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from midre_exp.errors import StoreError
from midre_exp.records import record_files, update_record
from midre_exp.report.runs.captions import provenance
from midre_exp.run import run
from midre_exp.sharing import archive, bundle
from midre_exp.sharing.__main__ import main
from midre_exp.sharing.bundle import read_bundle
from midre_exp.zoo import load_target
from midre_exp.zoo.files import read_file
from tests.report.paper_records import record

SYNTHETIC = {"data": {"name": "synthfaces", "people": "synthetic"}}


def kept(folder: Path, *runs: dict[str, Any]) -> Path:
    """A results folder with these records."""
    for one in runs:
        names = "+".join(reversed(one["defense"]["parts"]))  # in an order of their own, as a config has them
        name = f"{one['setup']['id']}-{names}-s{one['seed']}-{one['key']}.json"
        update_record(folder / "mini" / "records" / name, {"queries": 0, **one})
    return folder


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in record_files(folder / "mini")}


NODEF, MIDRE = record(90, 60, config=SYNTHETIC), record(88, 40, "midre", "nls", seed=1, config=SYNTHETIC)


@pytest.fixture
def lab(tmp_path) -> Path:
    """A bundle of two records."""
    ours = kept(tmp_path / "ours", NODEF, MIDRE)
    assert call("export", tmp_path / "lab.tar", ours) == 0
    return tmp_path / "lab.tar"


def test_what_goes_out_comes_in_with_its_origin_and_once(tmp_path, lab, capsys):
    assert call("import", lab, "--results", tmp_path / "theirs") == 0
    mine, theirs = read(tmp_path / "ours"), read(tmp_path / "theirs")
    assert mine.keys() == theirs.keys() and len(mine) == 2
    digest = hashlib.sha256(lab.read_bytes()).hexdigest()
    for name, one in theirs.items():
        assert one["origin"] == [{"bundle": "lab", "sha256": digest}]
        assert mine[name].items() <= one.items()
    before = {path: path.read_bytes() for path in (tmp_path / "theirs").rglob("*.*")}
    capsys.readouterr()
    assert call("import", lab, "--results", tmp_path / "theirs") == 0
    assert "0 imported, 2 here before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (tmp_path / "theirs").rglob("*.*")} == before


def test_equal_records_are_equal_bytes(tmp_path, lab):
    again = kept(tmp_path / "again", MIDRE, NODEF)
    assert call("export", tmp_path / "other.tar", again / "mini", "--name", "lab") == 0
    assert (tmp_path / "other.tar").read_bytes() == lab.read_bytes()
    assert call("export", tmp_path / "other.tar", again) == 2  # nothing is written over
    with tarfile.open(lab) as tar:  # an ordinary archive for everybody else
        assert (
            tar.getnames()[:2] == ["midre-results.json", "midre-results.sha256"] and len(tar.getnames()) == 4
        )


def test_two_folders_of_records_made_apart_merge(tmp_path, lab):
    third = record(85, 30, "midre", seed=2, config=SYNTHETIC)
    slower = {**NODEF, "device": "another CPU", "seconds": {"target": 99.0}, "commit": "def"}
    theirs = kept(tmp_path / "theirs", third, slower)
    assert call("import", lab, "--results", theirs) == 0
    found = read(theirs)
    assert len(found) == 3 and sum("origin" in one for one in found.values()) == 1
    assert call("export", tmp_path / "both.tar", theirs) == 0
    assert call("import", tmp_path / "both.tar", "--results", tmp_path / "third") == 0
    ways = [[one["bundle"] for one in found["origin"]] for found in read(tmp_path / "third").values()]
    assert sorted(ways) == [["both"], ["both"], ["lab", "both"]]


def test_other_results_of_the_same_run_are_refused_unless_one_says_whose_stay(tmp_path, lab, capsys):
    other = {**NODEF, "metrics": {**NODEF["metrics"], "acc": 91.5}}
    theirs = kept(tmp_path / "theirs", other)
    before = read(theirs)
    assert call("import", lab, "--results", theirs) == 2
    said = capsys.readouterr().err
    assert "metrics.acc was 91.5, is 90" in said and "nothing was imported" in said and said.count("\n") == 1
    assert read(theirs) == before
    assert call("import", lab, "--results", theirs, "--keep", "ours") == 0
    assert {one["metrics"]["acc"] for one in read(theirs).values()} == {91.5, 88}
    assert call("import", lab, "--results", theirs, "--keep", "theirs") == 0
    assert {one["metrics"]["acc"] for one in read(theirs).values()} == {90, 88}


def test_a_caption_and_a_row_say_what_was_imported(tmp_path, lab):
    from midre_exp.records.origin import origins

    assert call("import", lab, "--results", tmp_path / "theirs") == 0
    found = [*sorted(read(tmp_path / "theirs").values(), key=lambda one: one["seed"]), NODEF]
    assert provenance(found).endswith("2 of 3 runs imported from lab.")
    digest = hashlib.sha256(lab.read_bytes()).hexdigest()[:12]
    assert origins(found) == [f"Imported from lab (bundle {digest}): seeds 0, 1"] and origins([NODEF]) == []


def test_no_byte_can_be_altered(tmp_path):
    ours = kept(tmp_path / "ours", NODEF)
    place = tmp_path / "lab.tar"
    assert call("export", place, ours) == 0
    whole = place.read_bytes()
    for at in range(0, len(whole), 7):  # every place of a header, for 7 does not divide its 512 bytes
        changed = bytearray(whole)
        changed[at] ^= 1 + at % 255
        place.write_bytes(changed)
        with pytest.raises(StoreError):
            read_bundle(place)
    for end in (0, 100, 512, 1024, len(whole) - 512, len(whole) - 1):
        place.write_bytes(whole[:end])
        with pytest.raises(StoreError):
            read_bundle(place)
    for more in (b"x", bytes(512), bytes(9216)):
        place.write_bytes(whole + more)
        with pytest.raises(StoreError):
            read_bundle(place)


def rewritten(place: Path, change: Callable[[dict[str, bytes]], dict[str, bytes] | None]) -> None:
    """The bundle with other files, its manifest's checksum made right: as somebody could write it who means
    ill.
    """
    with tarfile.open(place) as tar:
        files = {entry.name: tar.extractfile(entry).read() for entry in tar}
    files = change(files) or files
    text = files["midre-results.json"]
    files["midre-results.sha256"] = f"{hashlib.sha256(text).hexdigest()}  midre-results.json\n".encode()
    with place.open("wb") as file:
        archive.write(file, files.items())


def manifest(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        told = {**json.loads(files["midre-results.json"]), **values}
        files["midre-results.json"] = json.dumps(told).encode()

    return change


def entry(number: int = 0, **values: Any) -> Callable[[dict[str, bytes]], None]:
    """One record's line in the manifest with other values; ``content``: of the file too."""

    def change(files: dict[str, bytes]) -> None:
        told = json.loads(files["midre-results.json"])
        line = told["records"][number]
        content = values.pop("content", None)
        if content is not None:
            files[line["member"]] = content
            line.update(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
        if values.get("member"):
            files[values["member"]] = files.pop(line["member"])
        line.update(values)
        files["midre-results.json"] = json.dumps(told).encode()

    return change


def other_record(**values: Any) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        member = json.loads(files["midre-results.json"])["records"][0]["member"]
        entry(content=json.dumps({**json.loads(files[member]), **values}).encode())(files)

    return change


EVIL = {
    "a later major": (manifest(bundle="2.0"), "a bundle of version '2.0'"),
    "records of a later schema": (manifest(record_schema=2), "records of schema '2'"),
    "another format": (manifest(format="else"), "no bundle of results"),
    "no name": (manifest(name="two\nlines"), "no name that could stand in a table"),
    "no list": (manifest(records={"a": 1}), "does not list its records"),
    "an unlisted file": (lambda files: {**files, "more": b"x"}, "'more' is not in its manifest"),
    "a record that climbs": (entry(member="records/../../x.json"), "is no name of a record"),
    "an absolute record": (entry(member="/etc/x.json"), "is no name of a record"),
    "a file name that climbs": (entry(file="../../../x.json"), "is no name of the record of run"),
    "a file name of another run": (entry(file="S19-nodef-s0-0123456789abcdef.json"), "is no name of the"),
    "no JSON": (entry(content=b"{"), "is not JSON"),
    "too deep": (entry(content=b"[" * 100_000), "is not JSON"),
    "no record": (entry(content=b"{}"), "is no run record"),
    "not a number": (other_record(metrics={"acc": float("nan"), "evaluator_acc": 1}), "is no run record"),
    "a record of a later schema": (other_record(schema=2), "a later version of this program wrote it"),
    "a key that climbs": (other_record(key="../../../home"), "is no run record"),
    "a scale that climbs": (other_record(scale="../x"), "is no run record"),
    "another run": (other_record(key="0123456789abcdef"), "is the record of another run"),
    "a wrong checksum": (entry(sha256="0" * 64), "is damaged or was changed"),
    "weights of no run": (
        manifest(
            files=[{"member": "weights/target-0123456789abcdef.safetensors", "bytes": 1, "sha256": "0" * 64}]
        ),
        "belongs to none of its runs",
    ),
}


@pytest.mark.parametrize("evil", EVIL)
def test_what_somebody_made_up_is_refused_in_a_sentence_and_nothing_is_written(tmp_path, lab, evil, capsys):
    change, words = EVIL[evil]
    rewritten(lab, change)
    assert call("import", lab, "--results", tmp_path / "theirs" / "results") == 2
    said = capsys.readouterr().err
    assert words in said and said.startswith("midre_exp: ") and said.count("\n") == 1
    assert not (tmp_path / "theirs").exists()


def with_member(place: Path, member: tarfile.TarInfo, data: bytes = b"") -> None:
    with tarfile.open(place) as tar:
        old = [(one, tar.extractfile(one).read()) for one in tar]
    with tarfile.open(place, "w", format=tarfile.GNU_FORMAT) as tar:
        for one, content in [*old, (member, data)]:
            tar.addfile(one, io.BytesIO(content))


@pytest.mark.parametrize(
    "kind",
    [
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.FIFOTYPE,
        tarfile.DIRTYPE,
        tarfile.GNUTYPE_SPARSE,
    ],
)
def test_links_devices_and_sparse_files_are_refused(tmp_path, lab, kind, capsys):
    member = tarfile.TarInfo("records/mini/0123456789abcdef.json")
    member.type, member.linkname = kind, "/etc/passwd"
    with_member(lab, member)
    assert call("import", lab, "--results", tmp_path / "theirs") == 2
    assert "nothing was imported" in capsys.readouterr().err and not (tmp_path / "theirs").exists()


def test_what_is_no_bundle_is_one_sentence(tmp_path, lab, capsys):
    import gzip

    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(bytes(10_000_000)))  # a bomb is never unpacked
    (tmp_path / "b.tar").write_bytes(b"no archive")
    os.mkfifo(tmp_path / "pipe")
    for name, words in {
        "a.tar.gz": "is compressed",
        "b.tar": "is no bundle",
        "pipe": "is no file",
        "ours": "is no file",
        "absent": "there is no",
    }.items():
        assert call("import", tmp_path / name, "--results", tmp_path / "theirs") == 2
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1
    with tarfile.open(lab) as tar:
        (first, *_) = tar
        content = tar.extractfile(first).read()
    with lab.open("ab") as file, pytest.raises(StoreError):  # a second archive behind the first
        archive.write(file, [("midre-results.json", content)])
        file.flush()
        read_bundle(lab)


def test_a_record_that_is_too_large_is_refused_before_it_is_read(tmp_path, lab, monkeypatch):
    monkeypatch.setattr(bundle, "_MOST_RECORD", 100)
    with pytest.raises(StoreError, match="too large to be true"):
        read_bundle(lab)


def test_names_of_real_people_stay_here_unless_they_may_go(tmp_path, capsys):
    real = {
        **record(90, 60, config={"data": {"name": "lfw", "people": "public_figures"}}),
        "classes": ["Ann"],
    }
    ours = kept(tmp_path / "ours", {**real, "found_in": {"target": "/home/ann/store"}})
    assert call("export", tmp_path / "a.tar", ours) == 0
    assert "names of their classes are left out, unless publish.people=true" in capsys.readouterr().out
    assert call("export", tmp_path / "b.tar", ours, "publish.people=true") == 0
    told = [read_bundle(tmp_path / name).runs[0].record for name in ("a.tar", "b.tar")]
    assert "classes" not in told[0] and told[1]["classes"] == ["Ann"]
    assert not any("found_in" in one for one in told)
    assert call("import", tmp_path / "a.tar", "--results", ours) == 0  # the same run all the same
    assert "0 imported" in capsys.readouterr().out


def test_weights_and_latents_go_along_and_pictures_never(tmp_path, tiny, stocked, monkeypatch, capsys):
    path = run(tiny())
    one = json.loads(path.read_text())
    assert call("export", tmp_path / "x.tar", path, "--weights", "--latents", "--store", tmp_path / "no") == 2
    assert "is not in" in capsys.readouterr().err and not (tmp_path / "x.tar").exists()
    told = ["--weights", "--latents", "--store", stocked]
    assert call("export", tmp_path / "x.tar", path, *told) == 0
    assert call("import", tmp_path / "x.tar", "--results", tmp_path / "theirs") == 0
    shared = tmp_path / "theirs" / "mini" / "shared"
    latents = read_file(shared / "latents" / f"attack-{one['artifacts']['attack']}.safetensors")
    assert set(latents.tensors) == {"latents", "labels", "restarts", "confidence", "queries"}
    assert latents.card["people"] == "synthetic" and (shared / ".gitignore").read_text() == "*\n"
    model = load_target(shared / "weights" / f"target-{one['artifacts']['target']}.safetensors")
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 4)
    monkeypatch.setattr(bundle, "people_of", lambda config: "consented")
    assert call("export", tmp_path / "y.tar", path, *told) == 2
    assert "add publish.people=true" in capsys.readouterr().err and not (tmp_path / "y.tar").exists()
    assert call("export", tmp_path / "y.tar", path, *told, "publish.people=true") == 0
