"""Which jobs a sweep means, for ``--plan`` and for the sweep itself, and what each job is made of."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException

import midre_exp.plan.compose
import midre_exp.sweep.sweeper
from midre_exp.__main__ import main
from midre_exp.errors import ConfigError
from midre_exp.plan.compose import Composer, expand, packaged_composer, packaged_configs, settings_of
from midre_exp.plan.config import config_files

JOBS = (
    ["setup=S01", "seed=3"],
    ["setup=demo", "defense=midre", "defense.midre.a_h=0.6"],
    ["setup=S02", "scale=paper", "defense=[midre,nls]", "paths.data=/data of mine"],
    ["data=folder", "data.root=a/b", "runtime.trusted_packages=[a,b]", "resolution=48"],
    ["setup=S19", "attack=lomma_gmi", "target.recipe.optimizer.lr=0.5", "target.recipe.epochs=7"],
    ["setup=S07", "tracking=wandb", "target=ir152", "target=vgg16", "runtime.threads=null"],
    ["setup=S27", "attack/prior=gmi", "target/recipe@evaluator.recipe=mini", "attack.identities=3"],
    ["attack=plgmi", "attack.view={scale:[0.9,1.0],flip_p:0.1}", "data.seed=3"],
    ["evaluator=facenet112", "+setup.remark=x", "seed='1'"],
    ["setup=S30", "attack=gmi", "~setup.title"],
    ["setup=demo", "hydra.launcher._target_=x", "seed=2"],
)


@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_a_job_is_the_one_hydra_composes(job):
    with packaged_configs():
        composer, expected = packaged_composer(), settings_of(job)
        for _ in range(2):  # as composed, and as remembered
            assert composer.settings(job) == expected
            assert list(composer.settings(job)) == list(expected)


@pytest.mark.slow
@pytest.mark.parametrize("scale", config_files("scale"))
def test_every_setup_at_every_scale_is_the_one_hydra_composes(scale):
    with packaged_configs():
        composer = packaged_composer()
        for setup in config_files("setup"):
            for values in (["defense=midre", "seed=1"], ["defense=[midre,nls]", "attack.identities=3"]):
                job = [f"setup={setup}", f"scale={scale}", *values]
                assert composer.settings(job) == settings_of(job), job


def test_hydra_composes_once_per_choice_of_groups_and_once_per_defense():
    asked = []

    def composed(overrides):
        asked.append(overrides)
        return compose("config", overrides)

    jobs = [
        [f"setup={setup}", f"defense={defense}", f"seed={seed}"]
        for setup in ("S01", "S02")
        for defense in ("nodef", "midre", "nls")
        for seed in range(4)
    ]
    with packaged_configs():
        composer = Composer(composed, GlobalHydra.instance().config_loader())
        found = [composer.settings(job) for job in jobs]
    assert len(asked) == 2 + 3
    assert len({(s["setup"]["id"], *s["defense"], s["seed"]) for s in found}) == len(jobs)


@pytest.mark.parametrize("job", [["defense=midre", "defense.midre.ah=1"], ["target=none_such"], ["seed.a=1"]])
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


def test_what_hydra_did_before_goes_on_afterwards():
    with packaged_configs():
        outer = GlobalHydra.instance().hydra
        with packaged_configs():
            assert GlobalHydra.instance().hydra is not outer
        assert GlobalHydra.instance().hydra is outer
    assert not GlobalHydra.instance().is_initialized()


@pytest.mark.parametrize(
    ("sweep", "jobs"),
    [
        ("setup=glob(S0*)", [f"setup=S0{n}" for n in range(1, 10)]),
        ("setup=glob(S0*,exclude=[S01,S02])", [f"setup=S0{n}" for n in range(3, 10)]),
        ("defense=glob([cut*,ti*])", ["defense=cutmix"]),
        ("attack/prior=glob(*gmi)", ["attack/prior=gmi", "attack/prior=plgmi"]),
        ("seed=range(0,3)", ["seed=0", "seed=1", "seed=2"]),
        ("seed=range(4,0,-2)", ["seed=4", "seed=2"]),
        ("seed=choice(3,5)", ["seed=3", "seed=5"]),
        ("defense=nodef,[midre,nls]", ["defense=nodef", "defense=[midre,nls]"]),
    ],
)
def test_every_way_to_name_values_is_told_one_by_one(sweep, jobs):
    assert expand([sweep]) == [[job] for job in jobs]
    with packaged_configs():  # within, too, and what is within still works afterwards
        assert expand([sweep, "seed=7"])[0][-1] == "seed=7"
        assert len(expand([sweep])) == len(jobs)


def test_a_sweep_is_the_product_in_order_and_the_last_override_of_a_key_wins():
    swept = expand(["seed=0,1", "defense=nodef,midre", "seed=5,6"])
    assert swept == [[f"seed={seed}", f"defense={name}"] for seed in (5, 6) for name in ("nodef", "midre")]


@pytest.mark.parametrize(
    ("sweep", "sentence"),
    [
        ("attack.lr=interval(0,1)", r"attack\.lr=interval\(0,1\) names no values .* attack\.lr=A,B"),
        ("setup=glob(Z*)", r"setup=glob\(Z\*\) stands for no value at all; choices of setup: S01, .*demo"),
        ("seed=glob(*)", r"seed=glob\(\*\) stands for no value at all"),
        ("seed=range(3,0)", r"seed=range\(3,0\) stands for no value at all; list some"),
        ("seed=range(0,3,0)", r"seed=range\(0,3,0\) .*zero"),
        ("hydra/launcher=basic,slurm", "hydra/launcher cannot be swept"),
    ],
)
def test_a_sweep_without_a_list_of_values_is_one_sentence(sweep, sentence):
    with pytest.raises(ConfigError, match=sentence) as found:
        expand(["defense=midre", sweep])
    assert "\n" not in str(found.value)


class Planned(Exception):
    """Carries the jobs out of a command before it goes on."""


@pytest.fixture
def jobs_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[list[str]]]:
    """``jobs_of("--plan", "seed=0,1")``: the jobs that the command line would tell of or launch."""

    def expanded(*arguments: Any) -> list[list[str]]:
        found.extend(expand(*arguments))
        raise Planned

    found: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    for module in (midre_exp.plan.compose, midre_exp.sweep.sweeper):
        monkeypatch.setattr(module, "expand", expanded)

    def call(*arguments: str) -> list[list[str]]:
        found.clear()
        monkeypatch.setattr(sys, "argv", ["midre_exp", *arguments])
        with pytest.raises((Planned, SystemExit)):
            main()
        return list(found)

    return call


def test_the_plan_has_the_jobs_that_the_sweep_launches(jobs_of):
    sweep = ("-m", "setup=glob(S0*)", "defense=choice(nodef,midre)", "seed=range(0,3)")
    planned = jobs_of("--plan", *sweep)
    assert len(planned) == 9 * 2 * 3
    assert jobs_of(*sweep) == planned


def test_the_plan_of_a_glob_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["midre_exp", "--plan", "-m", "setup=glob(S0*)", "scale=mini"])
    main()
    assert "9 runs planned: 0 finished before, 0 repeated, 9 to do" in capsys.readouterr().out


@pytest.mark.parametrize("flags", [["--plan", "-m"], ["-m"]])
def test_both_refuse_an_interval_in_one_sentence(tmp_path, monkeypatch, capsys, flags):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["midre_exp", *flags, "attack.lr=interval(0,1)"])
    with pytest.raises(SystemExit) as stop:
        main()
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and "attack.lr=interval(0,1) names no values" in line


@pytest.mark.parametrize(
    ("choice", "copies", "values", "critic"),
    [
        ("paa", 50, {"sigma": 0.06}, None),
        ("paa_gmi", 50, {"sigma": 0.003}, "nothing"),
        ("paa_kedmi", 50, {"sigma": 0.05}, "copies"),
        ("taa", 50, {"scale": [0.8, 1.0], "degrees": 5}, None),
        ("taa_kedmi", 50, {"scale": [0.8, 1.0], "degrees": 5}, "copies"),
        ("taa_gmi", 30, {"scale": [0.9, 1.0], "degrees": 3}, "nothing"),
    ],
)
def test_the_published_values_of_alignmi_are_choices(choice, copies, values, critic):
    with packaged_configs():
        node = settings_of(["attack=lomma_gmi", f"attack/expectation={choice}"])["attack"]["expectation"]
    view, *fills = node["views"]
    assert bool(fills) == (critic == "nothing") and node.get("critic") == critic
    assert node["copies"] == copies and values.items() <= view.items()
    assert (node["search"], node["optimisation"], node["selection"]) == (False, True, False)
