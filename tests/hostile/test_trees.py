"""Data trees, records and stores that somebody made to do harm: one sentence each, soon and in little memory."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from midre_exp.data.picture import UNREADABLE, read_picture
from midre_exp.data.readers.celeba_lists import read_lists
from midre_exp.data.readers.file_list import require_files
from midre_exp.data.readers.folder import FaceFolder, decode
from midre_exp.data.readers.layout import folder_names, image_names
from midre_exp.data.readers.stanford_dogs import first_box, read_list
from midre_exp.data.readers.vggface2 import read_boxes
from midre_exp.data.transforms import Resize, ResizeShorterSide
from midre_exp.errors import ConfigError, DataError, StoreError
from midre_exp.records import read_record
from midre_exp.report.runs.published import COLUMNS, read_published
from midre_exp.store import lockfile as lockfiles
from midre_exp.store.artifact import CHECKSUM, MANIFEST, Artifact, DamagedError, read_manifest
from midre_exp.store.files import read_json
from midre_exp.store.store import Store
from midre_exp.sweep.job import check_frozen
from tests.report.paper_records import record


def png(width: int, height: int, rows: int = 0) -> bytes:
    """A grey PNG that says it is so large, with a few bytes of zeros."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((width + 1) * rows), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (12_000, 12_000), (2**31 - 1, 1)])
def test_pictures_of_more_pixels_than_a_photograph_are_not_unpacked(
    width: int, height: int, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png(width, height))
    for read in (lambda: read_picture(path, [Resize(size=8)]), lambda: decode(path, 8, "center")):
        with pytest.raises(UNREADABLE):
            read()


def test_a_line_of_pixels_is_not_blown_up(tmp_path: Path) -> None:
    path = tmp_path / "line.png"
    path.write_bytes(png(60_000, 1, rows=1))
    with pytest.raises(DataError, match="60000x1 px would become 15360000 px long"):
        read_picture(path, [ResizeShorterSide(size=256)])


@pytest.mark.parametrize("box", [(0, 0, 10**9, 10**9), (-(10**9), 0, 10**9, 5), (0, 0, 10**30, 10)])
def test_a_box_far_outside_the_picture_is_unreadable(box: tuple[int, ...], tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(UNREADABLE):
        read_picture(tmp_path / "a.png", [], box)


def test_links_in_a_circle_are_no_folders(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to(tmp_path / "round")
    (tmp_path / "up").symlink_to(tmp_path)
    assert folder_names(tmp_path) == ("up",)
    assert image_names(tmp_path) == ()


def test_thumbnails_of_network_drives_are_no_people_of_an_official_download(tmp_path: Path) -> None:
    for name in ("@eaDir", "__MACOSX", "lost+found", "n000001", "n000001/@eaDir"):
        (tmp_path / name).mkdir()
    (tmp_path / "n000001" / "Thumbs.db").touch()
    (tmp_path / "n000001" / "1.jpg").touch()
    assert folder_names(tmp_path) == ("n000001",)
    assert image_names(tmp_path / "n000001") == ("1.jpg",)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_among_the_images_is_not_opened(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for person in "ab":
        (tmp_path / person).mkdir()
        for number in range(2):
            Image.new("RGB", (9, 9)).save(tmp_path / person / f"{number}.png")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    folder = FaceFolder(
        root=tmp_path, size=8, private=["a"], private_share=0.5, test_share=0.5, crop="none", seed=0
    )
    assert len(folder.load("train")) == len(folder.load("test")) == 1
    assert "1 of 3 images that cannot be read: a/pipe.png (no regular file)" in caplog.text
    with pytest.raises(DataError, match="1 of 1 listed images are not in"):
        require_files(tmp_path, ["a/pipe.png"], of=1, title="X")


@pytest.mark.parametrize("name", ["a\0.jpg", "\ud800.jpg", "a" * 5000, "../" * 3000])
def test_names_that_no_file_can_have_count_as_absent(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 listed images are not in"):
        require_files(tmp_path, [name], of=1, title="X")


@pytest.mark.parametrize("label", ["²", "٣", "9" * 5000, "-1", "1e3", "0x1"])
def test_labels_in_other_digits_are_wrong_lines(label: str, tmp_path: Path) -> None:
    path = tmp_path / "trainset.txt"
    path.write_text(f"000001.jpg {label}\n", encoding="utf-8")
    with pytest.raises(DataError, match="line 1 reads") as caught:
        read_lists({"train": path, "test": path, "public": path})
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("width", ["9" * 400, "9" * 5000, "1e9", "nan", "-1"])
def test_boxes_beyond_any_picture_are_wrong_lines(width: str, tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(f'NAME_ID,X,Y,W,H\n"n1/1",1,1,{width},5\n')
    with pytest.raises(DataError, match="line 2 reads"):
        read_boxes(path, {"n1/1"}, 0.3)


ANNOTATIONS = {
    "entities": '<!DOCTYPE a [<!ENTITY a '
                '"aaaaaaaaaa">' + "".join(f'<!ENTITY {b} '
                                          f'"{f"&{a};" * 10}">' for a, b in zip("abcdefghi", "bcdefghij", strict=True)) + "]><annotation>&j;</annotation>",
    "outside": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
    "deep": "<a>" * 200_000 + "</a>" * 200_000,
    "endless number": f"<annotation><object><bndbox><xmin>{'9' * 10_000}</xmin></bndbox></object></annotation>",
    "attributes": "<annotation " + " ".join(f'a{i}="1"' for i in range(20_000)) + "/>",
}  # fmt: skip


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_annotations_that_unfold_or_reach_outside_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "n1_1"
    path.write_text(ANNOTATIONS[name])
    started = time.process_time()
    with pytest.raises(DataError, match=r"download the annotations again"):
        first_box(path)
    assert time.process_time() - started < 2


def mat(*elements: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + b"".join(elements)


def element(kind: int, content: bytes, size: int | None = None) -> bytes:
    padding = b"" if kind == 15 else bytes(-len(content) % 8)
    return struct.pack("<II", kind, len(content) if size is None else size) + content + padding


def matrix(dims: tuple[int, ...], *parts: bytes, kind: int = 6) -> bytes:
    head = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(dims)}i", *dims))
    return element(14, head + element(1, b"labels") + b"".join(parts))


MATLAB = {
    "bomb": mat(element(15, zlib.compress(bytes(100 << 20), 1))),
    "huge": mat(matrix((1 << 30, 1 << 30), element(9, bytes(8)))),
    "negative": mat(matrix((-1, -1), element(9, bytes(8)))),
    "no size": mat(matrix((), element(9, bytes(8)))),
    "cut off": mat(element(14, b"", size=1 << 31)),
    "in itself": mat(matrix((1, 1), matrix((1, 1), kind=1), kind=1)),
    "cell without entries": mat(matrix((1 << 30, 1), kind=1)),
    "unknown numbers": mat(matrix((1, 1), element(99, bytes(8)))),
    "level 7.3": b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n",
}


@pytest.mark.parametrize("name", MATLAB)
def test_matlab_files_that_lie_about_their_sizes_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train_list.mat"
    path.write_bytes(MATLAB[name])
    with pytest.raises(DataError, match=r"cannot be read as a MATLAB file|has no variable"):
        read_list(path)


def changed(*path: str, value: Any) -> dict[str, Any]:
    found = record(90, 50, "midre", by_identity=[1.0, 2.0])
    node: Any = found
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return found


RECORDS: dict[str, Any] = {
    "list": [1],
    "number": 1,
    "empty": {},
    "acc as text": changed("metrics", "acc", value="90"),
    "acc not a number": changed("metrics", "acc", value=float("nan")),
    "acc infinite": changed("metrics", "acc", value=float("inf")),
    "no accuracy": changed("metrics", value={}),
    "seed as text": changed("seed", value="0"),
    "setup as text": changed("setup", value="S01"),
    "defense without parts": changed("defense", value={"label": "x"}),
    "parts as list": changed("defense", "parts", value=[]),
    "no test images": changed("counts", "private_test", value=0),
    "config as list": changed("config", value=[]),
    "data as text": changed("config", "data", value="x"),
    "identities as text": changed("per_identity", "att_acc1", value=["x"]),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_file_that_is_no_record_is_named(name: str, tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(RECORDS[name]))
    with pytest.raises(StoreError, match=r"r.json is no run record; remove it"):
        read_record(path)


def test_a_record_as_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(json.dumps(record(90, 50, "midre", by_identity=[1.0])))
    assert read_record(path) == record(90, 50, "midre", by_identity=[1.0])


MANIFEST_OF = {"stage": "target", "key": "k", "metrics": {}, "seconds": 1.0, "files": {}}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[", b"[]", b"{}", b"\xff", b"[" * 100_000,
        json.dumps(MANIFEST_OF | {"files": {"../../x": {"bytes": 1, "sha256": "0"}}}).encode(),
        json.dumps(MANIFEST_OF | {"files": {"a": {"bytes": "1", "sha256": "0"}}}).encode(),
        json.dumps(MANIFEST_OF | {"files": [1]}).encode(),
        json.dumps(MANIFEST_OF | {"seconds": float("inf")}).encode(),
        json.dumps(MANIFEST_OF | {"metrics": 3}).encode(),
    ],
    ids=range(11),
)  # fmt: skip
def test_a_manifest_made_by_hand_is_damaged_though_its_checksum_is_right(
    content: bytes, tmp_path: Path
) -> None:
    folder = tmp_path / "target" / "k"
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_bytes(content)
    (folder / CHECKSUM).write_text(f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n")
    with pytest.raises(DamagedError, match=MANIFEST):
        read_manifest(folder, "target", "k")
    assert not Store(tmp_path).peek("target", "k")
    assert Store(tmp_path).find("target", "k") is None


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b"[" * 100_000])
def test_a_file_with_the_right_checksum_and_strange_content_is_named(content: bytes, tmp_path: Path) -> None:
    entry = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    artifact = Artifact("s", "k", tmp_path, {"files": {"w.safetensors": entry, "h.json": entry}})
    for name in ("w.safetensors", "h.json"):
        (tmp_path / name).write_bytes(content)
    reads: list[Callable[[], Any]] = [lambda: artifact.tensors("w"), lambda: artifact.json("h")]
    for read in reads:
        with pytest.raises(StoreError, match="though its checksum is right; delete"):
            read()


def test_garbled_stamps_and_locks_never_trip_anything(tmp_path: Path) -> None:
    stamps = tmp_path / ".verified" / "target" / "k.json"
    stamps.parent.mkdir(parents=True)
    for text in (b"[" * 100_000, b'{"a\\u0000": [1]}', b'{"/etc/passwd": [1, 2, 3, 4]}', b'{"": null}'):
        stamps.write_bytes(text)
        assert not Store(tmp_path).peek("target", "k")
    for raw in (
        b'{"token": 1, "pid": 1e999}',
        b'{"token": 1, "pid": NaN}',
        b"[" * 100_000,
        b'{"token": {}, "pid": []}',
    ):
        assert lockfiles.parse(raw) == lockfiles.Holder()


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b"1" * 10_000, b'"\\ud800'])
def test_json_that_would_topple_the_parser_is_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(StoreError, match="is not JSON"):
        read_json(tmp_path / "x.json")


def test_a_snapshot_that_is_no_config_is_one_sentence(tiny: Any, tmp_path: Path) -> None:
    settings = tiny("plan.key=0000")
    place = tmp_path / "runs" / "planned"
    place.mkdir(parents=True)

    class Plan:
        key = "1111"

    for content in ("[]", "3", "null"):
        (place / "0000.json").write_text(content)
        with pytest.raises(StoreError, match="is no config of a job"):
            check_frozen(settings, Plan(), None)  # type: ignore[arg-type]


ROW = ["table1", "S01", "gmi", "vgg16", "celeba", "celeba", "64", "NoDef", "", "", "", "86.9", "20", "1", "", "", "", "", "", "", ""]  # fmt: skip


@pytest.mark.parametrize(
    "row",
    [ROW[:-3], [*ROW, "more"], [*ROW[:11], "nan", *ROW[12:]], [*ROW[:14], "inf", *ROW[15:]], [*ROW[:18], "²", *ROW[19:]], [*ROW[:18], "9" * 5000, *ROW[19:]]],
    ids=["short", "long", "nan", "inf", "digits", "endless"],
)  # fmt: skip
def test_rows_of_published_numbers_that_cannot_be_right_are_named(row: list[str], tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_text(",".join(COLUMNS) + "\n" + ",".join(row) + "\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"published.csv line 2"):
        read_published(path)


def test_published_numbers_in_no_text_are_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as a csv file"):
        read_published(path)
