import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_composer, packaged_configs, settings_of
from midre_exp.plan.config import OWN_CONFIGS, config_files
from midre_exp.plan.scale import full_size_parts
from midre_exp.plan.suite import is_suite, members_of, runs_of, single_attacks
from midre_exp.plan.validate import check_settings
from midre_exp.plan.vary import with_seeds_of_run_0
from midre_exp.stages import make_plan

OWN = """
name: pair
identities: null
leading: gmi
members:
  gmi: {overrides: [attack=gmi]}
  half: {overrides: [attack=gmi], budget: 0.5}
  labels: {overrides: [attack=brepmi]}
"""
JOB = ["setup=evidence", "scale=mini"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Write a suite of one's own; ``settings(*overrides)`` composes it."""
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path))
    (tmp_path / "attack").mkdir()

    def settings(*overrides, text=OWN):
        (tmp_path / "attack" / "pair.yaml").write_text(text)
        with packaged_configs():
            return packaged_composer().settings([*JOB, "attack=pair", *overrides])

    return settings


def alone(*overrides):
    with packaged_configs():
        return packaged_composer().settings([*JOB, *overrides])


def test_a_member_is_the_run_that_its_overrides_make_alone(own):
    settings = own("seed=3", "defense=midre")
    for name, overrides in (
        ("gmi", ["attack=gmi"]),
        ("half", ["attack=gmi", "attack.steps=50"]),
        ("labels", ["attack=brepmi"]),
    ):
        single = alone("seed=3", "defense=midre", *overrides)
        assert members_of(settings)[name] == single
        assert make_plan(settings).members[name] == make_plan(single)


def test_a_suite_is_known_by_its_members(own):
    plan = make_plan(own())
    assert make_plan(own()).key == plan.key
    assert make_plan(own("seed=1")).key != plan.key
    assert make_plan(own(text=OWN.replace("budget: 0.5", "budget: 0.25"))).key != plan.key
    assert {key.name for key in plan.stages.values()} >= {"target", "attack", "metrics"}
    assert plan.stages["gmi/target"] == plan.stages["labels/target"]


def test_a_member_attacks_as_many_as_all_can(own):
    settings = own(text=OWN.replace("[attack=brepmi]", "[attack=brepmi, attack.identities=7]"))
    assert (
        {run["attack"]["identities"] for run in runs_of(settings)}
        == {settings["attack"]["identities"]}
        == {7}
    )
    assert {run["attack"]["identities"] for run in runs_of(own("attack.identities=3"))} == {3}


def test_members_that_this_resolution_has_no_use_for_are_left_out(own):
    text = OWN.replace("[attack=brepmi]", "[attack=brepmi], resolutions: [64]")
    assert set(members_of(own(text=text))) == {"gmi", "half"}
    assert set(members_of(own("resolution=64", "evaluator.resolution=64", text=text))) == {
        "gmi",
        "half",
        "labels",
    }


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("leading: gmi", "leading: ppa"), "leading=ppa is no member"),
        (("[attack=brepmi]", "[seed=1]"), "no attack=NAME at its head|seed=1"),
        (("[attack=brepmi]", "[attack=brepmi, seed=1]"), "seed=1"),
        (("[attack=brepmi]", "[attack=pair]"), "is a suite itself"),
        (("[attack=brepmi]", "[attack=brepmi], budget: 2"), "no one number of them"),
        (("[attack=brepmi]", "[attack=brepmi], queries: 2"), "labels.queries=2 .*no one number of them"),
        (("budget: 0.5", "budget: 0.5, queries: 2"), "give one of them"),
        (("budget: 0.5", "budget: -1"), "attack.members.half.budget=-1"),
        (("budget: 0.5", "budgets: 2"), "budgets"),
    ],
)
def test_a_suite_that_none_can_be_is_told(own, change, told):
    with pytest.raises(ConfigError, match=told):
        own(text=OWN.replace(*change))


def test_a_suite_has_no_shards_and_no_keys_of_its_members(own):
    with pytest.raises(ConfigError, match="splits one attack"):
        own("attack.shard=1/2")
    with pytest.raises(ConfigError, match=r"attack.steps is no key of the suite attack=pair"):
        own("attack.steps=3")


def test_the_seed_of_what_varies_is_that_of_run_0_in_every_member(own):
    settings = own("seed=2", "vary=[training,attack,prior]")
    assert {run["attack"]["prior"]["seed"] for run in runs_of(settings)} == {2}
    found = with_seeds_of_run_0(settings)
    assert {run["attack"]["prior"]["seed"] for run in runs_of(found)} == {0}


@pytest.mark.parametrize("name", ["worst_low", "worst_high"])
def test_the_packaged_suites_can_be_run_at_every_reduced_scale(name):
    assert name in config_files("attack") and name not in single_attacks()
    for scale in ("mini", "evidence"):
        with packaged_configs():
            settings = settings_of([f"attack={name}", "setup=evidence", f"scale={scale}"])
        assert is_suite(settings) and settings["attack"]["identities"] == 50
        check_settings(settings)
        runs = members_of(settings)
        assert not [part for run in runs.values() for part in full_size_parts(run)]
        assert settings["attack"]["leading"] == next(iter(runs))
        leading = settings["attack"]["leading"]
        informed = [name for name, run in runs.items() if run["attack"].get("informed")]
        assert informed == [f"{leading}_informed", f"{leading}_informed_equal"]
        dear, equal = (runs[name]["attack"] for name in informed)
        assert dear["steps"] == runs[leading]["attack"]["steps"] == pytest.approx(8 * equal["steps"], abs=4)
        assert dear["restarts"] == equal["restarts"] == runs[leading]["attack"]["restarts"]
        if "search" in dear:
            assert dear["search"]["size"] == pytest.approx(8 * equal["search"]["size"], abs=4)
            assert dear["selection"] == equal["selection"]
