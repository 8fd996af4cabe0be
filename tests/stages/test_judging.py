"""How each attack is judged under ``metrics.pictures``."""

from __future__ import annotations

import pytest

from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.suite import single_attacks
from midre_exp.stages import make_plan
from midre_exp.stages.judging import judging

#: Of these some keep their floats: latents alone, or without tuned priors, do not give them again.
KEPT = {"ifgmi", "diffmi", "ppdg_ppa", "ppdg_plgmi"}
FLOATS = {*KEPT, "ppa", "ppa_dogs", "ppa_official", "mirror", "mirror_genetic", "smile", "plgmi", "lokt"}


def settings(*job: str):
    with packaged_configs():
        return settings_of(job)


def steps(node):
    return [step["_target_"].rpartition(".")[2] for step in node]


@pytest.mark.parametrize("attack", sorted(single_attacks()))
def test_at_paper_scale_an_attack_is_judged_as_by_its_own_program(attack):
    metrics = "highres" if attack.startswith(("ppa", "ppdg_ppa", "ifgmi", "mirror")) else "lowres"
    found = judging(settings(f"attack={attack}", "scale=paper", f"metrics={metrics}"))
    assert found.floats == (attack in FLOATS)
    assert found.rendered == (attack in FLOATS - KEPT)
    family = "Resize" if metrics == "highres" else "EightBitResize"
    assert steps(found.steps) == ["AlignedResize" if attack.endswith(("plgmi", "lokt", "diffmi")) else family]


@pytest.mark.parametrize("scale", ["mini", "synth"])
def test_elsewhere_the_kept_images_are_judged_by_the_steps_of_the_metrics(scale):
    found = judging(settings("attack=plgmi", f"scale={scale}"))
    assert found == (False, found.steps, False) and steps(found.steps) == ["EightBitResize"]


def test_only_the_metrics_of_attacks_judged_by_floats_get_another_key():
    def keys(attack, pictures):
        plan = make_plan(settings(f"attack={attack}", f"metrics.pictures={pictures}"))
        return {name: stage.key for name, stage in plan.stages.items()}

    assert keys("gmi", "official") == keys("gmi", "eight_bit")
    official, kept = keys("plgmi", "official"), keys("plgmi", "eight_bit")
    assert {name for name in kept if kept[name] != official[name]} == {"metrics", "verdicts"}


def test_a_prior_is_no_part_of_metrics_that_look_at_kept_images():
    plan = make_plan(settings("attack=plgmi"))
    assert "prior" not in plan.stages["metrics"].upstream
    plan = make_plan(settings("attack=plgmi", "metrics.pictures=official"))
    assert plan.stages["metrics"].upstream["prior"] == plan.stages["prior"].key


def test_an_attack_alone_may_have_something_measured_and_no_other_key_moves():
    plan = make_plan(settings("attack=diffmi"))
    assert plan.stages["metrics"].config["metrics"]["measure"]["pgd"]["names"] == ["before_pgd", "after_pgd"]
    assert "pgd" not in make_plan(settings("attack=plgmi")).stages["metrics"].config["metrics"]["measure"]
