from __future__ import annotations

import copy
import os
import shutil
from dataclasses import asdict

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from attacks.gmi import GMI
from midre_exp.attack_run import run_attack
from midre_exp.data.base import to_float
from midre_exp.data.synthetic.synthfaces import render
from midre_exp.errors import ConfigError
from midre_exp.machine import processor
from midre_exp.machine.gpus import Gpu
from midre_exp.metrics.accuracy import identity_interval, topk_hits
from midre_exp.numerics import PRIOR_CALLS, Numerics, make_numerics
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import without
from midre_exp.plan.machine_values import decided
from midre_exp.priors.gmi import GMIPrior
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.records.comparable import comparable_config
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.stages import make_plan
from midre_exp.targets.base import Classifier
from midre_exp.threat import Threat, Victim
from tests.conftest import STAGES
from tests.devices import CPU, CUDA

IDENTITIES, LATENT, PIXELS = 12, 24, 16
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
    """``attacked(steps, device, **switches)``: reconstructions and which the evaluator recognises."""
    target, evaluator, prior = trained
    done = {}

    def attack(steps, device=CPU, **switches):
        name = f"{steps} {device} {switches}"
        if name not in done:
            seen, draw, numerics = copy.deepcopy(target), copy.deepcopy(prior), Numerics(**switches)
            numerics.accelerate(seen.to(device))
            numerics.accelerate(draw, PRIOR_CALLS)
            gmi = GMI(
                steps=steps, lr=0.1, momentum=0.9, identity_weight=100, clip=2.0, reference_batch=60,
                identities=IDENTITIES, restarts=4,
            )  # fmt: skip
            victim = Victim.of(seen, IDENTITIES, Threat.WHITE_BOX)
            work, runtime = tmp_path_factory.mktemp("work"), Runtime(quiet=True, device=device)
            with numerics.applied(device):
                found = run_attack(gmi, victim, draw, seed=0, work=work, runtime=runtime)
            with torch.no_grad():
                logits = evaluator(to_float(found.images)).logits
            done[name] = found, topk_hits(logits, found.labels, 1)
        return done[name]

    return attack


@pytest.mark.parametrize("switches", [{"precision": "bf16"}, {"channels_last": True}, COMPILED])
def test_attack_accuracy_stays_within_its_interval(attacked, switches):
    plain, hits = attacked(40)
    quick, others = attacked(40, **switches)
    low, high = identity_interval(hits, plain.labels)
    assert low > 2 / IDENTITIES and high < 1  # neither chance nor a foregone conclusion
    assert low <= others.mean() <= high
    assert abs(float(quick.confidence.mean() - plain.confidence.mean())) < 0.02


@pytest.mark.gpu
@pytest.mark.parametrize(
    "switches", [{}, {"precision": "tf32"}, {"precision": "bf16"}, {"channels_last": True}]
)
def test_on_a_gpu_attack_accuracy_stays_within_the_interval_of_a_cpu(attacked, switches):
    plain, hits = attacked(40)
    quick, others = attacked(40, CUDA, **switches)
    low, high = identity_interval(hits, plain.labels)
    assert low <= others.mean() <= high
    assert abs(float(quick.confidence.mean() - plain.confidence.mean())) < 0.02


@pytest.mark.gpu
def test_strict_on_a_gpu_is_a_cpu_to_rounding(attacked):
    on_cpu, on_gpu = (attacked(3, device)[0].images.float() for device in (CPU, CUDA))
    assert (on_cpu - on_gpu).abs().max() <= 1  # of 255


@pytest.mark.parametrize("switches, mean", [({"precision": "bf16"}, 2.0), ({"channels_last": True}, 0.01)])
def test_images_are_close_after_a_few_steps(attacked, switches, mean):
    plain, quick = (attacked(3, **chosen)[0].images.float() for chosen in ({}, switches))
    assert (plain - quick).abs().mean() < mean  # of 255


def test_networks_answer_in_float32_and_differ_only_by_rounding(trained):
    target, _, prior = (copy.deepcopy(part) for part in trained)
    latents = torch.randn(4, LATENT, generator=torch.Generator().manual_seed(0))
    images = prior.generate(latents)
    logits, scores = target(images).logits, prior.realism(images)
    Numerics(precision="bf16").accelerate(target)
    Numerics(precision="bf16").accelerate(prior, PRIOR_CALLS)
    drawn, seen = prior.generate(latents), target(images, taps=("body",))
    for rounded, exact in ((drawn, images), (seen.logits, logits), (prior.realism(images), scores)):
        assert rounded.dtype == torch.float32
        assert 0 < (rounded - exact).abs().max() < 0.05 * exact.abs().max()
    assert seen.features.dtype == seen.taps["body"].dtype == torch.float32
    assert not torch.is_autocast_enabled("cpu")


def test_switches_that_are_off_leave_a_network_alone(trained):
    target = copy.deepcopy(trained[0])
    before = dict(target.__dict__)
    Numerics().accelerate(target, ("forward", "no such method"))
    assert dict(target.__dict__) == before
    assert target.body[0].weight.is_contiguous()


def test_channels_last_reorders_the_convolutions(trained):
    target = copy.deepcopy(trained[0])
    Numerics(channels_last=True).accelerate(target)
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
    Numerics(precision="bf16", channels_last=True).accelerate(quick.synthesis, ("forward", "run_blocks"))
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
    Numerics(channels_last=True).accelerate(quick.synthesis, ("forward", "run_blocks"))
    ws, towards = network.mapping(torch.randn(4, 16)), torch.randn(4, 3, 32, 32)
    gradients = []
    for synthesis in (network.synthesis, quick.synthesis):
        codes = ws.clone().requires_grad_()
        gradients += torch.autograd.grad((synthesis(codes, fused_modconv=fused) * towards).mean(), codes)
    assert (gradients[0] - gradients[1]).norm() < 1e-4 * gradients[0].norm()


#: Of every option a value that is not the default.
OTHERWISE = {
    "precision": "bf16",
    "deterministic": False,
    "cudnn_benchmark": True,
    "channels_last": True,
    "compile": True,
}


@pytest.mark.parametrize("option", OTHERWISE)
def test_every_option_makes_other_stages_of_all(tiny, option):
    off, on = make_plan(tiny()), make_plan(tiny(f"numerics.{option}={OTHERWISE[option]}"))
    assert {*off.stages} == {*STAGES} == {name for name in STAGES if off[name].key != on[name].key}
    assert all(
        on[name].config["numerics"] == {**asdict(Numerics()), option: OTHERWISE[option]} for name in STAGES
    )


def test_a_reason_makes_no_other_run(tiny):
    assert make_plan(tiny()) == make_plan(tiny("numerics.why=luck"))


def test_the_default_is_strict_and_the_choices_are_what_they_say(tiny):
    chosen = {
        name: make_numerics(tiny(f"numerics={name}")["numerics"]) for name in ("strict", "tf32", "bf16")
    }
    assert chosen["strict"] == make_numerics(tiny()["numerics"]) == Numerics()
    assert {name: numerics.precision for name, numerics in chosen.items()} == {
        "strict": "float32",
        "tf32": "tf32",
        "bf16": "bf16",
    }
    with packaged_configs():
        assert settings_of(["scale=paper", "setup=S01"])["numerics"] == tiny("numerics=tf32")["numerics"]


def switches():
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    return (
        torch.get_float32_matmul_precision(), matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark,
        cudnn.deterministic, torch.get_deterministic_debug_mode(),
        torch.utils.deterministic.fill_uninitialized_memory, os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )  # fmt: skip


@pytest.mark.parametrize("before", ["highest", "medium"])
def test_torch_has_its_switches_back_whatever_happens_within(before, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    torch.set_float32_matmul_precision(before)
    try:
        found = switches()
        with pytest.raises(ZeroDivisionError), Numerics().applied(CPU):
            assert switches() == ("highest", False, False, False, True, 1, False, ":4096:8")
            1 / 0  # noqa: B018
        assert switches() == found
        with Numerics(deterministic=False, cudnn_benchmark=True, precision="tf32").applied(CPU):
            assert switches() == ("highest", False, False, True, False, 0, False, None)  # tf32 is of GPUs
        assert switches() == found
    finally:
        torch.set_float32_matmul_precision("highest")


def test_a_run_puts_target_and_prior_under_its_numerics(tiny, monkeypatch):
    calls = []
    honest = Numerics.accelerate

    def watched(self, network, calls_of=("forward",)):
        calls.append((self, type(network).__name__, tuple(calls_of)))
        honest(self, network, calls_of)

    monkeypatch.setattr(Numerics, "accelerate", watched)
    own = ("attack.prior._target_=tests.plugins.TargetedPrior", "runtime.trusted_packages=[tests]")
    run(tiny("numerics.precision=bf16", *own))
    quick = Numerics(precision="bf16")
    assert calls[:4] == [
        (quick, "VGG16", ("forward",)),  # the evaluator that looks at the private images
        (quick, "ResNet", ("forward",)),  # the target that the prior learns from
        (quick, "ResNet", ("forward",)),
        (quick, "TargetedPrior", PRIOR_CALLS),
    ]


def test_what_cannot_be_is_said_in_a_sentence(tiny, monkeypatch):
    with pytest.raises(
        ConfigError, match=r"numerics.precision=bf61 cannot be used; give float32, tf32 or bf16"
    ):
        make_plan(tiny("numerics.precision=bf61"))
    with pytest.raises(ConfigError, match=r"^speed.bf16=true: there is no speed any more; use numerics=bf16"):
        tiny("speed.bf16=true")
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ConfigError, match=r"numerics.compile=true needs a C\+\+ compiler .* no-such-compiler"
    ):
        Numerics(compile=True).check(CPU)


@pytest.mark.parametrize(
    "flags, capabilities, device, choice",
    [
        ("fpu avx2", [], "auto", "strict"),
        ("fpu avx512_bf16", [], "auto", "strict"),
        ("fpu avx512_bf16 amx_bf16 amx_tile", [], "auto", "bf16"),
        ("fpu avx2", [(9, 0), (8, 0)], "auto", "bf16"),
        ("fpu avx2", [(9, 0), (7, 5)], "cuda", "strict"),
        ("fpu amx_bf16", [(7, 5)], "cpu", "bf16"),
    ],
)
def test_the_machine_chooses_what_it_does_well(monkeypatch, flags, capabilities, device, choice):
    monkeypatch.setattr(processor, "cpu_features", lambda: frozenset(flags.split()))
    monkeypatch.setattr(processor, "visible_gpus", lambda: capabilities)
    monkeypatch.setattr(processor, "compute_capabilities", lambda gpus: gpus)
    assert processor.fitting_numerics.__wrapped__(device).numerics == choice


def test_features_and_capabilities_are_read_from_the_system(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text("model name : X\nflags\t\t: fpu amx_bf16\n\nflags : other\n")
    assert processor.cpu_features(tmp_path / "cpuinfo") == {"fpu", "amx_bf16"}
    assert processor.cpu_features(tmp_path / "none") == frozenset()
    smi = tmp_path / "nvidia-smi"
    smi.write_text('#!/bin/sh\necho "$@" > "$0.asked"\nprintf "9.0\\n7.5\\n"\n')
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cards = [Gpu(f"GPU-{index}", index, "card", str(index)) for index in (0, 2)]
    assert processor.compute_capabilities(cards) == [(9, 0), (7, 5)]
    assert "--id=0,2" in (tmp_path / "nvidia-smi.asked").read_text()
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert processor.compute_capabilities(cards) == []


def test_what_the_machine_chose_travels_with_a_job(tiny, monkeypatch):
    chosen = processor.Choice("bf16", "of a reason, (such as this)")
    monkeypatch.setattr("midre_exp.plan.machine_values.fitting_numerics", lambda device: chosen)
    here = tiny("numerics=auto")
    assert here["numerics"] == {**tiny("numerics=bf16")["numerics"], "why": f"bf16, because {chosen.why}"}
    assert make_plan(here) == make_plan(tiny("numerics=bf16"))
    other = processor.Choice("strict", "another")
    monkeypatch.setattr("midre_exp.plan.machine_values.fitting_numerics", lambda device: other)
    assert tiny("numerics=auto", *decided(here))["numerics"] == here["numerics"]
    assert decided(tiny("numerics=bf16")) == []


def test_records_of_other_numerics_are_of_another_thing(tiny):
    settings, faster = tiny(), tiny("numerics=bf16")
    assert comparable_config(settings) != comparable_config(faster)
    assert comparable_config(tiny("numerics.why=luck")) == comparable_config(settings)
    before = {**without(settings, "numerics"), "speed": {"bf16": False, "channels_last": False}}
    assert comparable_config(before) == comparable_config(settings)
    damaged = {**settings, "numerics": {"precision": []}}
    assert comparable_config(damaged) != comparable_config(settings)
