import json
from pathlib import Path

import numpy as np
import pytest

from midre_exp.worst_case.aggregate import aggregate, chosen, intervals, lead

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "worst_case.json").read_text())
HITS, LIKED = (np.asarray(list(GOLDEN[name].values()), dtype=np.float64) for name in ("hits", "liked"))


def test_the_three_aggregations_are_those_worked_out_by_hand():
    for name, value in aggregate(HITS, LIKED)._asdict().items():
        assert value == pytest.approx(GOLDEN[name], abs=1e-12), name


def test_the_first_of_equally_liked_attacks_is_chosen():
    assert chosen(np.asarray([[0.5, 0.1], [0.5, 0.2]])).tolist() == [0, 1]


def test_an_interval_makes_the_number_anew_in_every_draw():
    """Of two attacks that each reach the half that the other misses, the best single one is 50 %, and in a
    draw more than that wherever the halves are drawn unequally.
    """
    hits = np.zeros((2, 40))
    hits[0, :20] = hits[1, 20:] = 100.0
    ends = intervals(hits, hits)
    assert ends["mean_of_identity_maxima"] == (100.0, 100.0)
    assert ends["maximum_of_means"][0] >= 50.0 and 60 < ends["maximum_of_means"][1] < 75
    single = intervals(hits[:1], hits[:1])
    assert single["maximum_of_means"][0] < 40  # which a maximum of two cannot be


def test_a_lead_is_paired_by_identity():
    even = np.tile([0.0, 100.0], 20)
    assert lead(even, even) == (0.0, 0.0)
    ahead = lead(even, np.where(np.arange(40) < 12, 0.0, even))
    assert ahead.value == pytest.approx(15.0) and ahead.low is not None and ahead.low > 0
    assert lead(even, even[::-1]).low < -20
    assert lead(even, even[::-1], of=5).low < lead(even, even[::-1]).low
