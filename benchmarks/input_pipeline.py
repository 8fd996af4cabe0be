"""How many training images a second reach the network on two cores: pictures decoded anew each epoch, or
once.

    python benchmarks/input_pipeline.py [RESULT.json]

The usual way decodes, resizes and augments image by image with torchvision, in two DataLoader workers. Ours
decodes each picture once into a block of 8-bit images, memory-mapped from a file, and augments whole batches
with two threads. Both end in float batches in memory; 224 pixels with the released augmentation, 64 pixels
with flips. JPEG files of synthetic faces, all in the page cache. The number is the best of several epochs;
the first, which warms up, is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from midre_exp.data.base import to_float
from midre_exp.data.synthetic.synthfaces import render
from midre_exp.data.transforms import Augmentation, ColorJitter, HorizontalFlip, RandomResizedCrop
from midre_exp.tracking.provenance import device_name, git_commit

CORES = 2
BATCH = 128
EPOCHS = 4  # besides the first
FACES = 64  # different ones; drawing them takes longer than what is measured
QUALITY = 95  # of the JPEG files


class Pictures(Dataset[Tensor]):
    """JPEG files, opened anew each time."""

    def __init__(self, files: list[Path], transform: Callable[[Image.Image], Tensor]):
        self.files = files
        self.transform = transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as picture:
            return self.transform(picture.convert("RGB"))


@dataclass(frozen=True)
class Case:
    """One resolution: its files, and both ways to augment."""

    pixels: int
    file_pixels: int
    count: int
    resize: Callable[[Image.Image], Image.Image]
    torchvision: Callable[[Tensor], Tensor]
    batched: tuple[Augmentation, ...]


CASES = (
    Case(
        pixels=224,
        file_pixels=256,
        count=256,
        resize=transforms.Resize(224, antialias=True),  # type: ignore[no-untyped-call]
        torchvision=transforms.Compose(  # type: ignore[no-untyped-call]
            [
                transforms.RandomResizedCrop(224, scale=(0.85, 1.0), ratio=(1.0, 1.0), antialias=True),
                transforms.ColorJitter(brightness=0.2, contrast=0.2, saturation=0.1, hue=0.1),
                transforms.RandomHorizontalFlip(0.5),  # type: ignore[no-untyped-call]
            ]
        ),
        batched=(
            RandomResizedCrop(size=None, scale=(0.85, 1.0), ratio=(1.0, 1.0)),
            ColorJitter(brightness=0.2, contrast=0.2, saturation=0.1, hue=0.1),
            HorizontalFlip(p=0.5),
        ),
    ),
    Case(
        pixels=64,
        file_pixels=178,  # CelebA's width, crop and size
        count=1024,
        resize=transforms.Compose(  # type: ignore[no-untyped-call]
            [
                transforms.CenterCrop(108),  # type: ignore[no-untyped-call]
                transforms.Resize(64, antialias=True),  # type: ignore[no-untyped-call]
            ]
        ),
        torchvision=transforms.RandomHorizontalFlip(0.5),  # type: ignore[no-untyped-call]
        batched=(HorizontalFlip(p=0.5),),
    ),
)


def write_pictures(folder: Path, side: int, count: int) -> list[Path]:
    """``count`` JPEG files of a few synthetic faces, over and over."""
    index = torch.arange(FACES)
    faces = [Image.fromarray(face.permute(1, 2, 0).numpy()) for face in render(index, index, side)]
    files = [folder / f"{number}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        faces[number % FACES].save(file, quality=QUALITY)
    return files


def decode_once(files: list[Path], case: Case, to: Path) -> None:
    """All pictures as one uint8 file [n, 3, h, w]; two workers decode."""
    decode = transforms.Compose([case.resize, transforms.PILToTensor()])  # type: ignore[no-untyped-call]
    block = np.memmap(to, np.uint8, "w+", shape=(len(files), 3, case.pixels, case.pixels))
    start = 0
    for images in DataLoader(Pictures(files, decode), batch_size=BATCH, num_workers=CORES):
        block[start : start + len(images)] = images.numpy()
        start += len(images)
    block.flush()


class Block:
    """Batches in random order from the memory-mapped file, augmented together."""

    def __init__(self, file: Path, case: Case):
        shape = (case.count, 3, case.pixels, case.pixels)
        self.images = torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=shape))
        self.augment = case.batched
        self.generator = torch.Generator().manual_seed(0)

    def __iter__(self) -> Iterator[Tensor]:
        for index in torch.randperm(len(self.images), generator=self.generator).split(BATCH):
            images = to_float(self.images[index])
            for step in self.augment:
                images = step(images, self.generator)
            yield images


def seconds_per_epoch(batches: Iterable[Tensor]) -> float:
    """The shortest of several epochs."""
    seconds = []
    for _ in range(1 + EPOCHS):
        start = time.perf_counter()
        for images in batches:
            images[0, 0, 0, 0].item()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def measure(case: Case, folder: Path) -> list[dict[str, Any]]:
    """One row for each way, and one for decoding once."""
    files = write_pictures(folder, case.file_pixels, case.count)
    usual = DataLoader(
        Pictures(
            files,
            transforms.Compose(  # type: ignore[no-untyped-call]
                [case.resize, transforms.ToTensor(), case.torchvision]
            ),
        ),
        batch_size=BATCH,
        shuffle=True,
        num_workers=CORES,
        persistent_workers=True,
    )
    seconds = {"torchvision, 2 workers": seconds_per_epoch(usual)}
    del usual  # ends its workers
    block = folder / "block.uint8"
    start = time.perf_counter()
    decode_once(files, case, block)
    seconds["decoding once"] = time.perf_counter() - start
    seconds["batched, from the block"] = seconds_per_epoch(Block(block, case))
    return [
        {
            "pixels": case.pixels,
            "name": name,
            "images": case.count,
            "file_pixels": case.file_pixels,
            "images_per_second": case.count / value,
            "speedup": seconds["torchvision, 2 workers"] / value,
        }
        for name, value in seconds.items()
    ]


def main() -> None:
    """Measure, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", nargs="?", type=Path, help="write the numbers to this JSON file as well")
    result: Path | None = parser.parse_args().result

    torch.manual_seed(0)
    torch.set_num_threads(CORES)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    measured = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            measured += measure(case, Path(folder))

    print(f"{'pixels':>6}  {'what':<26}{'images/s':>10}{'speed-up':>10}")
    for row in measured:
        rate, speedup = row["images_per_second"], row["speedup"]
        print(f"{row['pixels']:>6}  {row['name']:<26}{rate:>10.0f}{speedup:>9.1f}x")
    if result is not None:
        record = {
            "benchmark": "input_pipeline",
            "batch": BATCH,
            "epochs": EPOCHS,
            "statistic": "best epoch",
            "cpu": device_name(torch.device("cpu")),
            "cpu_threads": CORES,
            "load_average_before": load,
            "commit": git_commit(),
            "versions": {
                "python": platform.python_version(),
                **{package: version(package) for package in ("torch", "torchvision", "pillow", "numpy")},
            },
            "measured": measured,
        }
        result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
