from __future__ import annotations

import copy
import os
import shutil

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks.gmi import GMI
from midre_exp import stages
from midre_exp.attack_run import run_attack
from midre_exp.data.base import to_float
from midre_exp.data.synthetic.synthfaces import render
from midre_exp.errors import ConfigError
from midre_exp.metrics.accuracy import identity_interval, topk_hits
from midre_exp.plan.config import digest, without
from midre_exp.priors.gmi import GMIPrior
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.speed import PRIOR_CALLS, SWITCHES, Speed, make_speed, switched_on
from midre_exp.stages import make_plan
from midre_exp.targets.base import Classifier
from midre_exp.threat import Threat, Victim
from tests.conftest import STAGES

IDENTITIES, LATENT, PIXELS = 12, 24, 16
CPU = torch.device("cpu")
COMPILED = pytest.param(
    {"compile": True},
    marks=[
        pytest.mark.slow,
        pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="no C++ compiler"),
    ],
)


class Small(Classifier):
    """Three convolutions with batch norm."""

    head_name = "fc"

    def __init__(self, width):
        super().__init__()
        self.set_normalisation(0.5, 0.5)
        self.body = nn.Sequential(
            nn.Conv2d(3, width, 4, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
        )  # fmt: skip
        self.fc = nn.Linear(16 * width, IDENTITIES)

    def stages(self):
        yield "body", self.body


def descend(network, loss_of, count, steps, lr):
    """Adam with one cycle of the rate on random batches of 64 of ``count``."""
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(steps):
        loss = loss_of(torch.randint(count, (64,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def classifier(images, labels, width):
    torch.manual_seed(width)
    model = Small(width)
    descend(
        model, lambda rows: F.cross_entropy(model(images[rows]).logits, labels[rows]), len(images), 60, 4e-3
    )
    return model.eval()


def decoder(images):
    """A prior whose generator has learned to draw public faces from their principal components."""
    flat = images.flatten(1) - images.flatten(1).mean(0)
    torch.manual_seed(0)
    _, scale, axes = torch.svd_lowrank(flat, LATENT)
    codes = flat @ axes / scale * len(flat) ** 0.5
    prior = GMIPrior(
        latent_dim=LATENT, width=8, critic_width=8, image_size=PIXELS, epochs=1, steps=1, batch_size=64,
        critic_steps=1, lr=1e-3, betas=(0.0, 0.9), gp_weight=1, gp_every=1, ema=0, pretrained={},
    )  # fmt: skip
    draw = prior.generator
    descend(draw, lambda rows: F.mse_loss(draw(codes[rows]), images[rows]), len(images), 100, 1e-2)
    return prior.eval()


@pytest.fixture(scope="module")
def trained():
    """Target, evaluator and prior of synthetic faces, trained for some seconds."""
    torch.set_num_threads(1)
    labels = torch.arange(IDENTITIES).repeat_interleave(32)
    private = to_float(render(labels, torch.arange(len(labels)) % 32, PIXELS))
    identities = torch.arange(1000, 1512)
    public = to_float(render(identities, torch.zeros_like(identities), PIXELS))
    return classifier(private, labels, 8), classifier(private, labels, 12), decoder(public)


@pytest.fixture(scope="module")
def attacked(trained, tmp_path_factory):
    """``attacked(steps, **switches)``: reconstructions and, for each, whether the evaluator recognises it."""
    target, evaluator, prior = trained
    done = {}

    def attack(steps, **switches):
        name = f"{steps} {switches}"
        if name not in done:
            seen, draw, speed = copy.deepcopy(target), copy.deepcopy(prior), Speed(**switches)
            speed.accelerate(seen)
            speed.accelerate(draw, PRIOR_CALLS)
            gmi = GMI(
                steps=steps, lr=0.1, momentum=0.9, identity_weight=100, clip=2.0, reference_batch=60,
                identities=IDENTITIES, restarts=4,
            )  # fmt: skip
            found = run_attack(
                gmi,
                Victim.of(seen, IDENTITIES, Threat.WHITE_BOX),
                draw,
                seed=0,
                work=tmp_path_factory.mktemp("work"),
                runtime=Runtime(quiet=True),
            )
            with torch.no_grad():
                logits = evaluator(to_float(found.images)).logits
            done[name] = found, topk_hits(logits, found.labels, 1)
        return done[name]

    return attack


@pytest.mark.parametrize("switches", [{"bf16": True}, {"channels_last": True}, COMPILED])
def test_attack_accuracy_stays_within_its_interval(attacked, switches):
    plain, hits = attacked(40)
    quick, others = attacked(40, **switches)
    low, high = identity_interval(hits, plain.labels)
    assert low > 2 / IDENTITIES and high < 1  # neither chance nor a foregone conclusion
    assert low <= others.mean() <= high
    assert abs(float(quick.confidence.mean() - plain.confidence.mean())) < 0.02


@pytest.mark.parametrize("switches, mean", [({"bf16": True}, 2.0), ({"channels_last": True}, 0.01)])
def test_images_are_close_after_a_few_steps(attacked, switches, mean):
    plain, quick = (attacked(3, **chosen)[0].images.float() for chosen in ({}, switches))
    assert (plain - quick).abs().mean() < mean  # of 255


def test_networks_answer_in_float32_and_differ_only_by_rounding(trained):
    target, _, prior = (copy.deepcopy(part) for part in trained)
    latents = torch.randn(4, LATENT, generator=torch.Generator().manual_seed(0))
    images = prior.generate(latents)
    logits, scores = target(images).logits, prior.realism(images)
    Speed(bf16=True).accelerate(target)
    Speed(bf16=True).accelerate(prior, PRIOR_CALLS)
    drawn, seen = prior.generate(latents), target(images, taps=("body",))
    for rounded, exact in ((drawn, images), (seen.logits, logits), (prior.realism(images), scores)):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    assert seen.features.dtype == seen.taps["body"].dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_switches_that_are_off_leave_a_network_alone(trained):
    target = copy.deepcopy(trained[0])
    before = dict(target.__dict__)
    Speed().accelerate(target, ("forward", "no such method"))
    assert dict(target.__dict__) == before
    assert target.body[0].weight.is_contiguous()


def test_channels_last_reorders_the_convolutions(trained):
    target = copy.deepcopy(trained[0])
    Speed(channels_last=True).accelerate(target)
    assert target.body[3].weight.is_contiguous(memory_format=torch.channels_last)
    assert target(torch.rand(2, 3, PIXELS, PIXELS)).logits.dtype == torch.float32


@pytest.mark.parametrize("fused", [False, True])
def test_stylegan2_draws_and_differentiates_in_bf16(fused):
    torch.manual_seed(0)
    network = StyleGAN2Generator(
        z_dim=16, w_dim=16, img_resolution=32, synthesis_kwargs={"channel_base": 512}
    )
    network.eval().requires_grad_(False)
    quick = copy.deepcopy(network)
    Speed(bf16=True, channels_last=True).accelerate(quick.synthesis, ("forward", "run_blocks"))
    ws = network.mapping(torch.randn(4, 16))
    towards = torch.randn(4, 3, 32, 32)
    results = []
    for synthesis in (network.synthesis, quick.synthesis):
        codes = ws.clone().requires_grad_()
        image = synthesis(codes, fused_modconv=fused)
        (first,) = torch.autograd.grad((image * towards).mean(), codes, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), codes)
        results.append((image, first, second))
    for exact, rounded in zip(*results, strict=True):
        assert rounded.dtype == torch.float32
        assert 0 < (exact - rounded).norm() < 0.15 * exact.norm()  # how bfloat16 is summed is the processor's


@pytest.mark.parametrize("fused", [False, True])
def test_stylegan2_in_channels_last_order_differs_by_rounding_alone(fused):
    torch.manual_seed(0)
    network = StyleGAN2Generator(
        z_dim=16, w_dim=16, img_resolution=32, synthesis_kwargs={"channel_base": 512}
    ).eval()
    quick = copy.deepcopy(network.requires_grad_(False))
    Speed(channels_last=True).accelerate(quick.synthesis, ("forward", "run_blocks"))
    ws, towards = network.mapping(torch.randn(4, 16)), torch.randn(4, 3, 32, 32)
    gradients = []
    for synthesis in (network.synthesis, quick.synthesis):
        codes = ws.clone().requires_grad_()
        gradients += torch.autograd.grad((synthesis(codes, fused_modconv=fused) * towards).mean(), codes)
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_switch_makes_another_attack_of_the_same_target_and_prior(tiny, switch):
    off, on = make_plan(tiny()), make_plan(tiny(f"speed.{switch}=true"))
    assert {name for name in STAGES if off[name].key != on[name].key} == {"attack", "metrics"}
    assert on["attack"].config["speed"] == [switch]


def test_without_switches_the_key_is_what_it_was_before_there_were_any(tiny):
    off, on = (make_plan(tiny(*overrides))["attack"] for overrides in ((), ("speed.bf16=true",)))
    assert off.config == without(on.config, "speed") != on.config
    content = {"stage": "attack", "version": stages.attack.version, "upstream": off.upstream}
    assert off.key == digest({**content, "config": {name: off.config[name] for name in ("attack", "seed")}})


def test_a_run_accelerates_target_and_prior_for_the_attack_alone(tiny, monkeypatch):
    calls = []
    honest = Speed.accelerate

    def watched(self, network, calls_of=("forward",)):
        calls.append((self, type(network).__name__, tuple(calls_of)))
        honest(self, network, calls_of)

    monkeypatch.setattr(Speed, "accelerate", watched)
    own = ("attack.prior._target_=tests.plugins.TargetedPrior", "runtime.trusted_packages=[tests]")
    run(tiny("speed.bf16=true", *own))
    quick = Speed(bf16=True)
    assert calls == [
        (quick, "ResNet", ("forward",)),
        (quick, "TargetedPrior", PRIOR_CALLS),
    ]


def test_what_cannot_be_is_said_in_a_sentence(monkeypatch):
    with pytest.raises(ConfigError, match=r"speed\.bf61 is unknown; use one of bf16"):
        switched_on({"bf61": True})
    with pytest.raises(ConfigError, match=r"speed\.bf16=maybe must be true or false"):
        switched_on({"bf16": "maybe"})
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match=r"speed\.compile=true needs a C\+\+ compiler .* no-such-compiler"):
        make_speed({"compile": True}, CPU)
    assert make_speed({"compile": False, "bf16": True}, CPU) == Speed(bf16=True)
