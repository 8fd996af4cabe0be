"""The alignment beside OpenCV 4.10's own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from midre_exp.downloads.hd_celeba import Alignment
from midre_exp.downloads.warp import _weights, similarity, warp

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "align_opencv.json").read_text())
ALIGNMENT = Alignment(GOLDEN["size"], GOLDEN["face_factor"], move_h=0.25, move_w=0.0, jpeg_quality=95)
MEAN_SHAPE = np.array(GOLDEN["mean_shape"])


def picture(height: int, width: int) -> np.ndarray:
    y, x, c = np.mgrid[:height, :width, :3]
    return np.rint(127.5 + 60 * np.sin(x / 7 + c) + 60 * np.cos(y / 9 - c)).astype(np.uint8)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_the_warp_gives_the_bytes_of_opencv(case):
    size = GOLDEN["size"]
    made = warp(picture(case["height"], case["width"]), np.array(case["matrix"]), size, size)
    assert np.array_equal(made.reshape(size, -1), case["pixels"])


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_the_similarity_is_that_of_opencv_to_a_hundred_thousandth_of_a_pixel(case):
    found = similarity(ALIGNMENT.target(MEAN_SHAPE), np.array(case["landmarks"]))
    assert np.abs(found - case["matrix"]).max() < 1e-5


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_a_face_is_cut_from_its_landmarks_as_with_opencv(case):
    face = ALIGNMENT.align(picture(case["height"], case["width"]), np.array(case["landmarks"]), MEAN_SHAPE)
    assert np.array_equal(face.reshape(face.shape[0], -1), case["pixels"])


def test_weights_of_every_fraction_sum_to_one():
    assert (_weights().sum((2, 3)) == 1 << 15).all()
