from __future__ import annotations

import pytest
from hydra.errors import HydraException

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import Composer
from midre_exp.plan.planning import packaged_composer, packaged_configs, settings_of

JOBS = (
    ["setup=S01", "seed=3"],
    ["setup=demo", "defense=midre", "defense.midre.a_h=0.6"],
    ["setup=S02", "scale=paper", "defense=[midre,nls]", "paths.data=/data of mine"],
    ["data=folder", "data.root=a/b", "runtime.trusted_packages=[a,b]", "resolution=48"],
    ["setup=S19", "attack=lomma_gmi", "target.recipe.optimizer.lr=0.5", "target.recipe.epochs=7"],
    ["setup=S07", "tracking=wandb", "target=ir152", "target=vgg16", "runtime.threads=null"],
    ["evaluator=facenet112", "+setup.remark=x", "seed='1'"],
    ["setup=S30", "attack=gmi", "~setup.title"],
)


def test_a_quickly_composed_job_is_the_one_hydra_composes():
    with packaged_configs():
        composer = packaged_composer()
        for job in JOBS:
            expected = settings_of(job)
            for _ in range(2):  # as composed, and as remembered
                assert composer.settings(job) == expected, job
                assert list(composer.settings(job)) == list(expected)


def test_hydra_composes_once_per_choice_of_groups_and_once_per_defense():
    with packaged_configs():
        own = packaged_composer()
        asked = []

        def compose(overrides):
            asked.append(overrides)
            return own._compose(overrides)

        composer = Composer(compose, own._is_group)
        jobs = [
            [f"setup={setup}", f"defense={defense}", f"seed={seed}"]
            for setup in ("S01", "S02")
            for defense in ("nodef", "midre", "nls")
            for seed in range(4)
        ]
        found = [composer.settings(job) for job in jobs]
    assert len(asked) == 2 + 3
    assert len({(s["setup"]["id"], *s["defense"], s["seed"]) for s in found}) == len(jobs)
    found[0]["defense"]["nodef"] = "changed"
    assert found[1]["defense"]["nodef"] != "changed"  # nothing is shared


@pytest.mark.parametrize(
    "job", [["defense=midre", "defense.midre.ah=1"], ["target=none_such"], ["seed.a=1"], ["a=b=c"]]
)
def test_what_hydra_refuses_is_refused_in_its_words(job):
    with packaged_configs():
        with pytest.raises(HydraException) as expected:
            settings_of(job)
        with pytest.raises(HydraException) as found:
            packaged_composer().settings(job)
    assert str(found.value) == str(expected.value)


def test_a_missing_value_is_told_by_name():
    with packaged_configs(), pytest.raises(ConfigError, match=r"data\.root"):
        packaged_composer().settings(["data=folder"])
