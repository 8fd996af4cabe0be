"""Synthetic faces per second on one thread at 32, 64 and 224 pixels: ``python benchmarks/synthfaces.py``.

Prints the best and the median of several rounds; on a busy machine the best is the closer one.
"""

from __future__ import annotations

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
    torch.set_num_threads(1)
    print(f"{'pixels':>6} {'best':>8} {'median':>8}  images/s, one thread, torch {torch.__version__}")
    for size, count in ((32, 1920), (64, 480), (224, 40)):
        best, median = rate(size, count)
        print(f"{size:>6} {best:>8.0f} {median:>8.0f}")
