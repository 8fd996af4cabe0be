from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from midre_exp.data import cache
from midre_exp.data.cache import cached_images
from midre_exp.errors import DataError
from tests.data.slow_decoding import decode_slowly

COUNT = 11
NAMES = [f"{row:02d}.png" for row in range(COUNT)]


class Reader:
    """Pictures full of their row number; remembers which rows were read and fails where it is told to."""

    def __init__(self, broken: dict[int, type[Exception]] | None = None):
        self.rows: list[int] = []
        self.broken = broken or {}
        self._lock = threading.Lock()

    def __call__(self, row: int) -> Tensor:
        with self._lock:
            self.rows.append(row)
        if row in self.broken:
            raise self.broken[row](f"row {row}")
        return torch.full((3, 4, 5), row, dtype=torch.uint8)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_BLOCK", 4)


def images(store: Path, read: Callable[[int], Tensor], key: str = "k") -> Tensor:
    return cached_images(
        store, key, names=NAMES, labels=list(range(COUNT)), read=read, title="numbers", config={}
    )


def test_images_keep_their_rows_and_are_decoded_once(tmp_path: Path) -> None:
    first, second = Reader(), Reader()
    found = images(tmp_path, first)
    assert found.shape == (COUNT, 3, 4, 5)
    assert found[:, 2, 3, 4].tolist() == list(range(COUNT))
    assert sorted(first.rows) == [0, *range(COUNT)]  # the first row also tells the shape
    assert images(tmp_path, second).equal(found)
    assert second.rows == []
    assert images(tmp_path, second, key="other").equal(found)
    assert sorted(second.rows) == [0, *range(COUNT)]


def test_the_names_and_labels_are_written_beside_the_pixels(tmp_path: Path) -> None:
    images(tmp_path, Reader())
    lines = (tmp_path / "images" / "k" / "files.txt").read_text().splitlines()
    assert lines == [f"{name} {row}" for row, name in enumerate(NAMES)]


def test_changing_a_loaded_tensor_leaves_the_cache_alone(tmp_path: Path) -> None:
    images(tmp_path, Reader()).fill_(255)
    assert images(tmp_path, Reader())[3].unique().tolist() == [3]


def test_a_second_attempt_does_not_decode_finished_blocks_again(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="row 9"):
        images(tmp_path, Reader({9: RuntimeError}))
    again = Reader()
    assert images(tmp_path, again)[:, 0, 0, 0].tolist() == list(range(COUNT))
    assert sorted(again.rows) == [0, 8, 9, 10]


def test_unreadable_files_are_all_named_and_may_be_mended(tmp_path: Path) -> None:
    broken = {2: OSError, 5: ValueError, 10: SyntaxError}
    with pytest.raises(
        DataError, match=r"numbers: 3 of 11 images cannot be read: 02.png \(row 2\), 05.png \(row 5\), 10.png"
    ):
        images(tmp_path, Reader(broken))
    with pytest.raises(DataError, match=r"1 of 11 images cannot be read: 05.png"):
        images(tmp_path, Reader({5: ValueError}))
    mended = Reader()
    assert images(tmp_path, mended)[:, 0, 0, 0].tolist() == list(range(COUNT))
    assert set(mended.rows) <= {0, 2, 5, 10}
    with pytest.raises(DataError, match=r"numbers: 11 of 11 images cannot be read: 00.png"):
        images(tmp_path, Reader(dict.fromkeys(range(COUNT), OSError)), key="none")


def test_an_image_of_another_size_is_told_with_both_sizes(tmp_path: Path) -> None:
    def read(row: int) -> Tensor:
        return torch.zeros(3, 4, 6 if row == 7 else 5, dtype=torch.uint8)

    with pytest.raises(DataError, match=r"07.png becomes 4x6 px, 00.png 4x5 px; end data\.\*\.transforms"):
        images(tmp_path, read)


def test_a_damaged_cache_is_set_aside_and_rebuilt(tmp_path: Path) -> None:
    images(tmp_path, Reader())
    pixels = tmp_path / "images" / "k" / "pixels.u8"
    content = bytearray(pixels.read_bytes())
    content[70] ^= 1
    pixels.chmod(0o644)
    pixels.write_bytes(content)
    again = Reader()
    assert images(tmp_path, again)[:, 0, 0, 0].tolist() == list(range(COUNT))
    assert sorted(again.rows) == [0, *range(COUNT)]
    assert any((tmp_path / "damaged").iterdir())


def test_two_processes_decode_once(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    spawn = multiprocessing.get_context("spawn")
    jobs = [spawn.Process(target=decode_slowly, args=(tmp_path / "store", log, 30)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert sorted(map(int, log.read_text().split())) == [0, *range(30)]
