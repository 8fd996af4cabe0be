"""How long erasing takes: the batched form of MIDRE against torchvision's RandomErasing image by image.

    python benchmarks/erasing.py [RESULT.json]

On the CPU, 128 images of 3 x 64 x 64, share in [0.1, 0.4]. All leave their input whole and return a new
batch; the in-place loop spares torchvision its copy per image and copies the batch once instead. The number
is the minimum of the repeats, the contestants taking turns.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from measuring import fastest
from torch import Tensor
from torchvision.transforms import RandomErasing

from defenses import erase_squares, sample_squares
from midre_exp.tracking.provenance import device_name

SHAPE = (128, 3, 64, 64)
SCALE = (0.1, 0.4)
FILL = [0.485, 0.456, 0.406]
WARM_UP, REPEATS = 5, 40


def contestants(images: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What is compared, by name; each call erases a new square from every image."""
    generator, fill = torch.Generator().manual_seed(0), torch.tensor(FILL)
    copying = RandomErasing(p=1.0, scale=SCALE, ratio=(1.0, 1.0), value=FILL)  # type: ignore[no-untyped-call]
    in_place = RandomErasing(  # type: ignore[no-untyped-call]
        p=1.0, scale=SCALE, ratio=(1.0, 1.0), value=FILL, inplace=True
    )

    def batched(area: str) -> Tensor:
        n, _, height, width = images.shape
        numbers = torch.rand(3, n, generator=generator)
        squares = sample_squares(
            numbers, height, width, a_l=SCALE[0], a_h=SCALE[1], area=area, rounding="round"
        )
        return erase_squares(images, *squares, fill)

    def loop_in_place() -> Tensor:
        erased = images.clone()
        for image in erased:
            in_place(image)
        return erased

    return {
        "torchvision, per image": lambda: torch.stack([copying(image) for image in images]),
        "torchvision, per image, in place": loop_in_place,
        "batched, uniform": lambda: batched("uniform"),
        "batched, joint_rejection": lambda: batched("joint_rejection"),
    }


def main() -> None:
    """Measure, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", nargs="?", type=Path, help="write the numbers to this JSON file as well")
    result: Path | None = parser.parse_args().result

    torch.manual_seed(0)
    images, all_threads, measured = torch.rand(SHAPE), torch.get_num_threads(), []
    for threads in sorted({1, all_threads}):
        torch.set_num_threads(threads)
        times = fastest(contestants(images), REPEATS, WARM_UP)
        baseline = times["torchvision, per image"]
        for name, milliseconds in times.items():
            measured.append(
                {
                    "threads": threads,
                    "name": name,
                    "milliseconds": milliseconds,
                    "speedup": baseline / milliseconds,
                }
            )

    print(f"{'threads':>7}  {'what':<34}{'ms':>9}{'speed-up':>10}")
    for row in measured:
        print(f"{row['threads']:>7}  {row['name']:<34}{row['milliseconds']:>9.3f}{row['speedup']:>9.1f}x")
    if result is not None:
        record = {
            "benchmark": "erasing",
            "images": SHAPE,
            "scale": SCALE,
            "repeats": REPEATS,
            "statistic": "minimum",
            "cpu": device_name(torch.device("cpu")),
            "cpu_threads": all_threads,
            "versions": {
                "python": platform.python_version(),
                "torch": version("torch"),
                "torchvision": version("torchvision"),
            },
            "measured": measured,
        }
        result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
