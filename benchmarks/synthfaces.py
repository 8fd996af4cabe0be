"""Synthetic faces per second on one core at 32, 64 and 224 pixels: ``python benchmarks/synthfaces.py``.

Prints the best and the median of several rounds; on a busy machine the best is the closer one.
"""

from __future__ import annotations

import os
import time

import torch

from midre_exp.data.synthetic.synthfaces import render

ROUNDS = 7


def rate(size: int, count: int) -> tuple[float, float]:
    """Images per second: best and median round."""
    index = torch.arange(count)
    render(index, index, size)  # the noise tile and the first allocations
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        render(index, index, size)
        seconds.append(time.perf_counter() - start)
    seconds.sort()
    return count / seconds[0], count / seconds[ROUNDS // 2]


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # a thread renders on each core that may be used
    print(f"{'pixels':>6} {'best':>8} {'median':>8}  images/s, one core, torch {torch.__version__}")
    for size, count in ((32, 1920), (64, 480), (224, 40)):
        best, median = rate(size, count)
        print(f"{size:>6} {best:>8.0f} {median:>8.0f}")
