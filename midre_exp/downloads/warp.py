"""Similarity alignment in OpenCV's arithmetic: the least-squares similarity between two shapes, and an affine
warp with bicubic interpolation that gives the bytes of OpenCV's.

OpenCV is no dependency, and its releases differ among themselves (5.0 rounds otherwise than 4.10). Here all
is integers once the matrix is rounded, so that any machine and any number of workers give the same pixels.
Equality with OpenCV 4.10 is tested against its numbers (tests/golden/align_opencv.json).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

_FRACTIONS = 32  # between two pixels, where weights are tabulated
_SHIFT = 10  # bits behind the point of a coordinate while it is summed up
_ONE = 1 << 15  # weights are in this unit
_CUBIC = np.float32(-0.75)

Points = NDArray[np.float64]  # [n, 2]: x, y
Matrix = NDArray[np.float64]  # [2, 3]
Pixels = NDArray[np.uint8]  # [h, w, 3]


def similarity(source: Points, target: Points) -> Matrix:
    """The rotation, scale and shift [2, 3] that take ``source`` nearest to ``target`` in the sum of squares.

    OpenCV's estimateAffinePartial2D, which the croppers call with every point an inlier, comes within 1e-5
    pixels of it.
    """
    centre, aim = source.mean(0), target.mean(0)
    x, y = (source - centre).T
    u, v = (target - aim).T
    size = np.sum(x * x + y * y)
    a, b = np.sum(x * u + y * v) / size, np.sum(x * v - y * u) / size
    turn = np.array([[a, -b], [b, a]])
    return np.concatenate([turn, (aim - turn @ centre)[:, None]], 1)


def warp(picture: Pixels, matrix: Matrix, height: int, width: int) -> Pixels:
    """The picture [height, width, 3] whose pixel (x, y) is ``picture`` at ``matrix`` (x, y, 1), bicubic;
    outside, the nearest pixel of the border counts.
    """
    scale, bits = 1 << _SHIFT, _SHIFT - 5
    across, down = np.arange(width), np.arange(height)
    half = scale // _FRACTIONS // 2
    (column, column_step), (row, row_step) = (
        (
            np.rint((line[1] * down + line[2]) * scale).astype(np.int64) + half,
            np.rint(line[0] * across * scale).astype(np.int64),
        )
        for line in matrix
    )
    x = (column[:, None] + column_step) >> bits
    y = (row[:, None] + row_step) >> bits
    weights = _weights()[y % _FRACTIONS, x % _FRACTIONS]
    left, top = x // _FRACTIONS - 1, y // _FRACTIONS - 1
    columns = [np.clip(left + k, 0, picture.shape[1] - 1) for k in range(4)]
    rows = [np.clip(top + k, 0, picture.shape[0] - 1) for k in range(4)]
    total = np.full((height, width, 3), _ONE // 2, np.int32)
    for i in range(4):
        for j in range(4):
            total += picture[rows[i], columns[j]] * weights[:, :, i, j, None]
    return np.clip(total // _ONE, 0, 255).astype(np.uint8)


@cache
def _weights() -> NDArray[np.int32]:
    """Weights [y, x, row, column] in units of ``_ONE``, for every fraction of a pixel; each sixteen sum to
    it: what rounding leaves goes to the largest of the four in the middle, or is taken from the smallest.
    """
    x = np.arange(_FRACTIONS, dtype=np.float32) / np.float32(_FRACTIONS)
    a, one = _CUBIC, np.float32(1)

    def near(d: NDArray[np.float32]) -> NDArray[np.float32]:
        weight: NDArray[np.float32] = ((a + 2) * d - (a + 3)) * d * d + one
        return weight

    first = ((a * (x + one) - 5 * a) * (x + one) + 8 * a) * (x + one) - 4 * a
    line = np.stack([first, near(x), near(one - x)], 1)
    line = np.concatenate([line, one - line[:, :1] - line[:, 1:2] - line[:, 2:]], 1)
    table: NDArray[np.int32] = np.rint(
        line[:, None, :, None] * line[None, :, None, :] * np.float32(_ONE)
    ).astype(np.int32)
    for square in table.reshape(-1, 4, 4):
        middle = square[2:, 2:]
        rest = int(square.sum()) - _ONE
        if rest:
            place = np.argmax(middle) if rest < 0 else np.argmin(middle)
            middle[np.unravel_index(place, middle.shape)] -= rest
    return table
