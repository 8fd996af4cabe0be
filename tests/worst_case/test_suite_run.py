"""A whole suite, tiny: a run of each member, then its record; on an open target and on one that a defense
masks.
"""

import json
from pathlib import Path

import pytest
import torch

from midre_exp.errors import StoreError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import OWN_CONFIGS
from midre_exp.records import read_record
from midre_exp.report.tables.notes import answers_of
from midre_exp.runtime import Runtime
from midre_exp.stages import make_plan
from midre_exp.sweep import job
from midre_exp.sweep.finished import is_finished
from tests.conftest import TINY, tiny_overrides

VALUES = [text for text in TINY if text.startswith("attack.")]
PRIOR = [text for text in VALUES if text.startswith("attack.prior.")]
SUITE = f"""
name: pair
identities: null
leading: gmi
members:
  gmi: {{overrides: [attack=gmi, {", ".join(VALUES)}]}}
  double: {{overrides: [attack=gmi, {", ".join(VALUES)}], budget: 2}}
  labels: {{overrides: [attack=brepmi, attack.identities=4, attack.max_queries=60, {", ".join(PRIOR)}]}}
"""


@pytest.fixture
def suite(tmp_path, monkeypatch, stocked):
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path / "conf"))
    (tmp_path / "conf" / "attack").mkdir(parents=True)
    (tmp_path / "conf" / "attack" / "pair.yaml").write_text(SUITE)
    words = [text for text in tiny_overrides(tmp_path) if text not in VALUES]

    def settings(*overrides):
        with packaged_configs():
            return packaged_composer().settings([*words, "attack=pair", "runtime.quiet=true", *overrides])

    return settings


def test_a_suite_is_its_members_and_one_record_more(suite, tmp_path, capsys):
    settings = suite()
    plan = make_plan(settings)
    record = read_record(Path(job.carry_out(settings)))
    assert record["key"] == plan.key and record["attack"] == "pair"
    told = record["suite"]
    assert set(told["members"]) == {"gmi", "double", "labels"}
    hits = {name: member["hits"] for name, member in told["members"].items() if member["counts"]}
    assert set(hits) == {"gmi", "labels"}  # more steps are for the alarm alone
    assert record["per_identity"]["att_acc1"] == [max(pair) for pair in zip(*hits.values(), strict=True)]
    assert record["metrics"]["att_acc1"] == pytest.approx(sum(record["per_identity"]["att_acc1"]) / 4)
    assert record["metrics"]["labels_only"] == pytest.approx(sum(hits["labels"]) / 4)
    assert told["aggregates"]["mean_of_identity_maxima"]["value"] == record["metrics"]["att_acc1"]
    assert record["queries"] == sum(member["queries"] for member in told["members"].values())
    assert {"attack", "metrics"}.isdisjoint(record["artifacts"])
    assert "unbounded_fails" not in told["alarms"] and "zero_gradient" not in told["alarms"]
    made = {"gmi": ("gmi", 3), "double": ("gmi", 6), "labels": ("brepmi", None)}
    for name, member in told["members"].items():
        (path,) = (tmp_path / "results" / "mini" / "records").glob(f"*-{member['key']}.json")
        alone = read_record(path)
        assert alone["per_identity"]["att_acc1"] == member["hits"]
        assert (alone["attack"], alone["config"]["attack"].get("steps")) == made[name]
    assert is_finished(settings, plan)

    # nothing is run twice, whether the suite or one of its members is asked for
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("[!.]*/*")}
    job.carry_out(settings)
    assert "nothing to do" in capsys.readouterr().out
    (tmp_path / "results" / "mini" / "records" / f"custom-nodef-s0-{plan.key}.json").unlink()
    job.carry_out(settings)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_member_that_fails_leaves_no_record_of_the_suite(suite, tmp_path, monkeypatch):
    settings = suite()
    real = job._carry_out
    fails = make_plan(settings).members["labels"].key

    def failing(one):
        if "members" not in one["attack"] and make_plan(one).key == fails:
            raise StoreError("the disk is full; free space")
        return real(one)

    monkeypatch.setattr(job, "_carry_out", failing)
    with pytest.raises(job.MemberFailed, match=r"member labels of suite pair failed.*the disk is full"):
        real(settings)
    records = [json.loads(path.read_text()) for path in (tmp_path / "results/mini/records").glob("*.json")]
    assert {record["attack"] for record in records} == {"gmi"} and len(records) == 2
    assert (tmp_path / "runs" / "failed" / f"{make_plan(settings).key}.json").exists()


def without_circumstances(record):
    """What a suite's record says of its numbers."""
    members = {
        name: {key: value for key, value in one.items() if key != "seconds"}
        for name, one in record["suite"]["members"].items()
    }
    kept = ("key", "metrics", "per_identity", "queries")
    return {name: record[name] for name in kept} | {"suite": {**record["suite"], "members": members}}


def test_a_suite_that_is_killed_in_a_member_goes_on_there_and_a_rebuilt_one_says_the_same(
    suite, tmp_path, monkeypatch
):
    settings, real, loops = suite(), Runtime.bar, []

    def killed(self, steps, title, total=None, done=0, values=None):
        for step in real(self, steps, title, total, done, values):
            if total == 6 and step == 4:  # of twice the steps of the attack
                raise KeyboardInterrupt
            yield step

    def watched(self, steps, title, total=None, done=0, values=None):
        loops.append((total, done))
        return real(self, steps, title, total, done, values)

    monkeypatch.setattr(Runtime, "bar", killed)
    with pytest.raises(KeyboardInterrupt):
        job.carry_out(settings)
    records = tmp_path / "results/mini/records"
    assert {json.loads(path.read_text())["attack"] for path in records.glob("*.json")} == {"gmi"}
    monkeypatch.setattr(Runtime, "bar", watched)
    record = read_record(Path(job.carry_out(settings)))
    assert [done for total, done in loops if total == 6] == [4] and 3 not in dict(loops)

    monkeypatch.setattr(Runtime, "bar", real)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").glob("*/*/manifest.json")}
    anew = read_record(Path(job.carry_out(suite("runtime.rebuild=[attack]"))))
    assert without_circumstances(anew) == without_circumstances(record)
    stages = {path.parents[1].name for path, at in made.items() if path.stat().st_mtime_ns > at}
    assert {"attack", "metrics"} <= stages and {"target", "prior"}.isdisjoint(stages)


@pytest.mark.slow
def test_a_suite_is_a_run_of_weights_and_biases_beside_those_of_its_members(suite, tmp_path, monkeypatch):
    import wandb

    made, init = [], wandb.init

    def spy(**arguments):
        run = init(**arguments)
        finish = run.finish

        def kept(**outcome):
            made.append((arguments, {key: run.summary[key] for key in run.summary.keys()}))  # noqa: SIM118
            finish(**outcome)

        run.finish = kept
        return run

    monkeypatch.setattr(wandb, "init", spy)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    record = read_record(Path(job.carry_out(suite("tracking=wandb", "tracking.mode=offline"))))
    told = [(arguments, summary) for arguments, summary in made if arguments["job_type"] == "metrics"]
    assert len(told) == 4 and wandb.run is None  # three members and the suite
    arguments, summary = told[-1]
    assert arguments["config"]["attack"]["name"] == "pair"
    assert summary["metrics"]["att_acc1"] == record["metrics"]["att_acc1"]
    assert summary["metrics"]["labels_only"] == record["metrics"]["labels_only"]
    assert len({each["id"] for each, _ in told}) == 4


MASKS = '''
import torch
from torch import nn

from midre_exp.defense import Defense


class Rounding(nn.Module):
    """One for the largest logit and zero for the others: no gradient, and a probability."""

    def forward(self, logits):
        return nn.functional.one_hot(logits.argmax(1), logits.shape[1]).float() + 0 * logits


class Masking(Defense):
    """Hides gradients, and identities as little as no defense does."""

    def on_inference(self, model):
        def rounded(_, __, output):
            return type(output)(Rounding()(output.logits), output.features)

        model.register_forward_hook(rounded)
'''


def test_alarms_fire_on_a_defense_that_masks_gradients(suite, tmp_path, monkeypatch):
    (tmp_path / "masking_defenses.py").write_text(MASKS)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "conf" / "defense").mkdir()
    (tmp_path / "conf" / "defense" / "masking.yaml").write_text(
        "masking:\n  _target_: masking_defenses.Masking\n"
    )
    record = read_record(
        Path(job.carry_out(suite("defense=masking", "runtime.trusted_packages=[masking_defenses]")))
    )
    alarms = record["suite"]["alarms"]
    assert {"zero_gradient", "probabilities_for_logits", "unbounded_fails"} <= set(alarms)
    assert sorted(record["alarms"]["suite"]) == sorted(alarms.values())
    assert record["suite"]["checks"]["zero_gradient_share"] == 1
    assert torch.tensor(record["suite"]["members"]["gmi"]["hits"]).isfinite().all()


def test_of_answers_drawn_anew_an_alarm_is_raised_and_the_members_that_meet_them_are_told(suite):
    settings = suite("defense=ssd", "defense.ssd.seed=call", "defense.ssd.eps=2")
    record = read_record(Path(job.carry_out(settings)))
    assert record["deployment"]["bypassed"] is False  # by the attack on labels
    members = record["suite"]["members"]
    assert {name for name, one in members.items() if "deployment" in one["artifacts"]} == set(members)
    assert record["metrics"]["acc"] == record["deployment"]["acc"]
    assert "deployment" in record["artifacts"] and record["metrics"]["network_acc"] >= 0
    assert "randomised" in record["suite"]["alarms"]
    assert any("defense.ssd.seed=call" in sentence for sentence in record["alarms"]["deployment"])
    (sentence,) = answers_of([record])
    assert "Members of the suite that hold the network go past these answers" in sentence
