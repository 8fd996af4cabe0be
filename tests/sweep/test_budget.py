"""What a plan at scale paper says where neither data nor weights are here."""

from __future__ import annotations

import pytest

from midre_exp.cost.counted import Counted, Operator, Phase
from midre_exp.cost.sizes import Sizes, sizes_of
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.keys import absent_data_allowed
from midre_exp.stages import make_plan
from midre_exp.sweep import estimate


def paper(setup: str, tmp_path, *more: str):
    places = [f"paths.{name}={tmp_path / name}" for name in ("data", "store", "runs", "results")]
    with packaged_configs():
        return settings_of([f"setup={setup}", "scale=paper", *places, *more])


@pytest.mark.parametrize(
    ("setup", "sizes"),
    [
        (
            "S01",
            Sizes(27_018, 3_009, 30_000, 1000),
        ),  # by the card of CelebA; the generator of S27 on is a published one
        ("S04", Sizes(27_018, 3_009, 70_000, 1000)),
        ("S27", Sizes(34_090, 3_788, 0, 530)),
        ("S33", Sizes(18_522, 2_058, 0, 120)),
        ("S34", Sizes(2_827_701, 314_189, 0, 8631)),
    ],
)
def test_sizes_are_those_of_the_cards_where_there_is_no_data(setup, sizes, tmp_path):
    assert sizes_of(paper(setup, tmp_path), lambda key, look: look()) == sizes


def test_a_run_without_its_data_has_a_plan_only_where_that_is_allowed(tmp_path):
    settings = paper("S01", tmp_path)
    with pytest.raises(DataError):
        make_plan(settings)
    with absent_data_allowed():
        plan, again = make_plan(settings), make_plan(settings)
        other = make_plan(paper("S04", tmp_path))
    assert plan.key == again.key != other.key
    assert plan["target"].key == other["target"].key and plan["prior"].key != other["prior"].key
    with pytest.raises(DataError):
        make_plan(settings)


def test_the_plan_tells_operations_memory_disk_hours_and_what_is_missing(tmp_path, monkeypatch, capsys):
    operator = Operator("conv", 156e12 * 0.4 * 3600, 0.0, 1, 2.0)  # two hours of an A100
    found = Counted((Phase("a", (operator,), 3e9),), disk=5e9)
    monkeypatch.setattr("midre_exp.cost.forecast.remembered", lambda wanted: found)
    monkeypatch.setattr("midre_exp.cost.forecast.count_all", lambda *_: [])
    places = [f"paths.{name}={tmp_path / name}" for name in ("data", "store", "runs", "results")]
    estimate.show([["setup=S01", "scale=paper", *places]])
    text = capsys.readouterr().out
    target = next(line for line in text.splitlines() if line.startswith("target "))
    assert "2.0 h" in target and "0.449" in target and "4.2 GB" in target and "5.0 GB" in target
    (total,) = (line for line in text.splitlines() if line.startswith("in total"))
    assert "14.0 h" in total and "3.14" in total and "35.0 GB" in total
    assert "of one A100" in text and "40% of the peak" in text
    assert "missing here, for S01: CelebA data" in text
    estimate.show([["setup=S01", "scale=paper", *places]], device="H200")
    text = capsys.readouterr().out
    assert "of one H200" in text and "4.4 h" in text  # 156 / 494 of it
    with pytest.raises(ConfigError, match="--device abacus is unknown"):
        estimate.show([["setup=S01"]], device="abacus")
