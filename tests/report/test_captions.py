from __future__ import annotations

from midre_exp.report.runs.captions import circumstances
from tests.report.paper_records import record


def test_a_caption_says_how_many_images_could_not_be_read() -> None:
    whole = record(80.0, 10.0)
    assert "could not be read" not in circumstances("T", [whole])
    whole["counts"] |= {"private_left_out": 3, "public_left_out": 2}
    assert "(3 private and 2 public images that could not be read left out)" in circumstances("T", [whole])
