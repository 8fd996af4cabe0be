"""Artifacts handed on: out with a card, in with every checksum, and nothing else."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from midre_exp.store.__main__ import main
from midre_exp.store.store import Store, Workspace


def fill(number: float) -> Callable[[Workspace], None]:
    def make(work: Workspace) -> None:
        work.save_tensors("weights", {"w": torch.full((9,), number)})
        work.save_json("history", [1, 2])
        work.metrics.update(acc=93.251, counts={"private_train": 12})

    return make


def build(place: Path, stage: str, key: str, number: float = 1.0, **upstream: str) -> None:
    config = {"defense": {"midre": {"a_h": 0.4}}, "data": {"name": "faces | of <us>"}}
    Store(place).build(stage, key, config=config, upstream=upstream, make=fill(number))


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    place = tmp_path / "ours"
    build(place, "target", "aa11")
    build(place, "prior", "bb22", target="aa11")
    build(place, "attack", "cc33", target="aa11", prior="bb22")
    return place


@pytest.fixture(params=["tar", "folder"])
def exported(request, tmp_path, ours) -> Path:
    place = tmp_path / ("out.tar" if request.param == "tar" else "out")
    assert main(["--store", str(ours), "export", "attack/cc33", "--upstream", str(place)]) == 0
    return place


def call(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def contents(store: Path) -> dict[str, bytes]:
    """Every published file."""
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in sorted(store.glob("[a-z]*/*/*"))
        if path.is_file() and path.parts[-3] not in ("work", "locks")
    }


def test_what_was_exported_is_imported_byte_for_byte(tmp_path, ours, exported, capsys):
    theirs = tmp_path / "theirs"
    capsys.readouterr()
    assert call("import", exported, "--store", theirs) == 0
    assert capsys.readouterr().out.splitlines() == [
        "imported: attack cc33",
        "imported: prior bb22",
        "imported: target aa11",
    ]
    assert contents(theirs) == contents(ours)
    assert Store(theirs).find("attack", "cc33").tensors()["w"].sum() == 9
    assert not list((theirs / "work").iterdir()) and not list((theirs / "locks").iterdir())
    assert call("import", exported, "--store", theirs) == 0
    assert capsys.readouterr().out.count("already here") == 3


def test_a_key_may_be_cut_short_and_only_what_was_asked_for_goes(tmp_path, ours, capsys):
    assert call("--store", ours, "export", "aa", "prior/bb", tmp_path / "out") == 0
    found = sorted(path.name for path in (tmp_path / "out").glob("*/*"))
    assert found == ["aa11", "bb22"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "README.md",
        "midre-export.json",
        "prior",
        "target",
    ]


def test_an_exported_folder_can_be_read_as_a_store(tmp_path, ours):
    assert call("--store", ours, "export", "aa11", tmp_path / "out") == 0
    store = Store([tmp_path / "mine", tmp_path / "out"])
    store.check()
    assert store.find("target", "aa11").store == tmp_path / "out"


def test_the_card_says_what_it_is(tmp_path, ours):
    assert call("--store", ours, "export", "aa11", tmp_path / "out") == 0
    text = (tmp_path / "out" / "README.md").read_text()
    for part in ("## target aa11", "| accuracy on the test images (%) | 93.25 |", '{"a\\_h": 0.4}', "torch"):
        assert part in text
    assert "faces \\| of &lt;us>" in text and 'find("target", "aa11").tensors("weights")' in text


def test_the_same_artifacts_are_the_same_bytes(tmp_path, ours):
    for name in ("one.tar", "two.tar"):
        assert call("--store", ours, "export", "aa11", tmp_path / name) == 0
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    with tarfile.open(tmp_path / "one.tar") as tar:
        assert {(entry.uid, entry.mtime, entry.mode) for entry in tar} == {(0, 0, 0o644)}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("zz", "names no artifact"),
        ("", "names no artifact"),
        ("a", "beginning of 2"),
        ("prior/aa", "names no"),
    ],
)
def test_a_key_of_none_or_of_several_is_a_mistake(tmp_path, ours, capsys, name, said):
    build(ours, "target", "ab12")
    assert call("--store", ours, "export", name, tmp_path / "out") == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_nothing_is_overwritten_and_nothing_half_written_stays(tmp_path, ours, capsys):
    (tmp_path / "out.tar").write_text("mine")
    assert call("--store", ours, "export", "aa11", tmp_path / "out.tar") == 2
    assert "exists already" in capsys.readouterr().err and (tmp_path / "out.tar").read_text() == "mine"
    file = ours / "target" / "aa11" / "weights.safetensors"
    file.write_bytes(bytes(len(file.read_bytes())))
    assert call("--store", ours, "export", "aa11", tmp_path / "new.tar") == 2
    assert "damaged" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ours", "out.tar"]


def test_an_upstream_that_is_gone_is_told(tmp_path, ours, capsys):
    shutil.rmtree(ours / "prior")
    assert call("--store", ours, "export", "cc33", "--upstream", tmp_path / "out") == 2
    assert "prior/bb22" in capsys.readouterr().err
    assert call("--store", ours, "export", "cc33", tmp_path / "out") == 0


def test_another_build_of_the_same_key_is_a_conflict_and_nothing_is_taken(tmp_path, exported, capsys):
    theirs = tmp_path / "theirs"
    build(theirs, "prior", "bb22", number=2.0)
    before = contents(theirs)
    assert call("import", exported, "--store", theirs) == 2
    said = capsys.readouterr().err
    assert "prior/bb22" in said and "weights.safetensors differ" in said and "nothing was imported" in said
    assert contents(theirs) == before and not list((theirs / "work").iterdir())


def test_a_build_that_took_another_time_is_the_same(tmp_path, exported, capsys):
    theirs = tmp_path / "theirs"
    build(theirs, "prior", "bb22")
    kept = contents(theirs)
    assert call("import", exported, "--store", theirs) == 0
    assert "already here: prior bb22" in capsys.readouterr().out
    assert contents(theirs).items() >= kept.items()


def rewrite(place: Path, change: Callable[[str, bytes], list[tuple[tarfile.TarInfo, bytes]]]) -> None:
    """A tar file with every entry as ``change`` makes it."""
    with tarfile.open(place) as tar:
        old = [(entry.name, tar.extractfile(entry).read()) for entry in tar]
    with tarfile.open(place, "w") as tar:
        for name, data in old:
            for entry, content in change(name, data):
                tar.addfile(entry, io.BytesIO(content))


def plain(
    name: str, data: bytes, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.size, entry.type, entry.linkname = len(data) if kind == tarfile.REGTYPE else 0, kind, link
    return entry, data if kind == tarfile.REGTYPE else b""


WEIGHTS = "target/aa11/weights.safetensors"
EVIL = {
    "climbs": lambda n, d: [plain(n, d), *([plain("../evil", b"x")] if n == WEIGHTS else [])],
    "absolute": lambda n, d: [plain(n, d), *([plain("/tmp/evil-midre", b"x")] if n == WEIGHTS else [])],
    "symlink": lambda n, d: [plain(n, d) if n != WEIGHTS else plain(n, d, tarfile.SYMTYPE, "/etc/passwd")],
    "hard link": lambda n, d: [plain(n, d) if n != WEIGHTS else plain(n, d, tarfile.LNKTYPE, "README.md")],
    "device": lambda n, d: [plain(n, d) if n != WEIGHTS else plain(n, d, tarfile.CHRTYPE)],
    "pipe": lambda n, d: [plain(n, d) if n != WEIGHTS else plain(n, d, tarfile.FIFOTYPE)],
    "sparse": lambda n, d: [plain(n, d) if n != WEIGHTS else plain(n, d, tarfile.GNUTYPE_SPARSE)],
    "twice": lambda n, d: [plain(n, d), plain(n, d)] if n == WEIGHTS else [plain(n, d)],
    "other bytes": lambda n, d: [plain(n, d[:-1] + b"x" if n == WEIGHTS else d)],
    "shorter": lambda n, d: [plain(n, d[:-1] if n == WEIGHTS else d)],
    "absent": lambda n, d: [plain(n, d)] if n != WEIGHTS else [],
    "no index": lambda n, d: [plain(n, d)] if n != "midre-export.json" else [],
    "index no JSON": lambda n, d: [plain(n, d if n != "midre-export.json" else b"{")],
    "index climbs": lambda n, d: [plain(n, d.replace(b'"aa11"', b'"../a"'))],
    "index of work": lambda n, d: [plain(n, d.replace(b'"target"', b'"work"') if "export" in n else d)],
    "index of later": lambda n, d: [plain(n, d.replace(b'"schema": 1', b'"schema": 9'))],
    "manifest changed": lambda n, d: [plain(n, d.replace(b"93.251", b"99.999"))],
    "manifest of another": lambda n, d: [plain(n.replace("target/aa11", "target/dd44"), d)],
}


@pytest.mark.parametrize("evil", EVIL)
def test_an_archive_that_is_not_what_it_should_be_is_refused_whole(tmp_path, ours, capsys, evil):
    place, theirs = tmp_path / "out.tar", tmp_path / "theirs"
    assert call("--store", ours, "export", "cc33", "--upstream", place) == 0
    rewrite(place, EVIL[evil])
    capsys.readouterr()
    assert call("import", place, "--store", theirs) == 2
    said = capsys.readouterr().err
    assert said.startswith("midre_exp: ") and said.count("\n") == 1 and "out.tar" in said
    assert contents(theirs) == {} and not list((theirs / "work").iterdir())
    assert not (tmp_path / "evil").exists() and not Path("/tmp/evil-midre").exists()


@pytest.mark.parametrize("kind", ["file", "folder", "pipe"])
def test_a_folder_with_links_or_pipes_is_refused(tmp_path, ours, capsys, kind):
    place = tmp_path / "out"
    assert call("--store", ours, "export", "aa11", place) == 0
    file = place / WEIGHTS
    if kind == "file":
        file.rename(tmp_path / "moved")
        file.symlink_to(tmp_path / "moved")
    elif kind == "folder":
        (place / "target").rename(tmp_path / "moved")
        (place / "target").symlink_to(tmp_path / "moved")
    else:
        os.mkfifo(place / "target" / "aa11" / "more")
    assert call("import", place, "--store", tmp_path / "theirs") == 2
    assert "no plain file" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"not a tar", b"\x1f\x8b" + bytes(100)])
def test_other_files_are_one_sentence(tmp_path, capsys, content):
    (tmp_path / "x.tar").write_bytes(content)
    assert call("import", tmp_path / "x.tar", "--store", tmp_path / "theirs") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert call("import", tmp_path / "absent.tar", "--store", tmp_path / "theirs") == 2
    assert "there is no" in capsys.readouterr().err
    os.mkfifo(tmp_path / "pipe.tar")
    assert call("import", tmp_path / "pipe.tar", "--store", tmp_path / "theirs") == 2
    assert "is no file" in capsys.readouterr().err


def test_a_truncated_archive_is_refused(tmp_path, ours, capsys):
    place = tmp_path / "out.tar"
    assert call("--store", ours, "export", "cc33", "--upstream", place) == 0
    whole = place.read_bytes()
    end = whole.index(b"midre-export.json")  # the last of the archive
    for share in (0.1, 0.3, 0.5, 0.9, 1.0):
        place.write_bytes(whole[: int(end * share)])
        assert call("import", place, "--store", tmp_path / "theirs") == 2
        assert contents(tmp_path / "theirs") == {}


def test_nothing_is_unpickled(tmp_path, ours):
    """A file of any ending is bytes: what would run as a pickle is copied as it is."""
    data = b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR."
    store = Store(ours)
    store.build("target", "dd", config={}, upstream={}, make=lambda work: work.save_file("model.pt", data))
    assert call("--store", ours, "export", "target/dd", tmp_path / "out.tar") == 0
    assert call("import", tmp_path / "out.tar", "--store", tmp_path / "theirs") == 0
    assert (tmp_path / "theirs" / "target" / "dd" / "model.pt").read_bytes() == data
    assert not (tmp_path / "ran").exists()


def test_the_index_is_plain(tmp_path, ours):
    assert call("--store", ours, "export", "aa11", tmp_path / "out") == 0
    index = json.loads((tmp_path / "out" / "midre-export.json").read_text())
    assert index == {"schema": 1, "artifacts": [{"stage": "target", "key": "aa11"}]}
