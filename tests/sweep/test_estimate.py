from __future__ import annotations

import json
import subprocess
import sys

import pytest

from midre_exp.cost.forecast import Forecast, read_measured
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.stages import make_plan
from midre_exp.store.store import Store
from midre_exp.sweep.estimate import Estimate, Needed, described, duration, estimate, lines
from tests.conftest import TINY


def jobs_of(tmp_path, *combinations):
    places = [f"paths.{name}={tmp_path / name}" for name in ("store", "runs", "results")]
    with packaged_configs():
        every = [settings_of(["setup=demo", *places, *TINY, *more]) for more in combinations]
    return [(settings, make_plan(settings)) for settings in every]


def test_shared_stages_are_named_once_with_the_number_of_runs_that_use_them(tmp_path):
    jobs = jobs_of(tmp_path, ["defense=nodef"], ["defense=midre"], ["defense=midre", "seed=1"])
    found = estimate([*jobs, jobs[0]])
    assert (found.planned, found.finished, found.repeated, found.to_do) == (4, 0, 1, 3)
    uses = {(entry.stage, len(entry.runs)) for entry in found.stages}
    assert uses == {
        ("target", 1),
        ("evaluator", 3),
        ("features", 3),
        ("prior", 3),
        ("attack", 1),
        ("metrics", 1),
        ("verdicts", 1),
    }
    assert sum(entry.stage == "target" for entry in found.stages) == 3
    assert not any(entry.stored for entry in found.stages)


def test_what_is_in_the_store_is_not_built_again(tmp_path):
    ((settings, plan),) = jobs_of(tmp_path, [])
    Store(settings["paths"]["store"]).build(
        "prior", plan["prior"].key, config={}, upstream={}, make=lambda work: work.save_json("a", 1)
    )
    found = estimate([(settings, plan)])
    assert [entry.stage for entry in found.stages if entry.stored] == ["prior"]


def test_times_are_medians_of_what_the_same_kind_took_at_the_same_scale(tmp_path):
    ((settings, plan),) = jobs_of(tmp_path, ["defense=midre"])
    records = tmp_path / "results" / "mini" / "records"
    records.mkdir(parents=True)
    for number, seconds in enumerate((10, 20, 60)):
        record = {"seconds": {"target": seconds}, "artifacts": {"target": f"k{number}"}, "config": settings}
        (records / f"{number}.json").write_text(json.dumps(record))
    (records / "copy.json").write_text(json.dumps(record))  # the same artifact again is no new measurement
    (records / "broken.json").write_text("{")
    measured = read_measured(tmp_path / "results" / "mini")
    assert sorted((one.stage, one.what, one.seconds) for one in measured) == [
        ("target", "resnet18 with midre", seconds) for seconds in (10.0, 20.0, 60.0)
    ]
    found = estimate([(settings, plan)])
    text = "\n".join(lines(found))
    assert "together about 20 s" in text
    assert "6 stages of kinds never measured" in text
    assert f"target      {plan['target'].key}     1 run  to build, about 20 s: resnet18 with midre" in text


def test_a_training_of_other_length_is_forecast_in_proportion(tmp_path):
    ((settings, _),) = jobs_of(tmp_path, ["target.recipe.epochs=18"])
    records = tmp_path / "results" / "mini" / "records"
    records.mkdir(parents=True)
    counts = {"private_train": 16, "private_test": 8, "public": 32, "private_identities": 4}
    record = {"seconds": {"target": 18}, "artifacts": {"target": "k"}, "config": settings, "counts": counts}
    (records / "one.json").write_text(json.dumps(record))
    for epochs in (18, 54, 108):
        found = estimate(jobs_of(tmp_path, [f"target.recipe.epochs={epochs}"]))
        (target,) = (entry for entry in found.stages if entry.stage == "target")
        assert target.takes.seconds == pytest.approx(epochs)
    wider = estimate(jobs_of(tmp_path, ["target.model.width=0.25"]))  # is no longer loop of the same
    assert next(entry for entry in wider.stages if entry.stage == "target").takes.seconds is None


def test_a_scale_without_records_is_forecast_by_those_of_the_others(tmp_path):
    jobs = jobs_of(tmp_path, ["target.recipe.epochs=18"])
    counts = {"private_train": 16, "private_test": 8, "public": 32, "private_identities": 4}
    record = {"artifacts": {"target": "k"}, "config": jobs[0][0], "counts": counts}

    def found(scale, seconds):
        records = tmp_path / "results" / scale / "records"
        records.mkdir(parents=True)
        (records / "one.json").write_text(json.dumps({**record, "seconds": {"target": seconds}}))
        return next(entry.takes.seconds for entry in estimate(jobs).stages if entry.stage == "target")

    assert found("other", 30) == 30
    assert found("mini", 18) == 18  # its own alone


def test_what_was_never_measured_is_likened_to_others_of_its_network_and_attack(tmp_path):
    ((settings, _),) = jobs_of(tmp_path, ["target.recipe.epochs=10", "attack.identities=2"])
    records = tmp_path / "results" / "mini" / "records"
    records.mkdir(parents=True)
    counts = {"private_train": 16, "private_test": 8, "public": 32, "private_identities": 4}
    seconds = {"target": 20, "attack": 6}
    record = {
        "seconds": seconds,
        "artifacts": dict.fromkeys(seconds, "k"),
        "config": settings,
        "counts": counts,
    }
    (records / "one.json").write_text(json.dumps(record))
    jobs = jobs_of(tmp_path, ["defense=cutmix", "target.recipe.epochs=5", "attack.identities=4"])
    found = estimate(jobs)
    takes = {entry.stage: entry.takes for entry in found.stages}
    assert (takes["target"].basis, takes["target"].seconds) == ("likened", 10)
    assert (takes["attack"].basis, takes["attack"].seconds) == ("likened", 12)
    assert takes["prior"].seconds is None
    text = "\n".join(lines(found))
    assert "22 s of it from others of the network or attack of 2 stages" in text
    assert "about 10 s, from others of its network or attack: resnet18 with cutmix" in text


def test_attempts_at_the_time_limit_are_told():
    needed = Needed("attack", "k", "mirror", False, Forecast("counted", 100 * 3600.0, 40e9), ["a"])
    text = "\n".join(lines(Estimate(1, 0, 0, [needed], time_limit=240.0)))
    assert "25 attempts of 240 minutes" in text and "40" in text and ", counted: mirror" in text


def test_a_record_imports_nothing_even_where_it_trusts_itself(tmp_path, monkeypatch):
    ((settings, _),) = jobs_of(tmp_path, [])
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    prior = {**settings["attack"]["prior"], "_target_": "evil.Prior"}
    config = {
        **settings,
        "attack": {**settings["attack"], "prior": prior},
        "runtime": {**settings["runtime"], "trusted_packages": ["evil"]},
    }
    records = tmp_path / "results" / "mini" / "records"
    records.mkdir(parents=True)
    record = {"seconds": {"target": 10}, "artifacts": {"target": "k"}, "config": config}
    (records / "foreign.json").write_text(json.dumps(record))
    assert read_measured(tmp_path / "results" / "mini") == []
    assert not (tmp_path / "ran").exists()


def test_a_prior_for_a_target_is_told_from_one_for_all(tmp_path):
    ((general, _), (own, _)) = jobs_of(
        tmp_path, [], ["attack=plgmi", "~attack.prior.latent_dim", "+attack.prior.latent_dim=16"]
    )
    assert described(general)["prior"] == "gmi"
    assert described(own)["prior"] == "plgmi for resnet18 with nodef"


def test_long_sweeps_are_told_in_sums():
    many = [Needed("attack", str(n), "gmi", False, Forecast("measured", 60.0), ["a"]) for n in range(100)]
    text = lines(Estimate(100, 0, 0, many))
    assert len(text) < 8 and "100 min" not in "".join(text) and "1.7 h" in "".join(text)


@pytest.mark.parametrize(("seconds", "text"), [(30, "30 s"), (600, "10 min"), (7200, "2.0 h")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_command_launches_nothing(tmp_path):
    command = [sys.executable, "-m", "midre_exp", "--plan", "-m", "setup=demo", "defense=nodef,midre"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 runs planned: 0 finished before, 0 repeated, 2 to do" in done.stdout
    assert not list(tmp_path.iterdir())
    wrong = subprocess.run([*command, "defense=mydre"], cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 2 and "did you mean midre" in wrong.stderr
