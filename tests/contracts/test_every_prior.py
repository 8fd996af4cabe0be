"""What holds for every prior. A new one adds its small size to tests/priors/small.py and an entry here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import CheckpointError, ConfigError, DivergedError
from midre_exp.numerics import Numerics
from midre_exp.plan.config import config_files
from midre_exp.priors import Prior, build_prior, check_images
from midre_exp.priors.gan import training
from midre_exp.priors.lokt import TACGANPrior
from midre_exp.priors.stylegan.nvidia_fixture import write_stylegan2
from midre_exp.priors.stylegan2 import load_pickle
from midre_exp.runtime import Runtime
from midre_exp.threat import Threat, Victim
from midre_exp.weights import checkpoint
from midre_exp.weights.finite import not_finite
from tests.devices import CPU, CUDA, each_device
from tests.golden.fill import fill
from tests.priors.small import CLASSES, SMALL, Killed, Recorder, public, same, small, victim


@dataclass(frozen=True)
class Case:
    """``variants``: changes under which training is killed and continued; ``refused``: changes, and what the
    refusal says; ``files``: the networks with published files (none: one file, of NVIDIA's); ``asks``: images
    that a step of training shows to the target.
    """

    name: str
    variants: tuple[Mapping[str, Any], ...]
    refused: tuple[tuple[Mapping[str, Any], str], ...]
    files: tuple[str, ...] = ()
    asks: int = 0
    threat: Threat = Threat.WHITE_BOX  # of a target that it asks
    span: tuple[float, float] | None = (0.0, 1.0)  # of generated images; None: nominally, not clamped

    @property
    def size(self) -> int:
        return SMALL[self.name]["image_size"]

    @property
    def steps(self) -> int:
        return SMALL[self.name]["steps"]

    def images(self, n: int = 40) -> ImageSet:
        return public(n, self.size)


CASES = (
    Case(
        "gmi",
        variants=({}, {"ema": 0.9, "gp_every": 2, "critic_steps": 2}),
        files=("generator", "critic"),
        refused=(
            ({"pretrained": {"generator": "g", "critic": None}}, "prior.pretrained needs .*only generator"),
            ({"epochs": 0}, "prior.epochs=0"),
            ({"critic_steps": 0}, "prior.critic_steps=0"),
            ({"gp_every": 0}, "prior.gp_every=0"),
            ({"gp_weight": -1}, "prior.gp_weight=-1"),
            ({"image_size": 24}, "prior.image_size=24"),
        ),
    ),
    Case(
        "kedmi",
        variants=({}, {"ema": 0.9, "critic_steps": 1, "group": 4}),
        files=("generator", "discriminator"),
        refused=(
            ({"pretrained": {"generator": "g", "discriminator": None}}, "pretrained needs .*only generator"),
            ({"critic_steps": 0}, "prior.critic_steps=0"),
            ({"group": 0}, "prior.group=0"),
            ({"group": 3}, "prior.group=3 must divide attack.prior.batch_size=8"),
            ({"kernels": 0}, "prior.kernels=0"),
            ({"image_size": 16}, "prior.image_size=16 is not supported by KedMI's discriminator"),
        ),
    ),
    Case(
        "plgmi",
        variants=({}, {"ema": 0.9, "discriminator_steps": 1}),
        files=("generator", "discriminator"),
        asks=6,
        span=(-1.0, 1.0),
        refused=(
            ({"pretrained": {"generator": None, "discriminator": "d"}}, "needs .*only discriminator"),
            ({"per_class": 0}, "prior.per_class=0"),
            ({"discriminator_steps": 0}, "prior.discriminator_steps=0"),
            ({"image_size": 24}, "prior.image_size=24"),
        ),
    ),
    Case(
        "tacgan",
        variants=({}, {"ema": 0.9, "discriminator_steps": 1}),
        files=("generator", "discriminator"),
        threat=Threat.LABELS,
        span=(-1.0, 1.0),
        refused=(
            ({"pretrained": {"generator": None, "discriminator": "d"}}, "needs .*only discriminator"),
            ({"warmup_steps": 21}, "prior.warmup_steps=21 exceeds attack.prior.steps=20"),
            ({"discriminator_steps": 0}, "prior.discriminator_steps=0"),
            ({"class_weight": -1}, "prior.class_weight=-1"),
            ({"image_size": 24}, "prior.image_size=24"),
        ),
    ),
    Case(
        "ddpm",
        variants=({}, {"ema": 0}),
        refused=(
            ({"per_class": 0}, "prior.per_class=0"),
            ({"unlabelled": 1.5}, r"prior.unlabelled=1.5 must lie in \[0, 1\]"),
            ({"multipliers": [1, 2, 2, 2, 2]}, r"multipliers=\[1, 2, 2, 2, 2\] halve an image of .*=8 px 4"),
            ({"drawing_steps": 1001}, "prior.drawing_steps=1001 exceeds attack.prior.levels=1000"),
        ),
    ),
    Case(
        "stylegan2",
        variants=({}, {"path_weight": 0, "ada": None, "mixing": 0, "ema": 0}),
        span=None,
        refused=(
            ({"batch_size": 6}, "prior.batch_size=6 does not divide into groups"),
            ({"mixing": 1.5}, r"prior.mixing=1.5 must lie in \[0, 1\]"),
            ({"ada": {"target": 0.6}}, r"prior.ada=\{'target': 0.6\} is not usable"),
            ({"noise": "some"}, "noise_mode='some' is unknown"),
            ({"image_size": 24}, "img_resolution=24 is not supported; use a power of two"),
        ),
    ),
)  # fmt: skip
every_prior = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
published_priors = pytest.mark.parametrize(
    "case", [case for case in CASES if case.name != "ddpm"], ids=lambda case: case.name
)
REFUSED_BY_ALL = (
    ({"steps": 0}, "prior.steps=0 must be at least 1"),
    ({"batch_size": 0}, "prior.batch_size=0 must be at least 1"),
    ({"lr": -1.0}, "prior.lr=-1.0 must be a number from 0"),
    ({"ema": 1.5}, "prior.ema=1.5 must lie in"),
    ({"betas": [0.5, 1.0]}, r"prior.betas=\[0.5, 1.0\] cannot be used"),
)


def fit(prior: Prior, case: Case, work: Path, asked: Any = None, **options: Any) -> dict[str, float]:
    asked = asked or (victim(case.threat) if prior.uses_target else None)
    options = {"seed": 3, "runtime": Runtime(), "public": case.images(), **options}
    return prior.fit(options.pop("public"), asked, work=work, **options)


def latents_of(prior: Prior, n: int = 7, device: torch.device = CPU) -> tuple[torch.Tensor, torch.Tensor]:
    latents = torch.randn(n, prior.latent_dim, generator=torch.Generator().manual_seed(0))
    return latents.to(device), (torch.arange(n) % CLASSES).to(device)


@every_prior
def test_a_training_in_bf16_rounds_and_learns_alike(tmp_path, case):
    exact, rounded = small(case.name), small(case.name)
    numbers = [
        fit(prior, case, tmp_path / str(numerics), runtime=Runtime(numerics=numerics))
        for prior, numerics in (
            (exact, Numerics()),
            (rounded, Numerics(precision="bf16", channels_last=True)),
        )
    ]
    assert {value.dtype for value in rounded.state_dict().values() if value.is_floating_point()} == {
        torch.float32
    }
    assert numbers[0] != numbers[1]
    for name, value in numbers[0].items():
        assert numbers[1][name] == pytest.approx(value, rel=0.05, abs=0.06), name
    latents, labels = latents_of(exact)
    with torch.no_grad():
        first, second = (prior.eval().generate(latents, labels) for prior in (exact, rounded))
    assert 0 < (first - second).abs().mean() < 0.01


def test_the_list_is_complete():
    assert {case.name for case in CASES} == set(config_files("attack/prior"))


def questions(prior: Prior, case: Case, done: int) -> int:
    """Images that a training shows to the target from step ``done`` on."""
    if isinstance(prior, TACGANPrior):
        asking = case.steps - max(done, prior.warmup_steps)
        return asking * prior.discriminator_steps * prior.batch_size
    before = 0 if done or not prior.uses_target else 40
    return before + (case.steps - done) * case.asks


@each_device
@pytest.mark.parametrize(
    ("case", "changes"), [pytest.param(case, v, id=case.name) for case in CASES for v in case.variants]
)
def test_a_killed_training_continues_to_the_same_bytes_and_asks_nothing_twice(
    tmp_path, case, changes, device
):
    whole, broken, continued = (small(case.name, **changes) for _ in range(3))
    asked, done = victim(case.threat), 5
    runtime = Runtime(device=device)
    numbers = fit(whole, case, tmp_path / "whole", asked if whole.uses_target else None, runtime=runtime)
    assert asked.queries == questions(whole, case, 0)
    work = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        fit(broken, case, work, runtime=Killed(checkpoint_seconds=0, at=done, device=device))
    assert checkpoint.load(work / training.CHECKPOINT)["step"] == done
    assert not same(broken, whole)
    again = victim(case.threat)
    told = fit(continued, case, work, again if whole.uses_target else None, runtime=runtime)
    assert again.queries == questions(whole, case, done)
    if device == CPU:
        assert told == numbers and same(continued, whole)
    else:  # adds up in any order
        assert told == pytest.approx(numbers, rel=1e-2, abs=1e-2)
    assert not any(module.training for module in continued.generator.modules())


@every_prior
def test_the_seed_of_the_config_and_that_of_the_training_make_the_prior(tmp_path, case):
    steps = {"steps": 2}
    priors = [small(case.name, **steps), small(case.name, **steps), small(case.name, seed=1, **steps)]
    assert same(*priors[:2]) and not same(*priors[1:])
    for seed, prior in enumerate(priors[:2]):
        fit(prior, case, tmp_path / str(seed), seed=seed)
    assert not same(*priors[:2])


@pytest.mark.gpu
@every_prior
def test_a_gpu_draws_what_a_cpu_draws(case):
    prior = small(case.name).eval().requires_grad_(False)
    drawn = {}
    for device in (CPU, CUDA):
        latents, labels = latents_of(prior, device=device)
        images = prior.to(device).generate(latents, labels)
        drawn[device] = images.cpu(), prior.realism(images).cpu()
    for on_cpu, on_gpu in zip(drawn[CPU], drawn[CUDA], strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, rtol=1e-3, atol=1e-3)


@each_device
@every_prior
def test_images_are_of_their_latents_alone_and_in_range(case, device):
    prior = small(case.name).eval().to(device)
    latents, labels = latents_of(prior, device=device)
    images = prior.generate(latents, labels)
    assert images.shape == (7, 3, case.size, case.size) and images.dtype == torch.float32
    if case.span:
        assert case.span[0] <= images.min() and images.max() <= case.span[1]
    chunks = [prior.generate(z, y) for z, y in zip(latents.split(3), labels.split(3), strict=True)]
    torch.testing.assert_close(torch.cat(chunks), images, rtol=0, atol=1e-5)
    scores = prior.realism(images)
    assert scores.shape == (7,) and bool(scores.isfinite().all())


@every_prior
def test_a_frozen_prior_gives_gradients_of_latents_and_stays_as_it_was(case):
    prior, before = small(case.name).eval().requires_grad_(False), small(case.name)
    latents, labels = latents_of(prior)
    images = prior.generate(latents.requires_grad_(), labels)
    prior.realism(images).sum().backward()
    assert latents.grad.abs().sum() > 0
    assert same(prior, before)


@every_prior
def test_a_state_dict_restores_a_prior(tmp_path, case):
    prior, again = small(case.name, steps=1), small(case.name, seed=1)
    fit(prior, case, tmp_path)
    again.load_state_dict(prior.state_dict())
    assert same(prior, again)
    latents, labels = latents_of(prior)
    assert torch.equal(prior.eval().generate(latents, labels), again.eval().generate(latents, labels))


def published(case: Case, folder: Path) -> tuple[Any, Mapping[str, nn.Module]]:
    """What ``pretrained`` says of published files, and the networks they hold by name."""
    if not case.files:
        path = folder / "network.pkl"
        write_stylegan2(path, image_size=case.size)
        networks = load_pickle(path)
        return str(path), {"generator": networks["G_ema"], "discriminator": networks["D"]}
    source = small(case.name)
    networks = {name: fill(source.get_submodule(name)) for name in case.files}
    for name, network in networks.items():
        state = {f"module.{key}": value for key, value in network.state_dict().items()}
        torch.save({"state_dict": state}, folder / f"{name}.tar")
    return {name: str(folder / f"{name}.tar") for name in networks}, networks


@published_priors
def test_published_files_replace_training_and_ask_nothing(tmp_path, case):
    pretrained, networks = published(case, tmp_path)
    prior, asked = small(case.name, seed=1, pretrained=pretrained), victim(case.threat)
    assert prior.fit(None, asked, seed=0, work=tmp_path, runtime=Runtime()) == {}
    assert asked.queries == 0 and not list(tmp_path.glob("*.pt"))
    for name, network in networks.items():
        assert same(prior.get_submodule(name), network)


@published_priors
def test_published_files_that_are_missing_or_do_not_fit_are_refused(tmp_path, case):
    pretrained, _ = published(case, tmp_path)
    if not case.files:
        with pytest.raises(
            ConfigError, match=r"prior.image_size=16, but .*network.pkl draws 8 pixels; set it"
        ):
            small(case.name, pretrained=pretrained, image_size=16)
        with pytest.raises(CheckpointError, match=r"nothing.pkl does not exist"):
            small(case.name, pretrained=str(tmp_path / "nothing.pkl"))
        return
    with pytest.raises(CheckpointError, match="does not fit"):
        fit(small(case.name, pretrained=pretrained, width=3), case, tmp_path)
    (tmp_path / f"{case.files[-1]}.tar").unlink()
    with pytest.raises(CheckpointError, match=f"{case.files[-1]}.tar"):
        fit(small(case.name, pretrained=pretrained), case, tmp_path)


@pytest.mark.parametrize(
    ("case", "changes", "words"),
    [
        pytest.param(case, *refused, id=f"{case.name} {refused[1]}")
        for case in CASES
        for refused in (*case.refused, *REFUSED_BY_ALL)
    ],
)
def test_options_that_cannot_be_are_refused_by_name(case, changes, words):
    with pytest.raises(ConfigError, match=words):
        small(case.name, **changes)


@every_prior
def test_unusable_public_images_and_divergence_are_told_by_name(tmp_path, case):
    for images, words in (
        (case.images(4), r"prior\.(batch_size|per_class)=\d+ (must lie between 1 and|exceeds) the 4 public"),
        (public(size=64), f"prior.image_size={case.size}, but the public images have 64x64 pixels"),
        (None, "is trained on public images; hand them in"),
    ):
        with pytest.raises(ConfigError, match=words):
            fit(small(case.name), case, tmp_path / "unusable", public=images)
    broken = tmp_path / "diverged"
    with pytest.raises(DivergedError, match=r"diverged before step [1-4]; lower attack\.prior\.lr"):
        fit(small(case.name, lr=1e30, steps=4), case, broken, runtime=Runtime(checkpoint_seconds=0))
    state = checkpoint.load(broken / training.CHECKPOINT)
    assert state is None or not not_finite(state["generator"])


@every_prior
def test_a_prior_that_draws_no_images_is_not_published(case):
    prior = small(case.name).eval()
    check_images(prior, pretrained=False)
    check_images(prior, pretrained=True)
    wrong = [(torch.nan, "draw what is not finite"), (0.0, "draw the same image")]
    if case.name == "ddpm":  # whose latents are images already
        wrong.pop()
    for number, told in wrong:
        for value in prior.generator.state_dict().values():
            if value.is_floating_point():
                value.data.fill_(number)
        with pytest.raises(CheckpointError, match=f"attack.prior.pretrained {told}"):
            check_images(prior, pretrained=True)
    next(prior.generator.parameters()).data.fill_(torch.inf)
    with pytest.raises(DivergedError, match=r"the prior diverged \(not finite: generator"):
        check_images(prior, pretrained=False)


@every_prior
def test_a_prior_sees_the_target_if_and_only_if_it_says_so(tmp_path, case):
    prior = small(case.name, steps=1)
    if not prior.uses_target:
        assert not hasattr(prior, "num_classes")
        asked = victim()
        fit(prior, case, tmp_path, asked)
        assert asked.queries == 0
    else:
        assert prior.num_classes == CLASSES
        needs = "with a white-box attack" if case.threat is Threat.WHITE_BOX else "with attack lokt"
        for asked in (None, *(victim(threat) for threat in Threat if threat is not case.threat)):
            with pytest.raises(ConfigError, match=needs):
                prior.fit(case.images(), asked, seed=0, work=tmp_path, runtime=Runtime())


@every_prior
def test_training_reports_numbers_and_samples_and_looking_changes_nothing(tmp_path, monkeypatch, case):
    shown, silent, tracker = small(case.name, steps=9), small(case.name, steps=9), Recorder()
    fit(silent, case, tmp_path / "silent")
    monkeypatch.setattr(training, "LOG_EVERY", 4)
    monkeypatch.setattr(training, "SAMPLES_EVERY", 6)
    numbers = fit(shown, case, tmp_path / "shown", runtime=Runtime(tracker=tracker))
    assert tracker.steps == [4, 8]
    assert [grid for grid in tracker.grids if grid[0] == "samples"] == [
        ("samples", 6, (64, 3, case.size, case.size))
    ]
    assert numbers and all(map(math.isfinite, numbers.values()))
    assert same(shown, silent)


@pytest.mark.parametrize("name", ["gmi", "kedmi"])
@pytest.mark.parametrize(("steps", "count"), [(None, 2 * 5), (4, 4)])
def test_steps_override_epochs_of_whole_batches(tmp_path, name, steps, count):
    prior = small(name, epochs=2, steps=steps)
    images = public(41, prior.image_size)
    prior.fit(images, victim(), seed=0, work=tmp_path, runtime=Runtime(checkpoint_seconds=0))
    saved = checkpoint.load(tmp_path / training.CHECKPOINT)
    assert saved["step"] == count - 1  # what is finished is not written, but published
    assert saved["generator_steps"] == (count - 1) // prior.critic_steps


@every_prior
def test_build_prior_reads_the_yaml_under_a_scale_and_refuses_what_it_does_not_know(case):
    sizes = {key: value for key, value in SMALL[case.name].items() if key != "image_size"}
    prior = build_prior(case.name, scale="mini", num_classes=CLASSES, **sizes)
    assert prior.image_size == 32 and isinstance(prior, type(small(case.name)))
    with pytest.raises(ConfigError, match=r"has no option depth; it has: .*batch_size"):
        build_prior(case.name, num_classes=CLASSES, depth=3)
    if prior.uses_target:
        with pytest.raises(ConfigError, match="is trained against a target; give num_classes"):
            build_prior(case.name)


def test_an_unknown_prior_is_refused_with_the_known_ones():
    with pytest.raises(
        ConfigError, match="prior biggan is unknown; known priors: ddpm, gmi, kedmi, plgmi, stylegan2"
    ):
        build_prior("biggan")


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name in ("kedmi", "plgmi", "ddpm")], ids=lambda c: c.name
)
def test_a_target_whose_answers_are_no_numbers_trains_no_prior(tmp_path, case):
    asked = Victim.of(lambda images: images.mean((2, 3)) * torch.nan, CLASSES)
    with pytest.raises(DivergedError, match=r"the target('s answers| gave answers) .*not finite"):
        fit(small(case.name), case, tmp_path, asked)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
