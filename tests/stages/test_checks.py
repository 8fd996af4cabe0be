"""A mistake in a part that is needed late is told before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from midre_exp import stages
from midre_exp.__main__ import main
from midre_exp.defense import compose_defenses
from midre_exp.errors import CheckpointError, ConfigError, UserError
from midre_exp.executor import Executor
from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs
from midre_exp.priors.stylegan.nvidia_fixture import write_stylegan2
from midre_exp.run import run
from midre_exp.stages import make_plan
from midre_exp.stages.parts import make_parts
from midre_exp.store.store import MARKER, Store
from tests.conftest import tiny_overrides
from tests.plugins import ReadsItsNumbers

#: What is wrong, and what the sentence says.
PRIOR = (
    (["attack.prior.steps=-3"], r"attack\.prior\.steps=-3 cannot be used; give a whole number from 1"),
    (["attack.prior.steps=2.5"], r"attack\.prior\.steps=2\.5 cannot be used; give a whole number from 1"),
    (["attack.prior.latent_dim=0"], r"attack\.prior\.latent_dim=0 cannot be used"),
    (["attack.prior.width=0"], r"attack\.prior\.width=0"),
    (["attack.prior.image_size=33"], r"attack\.prior\.image_size=33"),
    (["attack.prior.batch_size=0"], r"attack\.prior\.batch_size=0"),
    (["attack.prior.lr=-1"], r"attack\.prior\.lr=-1 cannot be used"),
    (["attack.prior.betas=[0.5]"], r"attack\.prior\.betas=\[0\.5\]"),
    (["attack.prior.ema=2"], r"attack\.prior\.ema=2 cannot be used"),
    (["attack.prior.gp_weight=much"], r"attack\.prior\.gp_weight=much"),
    (["+attack.prior.colour=red"], "colour is read by nothing; GMIPrior"),
    (
        ["attack.prior.pretrained.generator=nowhere.tar"],
        r"prior\.pretrained\.generator=nowhere\.tar is no file",
    ),
    (["attack=kedmi", "attack.prior.group=0"], r"attack\.prior\.group=0"),
    (["attack=plgmi", "attack.prior.view.scale=[0,2]"], r"view\.scale=\[0, 2\] cannot be used"),
    (["attack=plgmi", "attack.prior.identity_loss._target_=attacks.losses.none"], r"attacks\.losses\.none"),
    (["attack=ppa", "attack.prior.mixing=2"], r"attack\.prior\.mixing=2 cannot be used"),
    (["attack=ppa", "attack.prior.z_dim=0"], r"attack\.prior\.z_dim=0"),
    (
        ["attack=ppa", "attack.prior.pretrained=nowhere.pkl"],
        r"attack\.prior\.pretrained=nowhere\.pkl is no file",
    ),
)
SIZES = (
    (
        ["target=vgg16", "resolution=16"],
        r"target vgg16 cannot take images of 16 px .*choose another resolution or",
    ),
    (
        ["evaluator.resolution=16"],
        r"evaluator vgg16 cannot take images of 16 px .*another evaluator\.resolution",
    ),
    (
        ["setup=S27", "scale=synth", "target=maxvit", "resolution=100"],
        "images of 100x100 px do not fit model.image_size=224 of MaxViT",
    ),
)
SURROGATES = (
    (["surrogates.students=[b9]"], r"student b9 is unknown; attack\.surrogates\.students"),
    (["surrogates.epochs=0"], r"attack\.surrogates\.epochs=0"),
    (["surrogates.lr=-0.1"], r"attack\.surrogates\.lr=-0\.1 cannot be used"),
    (
        ["surrogates.pretrained.p_reg=nowhere.pt"],
        r"attack\.surrogates\.pretrained\.p_reg=nowhere\.pt is no file",
    ),
)
EVALUATOR = (
    (["evaluator.recipe.optimizer._target_=torch.optim.Nothing"], r"torch\.optim\.Nothing"),
    (["evaluator.recipe.optimizer.lr=-1"], r"optimizer\.lr=-1 cannot be used"),
    (["+evaluator.recipe.optimizer.speed=1"], "speed"),
    (["evaluator.recipe.scheduler._target_=os.system"], r"os\.system is not allowed"),
    (
        ["evaluator.recipe.select=luckiest"],
        r"evaluator\.recipe\.select=luckiest cannot be used; give last or best_test",
    ),
    (["evaluator.recipe.augment.0.p=3"], "p=3"),
    (
        ["evaluator.recipe.augment=[{_target_: midre_exp.data.transforms.RandomShift, pixels: 100}]"],
        r"RandomShift pixels=100 moves images of \d+ px out of themselves; use \d+ or fewer",
    ),
    (["evaluator.model.width=0"], r"model\.width=0"),
    (["+evaluator.model.colour=red"], "colour"),
    (["evaluator.checkpoint=nowhere.pth"], r"evaluator\.checkpoint=nowhere\.pth is no file"),
    (["evaluator.weights=nowhere.pth"], r"evaluator\.weights=nowhere\.pth is no file"),
)
METRICS = (
    (["metrics.measure.top1.k=0"], r"top1\.k=0 cannot be used"),
    (["+metrics.measure.top1.colour=red"], "colour is read by nothing; AttackAccuracy"),
    (["metrics.measure.fid._target_=midre_exp.metrics.fid.Fad"], r"midre_exp\.metrics\.fid\.Fad"),
    (["metrics.image_to_evaluator.0.size=-1"], "size=-1"),
    (
        ["metrics.image_to_evaluator.0.size=7"],
        r"evaluator vgg16 cannot take images of 7 px .*another metrics\.image_to_evaluator",
    ),
)


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with packaged_configs():
        yield packaged_composer()


@pytest.fixture
def settings_of_mini(composer: Composer) -> Callable[..., dict[str, Any]]:
    return lambda *overrides: composer.settings(list(overrides))


def with_prior(settings: dict[str, Any], **prior: Any) -> dict[str, Any]:
    return {**settings, "attack": {**settings["attack"], "prior": prior}}


def preflight(settings: dict[str, Any]) -> None:
    """What a run does before it builds anything."""
    with Executor(settings, make_plan(settings), make_parts(settings)):
        pass


def told_before(stage: Any, settings: dict[str, Any]) -> None:
    """What is looked at before a stage is built: the values of the whole config, then the stage."""
    make_plan(settings)
    stage.check(settings, make_parts(settings))


def left(folder: Path) -> list[str]:
    """What a store holds besides its mark."""
    return [path.name for path in folder.rglob("*") if path.is_file() and path.name != MARKER]


@pytest.mark.parametrize(("overrides", "sentence"), [*PRIOR[:6], *PRIOR[10:12], *EVALUATOR[:2], *METRICS[:1]])
def test_a_run_with_a_mistake_further_on_stops_before_anything_is_built(tiny, overrides, sentence):
    settings = tiny(*overrides)
    with pytest.raises(UserError, match=sentence):
        run(settings)
    assert left(Path(settings["paths"]["store"])) == []


@pytest.mark.parametrize(("overrides", "sentence"), PRIOR)
def test_a_prior_that_cannot_be_is_told_in_one_sentence(settings_of_mini, overrides, sentence):
    settings = settings_of_mini(*overrides)
    with pytest.raises((ConfigError, CheckpointError), match=sentence) as found:
        told_before(stages.prior, settings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("overrides", "sentence"), SURROGATES)
def test_surrogates_that_cannot_be_are_told_in_one_sentence(settings_of_mini, overrides, sentence):
    settings = settings_of_mini("attack=lomma_gmi", *(f"attack.{text}" for text in overrides))
    with pytest.raises((ConfigError, CheckpointError), match=sentence) as found:
        told_before(stages.surrogates, settings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("overrides", "sentence"), EVALUATOR)
def test_an_evaluator_that_cannot_be_trained_is_told_in_one_sentence(settings_of_mini, overrides, sentence):
    settings = settings_of_mini(*overrides)
    with pytest.raises((ConfigError, CheckpointError), match=sentence) as found:
        told_before(stages.evaluator, settings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(("overrides", "sentence"), SIZES)
def test_images_of_a_size_that_no_network_takes_are_told_before_training(
    composer, tmp_path, overrides, sentence
):
    paths = [f"paths.{name}={tmp_path}" for name in ("store", "runs", "results")]
    settings = composer.settings([*overrides, *paths])
    with pytest.raises(ConfigError, match=sentence) as found:
        preflight(settings)
    assert "\n" not in str(found.value)


def test_every_network_takes_the_images_of_its_setup(composer):
    seen = set()
    for setup in ("S01", "S02", "S03", *(f"S{number}" for number in range(27, 36))):
        settings = composer.settings([f"setup={setup}", "scale=paper"])
        pixels = {"target": settings["resolution"], "evaluator": settings["evaluator"]["resolution"]}
        for stage in (stages.target, stages.evaluator):
            name = settings[stage.name]["name"]
            if name not in seen:
                stage.check_size(settings, pixels[stage.name], "key", compose_defenses({}))
                seen.add(name)
    assert len(seen) >= 13


def test_what_an_attack_shows_must_have_a_size_that_the_target_takes(settings_of_mini):
    resize = "attack.image_to_target=[{_target_: midre_exp.data.transforms.Resize, size: 7}]"
    settings = settings_of_mini("target=vgg16", resize)
    with pytest.raises(ConfigError, match=r"images of 7 px .*another attack\.image_to_target"):
        told_before(stages.attack, settings)


@pytest.mark.parametrize(("overrides", "sentence"), METRICS)
def test_a_metric_that_cannot_be_is_told_in_one_sentence(settings_of_mini, overrides, sentence):
    settings = settings_of_mini(*overrides)
    with pytest.raises(ConfigError, match=sentence) as found:
        told_before(stages.metrics, settings)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "override", ["attack.prior.steps=-3", "evaluator.recipe.select=luckiest", "metrics.measure.top1.k=0"]
)
def test_the_command_line_answers_with_exit_code_2(tmp_path, monkeypatch, capfd, override):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["midre_exp", *tiny_overrides(tmp_path), override])
    with pytest.raises(SystemExit) as stop:
        main()
    err = capfd.readouterr().err
    assert stop.value.code == 2 and len(err.strip().splitlines()) == 1 and err.startswith("midre_exp: ")
    assert left(tmp_path / "store") == []


@pytest.mark.parametrize("setup", ["S01", "S13", "S19", "S27", "S36"])
def test_networks_of_published_size_take_no_memory(settings_of_mini, monkeypatch, setup):
    settings = settings_of_mini(f"setup={setup}", "scale=paper")
    made: list[torch.nn.Module] = []
    register = torch.nn.Module.register_parameter

    def count(module, name, parameter):
        made.append(parameter)
        register(module, name, parameter)

    monkeypatch.setattr(torch.nn.Module, "register_parameter", count)
    parts = Mock(undefended=compose_defenses({}))  # no licensed data are needed to look at networks
    for stage in (stages.prior, stages.surrogates, stages.evaluator):
        if stage.is_part_of(settings):
            stage.check(settings, parts)
    weights = [parameter for parameter in made if parameter is not None]
    assert sum(parameter.numel() for parameter in weights) > 10**7
    assert all(parameter.device.type == "meta" for parameter in weights)


def test_a_part_that_needs_its_numbers_is_made_with_them(settings_of_mini):
    settings = settings_of_mini("runtime.trusted_packages=[tests]")
    node = {"_target_": "tests.plugins.ReadsItsNumbers", "seed": 0, "name": "own"}
    parts = make_parts(settings)
    ReadsItsNumbers.made.clear()
    stages.prior.check(with_prior(settings, **node, steps=1), parts)
    assert ReadsItsNumbers.made == ["meta", "cpu"]
    with pytest.raises(ConfigError, match="steps=0 must be at least 1"):
        stages.prior.check(with_prior(settings, **node, steps=0), parts)


def test_a_published_generator_is_not_read_but_its_keys_are(settings_of_mini, tmp_path, monkeypatch):
    file = tmp_path / "weights.pkl"
    write_stylegan2(file, image_size=32)
    settings = settings_of_mini("attack=ppa", f"attack.prior.pretrained={file}")
    node, parts = settings["attack"]["prior"], make_parts(settings)
    monkeypatch.setattr("midre_exp.priors.stylegan2.load_networks", None)
    stages.prior.check(settings, parts)
    with pytest.raises(ConfigError, match=r"StyleGAN2Prior.*colour"):
        stages.prior.check(with_prior(settings, **node, colour="red"), parts)
    with pytest.raises(ConfigError, match=r"os\.system is not allowed"):
        stages.prior.check(with_prior(settings, **{**node, "ada": {"_target_": "os.system"}}), parts)


#: Of an evaluator that may judge.
NUMBERS = {"acc": 100.0, "counts": {"private_identities": 2, "private_test": 100}}


def test_what_is_in_the_store_is_not_checked_again(tiny, monkeypatch):
    settings = tiny()
    plan, store = make_plan(settings), Store(settings["paths"]["store"])
    stored = (stages.prior, stages.evaluator, stages.metrics)
    for stage in stored:
        key = plan[stage.name].key
        store.build(stage.name, key, config={}, upstream={}, make=lambda work: work.metrics.update(NUMBERS))
        monkeypatch.setattr(type(stage), "check", None)
    preflight(settings)
    with pytest.raises(TypeError):
        preflight({**settings, "paths": {**settings["paths"], "store": str(store.root / "other")}})
