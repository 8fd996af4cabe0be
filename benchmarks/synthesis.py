"""How fast StyleGAN2 draws, how fast gradients reach its codes, how fast PPA steps, and what 1024 pixels take
in memory.

    python benchmarks/synthesis.py [--device auto] [--resolution 256] [--batch 4]
                                   [--switches bf16 channels_last compile] [RESULT.json]

The published network at the given resolution, random weights, noise fixed: synthesis alone, synthesis with
the gradient of the image with respect to the codes, and a step of PPA (resize to 224 px, random crop,
ResNet-18 of 530 classes, Poincare loss, Adam); each by the fused form of the modulated convolution (one
grouped convolution with weights of each image) and by ours (activations scaled before and after), and with
each of --switches as well. The peak is that of one forward and backward pass of one image at
--peak-resolution pixels in a process of its own: all memory of that process on a CPU, what torch took on a
GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measuring import SWITCHES, numerics_with, seconds
from torch import Tensor

from attacks.losses import poincare
from attacks.parts.optimisers import adam_step
from attacks.parts.random_crops import shared_crop
from midre_exp.data.transforms import Resize
from midre_exp.data.transforms.random_crop import NUMBERS
from midre_exp.priors.stylegan.generator import StyleGAN2Generator, SynthesisNetwork
from midre_exp.runtime import choose_device
from midre_exp.targets import build_target
from midre_exp.targets.base import Classifier
from midre_exp.tracking.provenance import device_name, git_commit

MIB = 1 << 20


def make_network(resolution: int, device: torch.device) -> SynthesisNetwork:
    """The synthesis network of Generator's defaults at ``resolution``, frozen."""
    torch.manual_seed(0)
    generator = StyleGAN2Generator(img_resolution=resolution).eval().requires_grad_(False)
    return generator.synthesis.to(device)


def draw(network: SynthesisNetwork, codes: Tensor, fused: bool) -> None:
    """Images alone."""
    with torch.no_grad():
        network(codes, fused_modconv=fused)


def descend(network: SynthesisNetwork, codes: Tensor, fused: bool) -> None:
    """Images, and the gradient of a loss on them with respect to the codes."""
    codes = codes.detach().requires_grad_()
    torch.autograd.grad(network(codes, fused_modconv=fused).square().mean(), codes)


def make_target(device: torch.device) -> Classifier:
    """PPA's ResNet-18 with random weights, frozen."""
    return build_target("resnet18", num_classes=530).eval().requires_grad_(False).to(device)


def attack_step(network: SynthesisNetwork, target: Classifier, codes: Tensor, fused: bool) -> None:
    """One step of PPA on one code per image for all layers."""
    latents = codes[:, :1].detach().requires_grad_()
    images = (network(latents.expand_as(codes), fused_modconv=fused) + 1) / 2
    numbers = torch.full((NUMBERS,), 0.5, device=codes.device)
    seen = shared_crop(Resize(size=224)(images), numbers, (0.9, 1.0), (1.0, 1.0))
    labels = torch.arange(len(codes), device=codes.device)
    loss = poincare(target(seen).logits, labels).mean()
    (gradient,) = torch.autograd.grad(loss, latents)
    moments = torch.zeros_like(gradient), torch.zeros_like(gradient)
    adam_step(latents.detach(), moments, gradient, 0, lr=5e-3, betas=(0.1, 0.1))


def measure(given: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """One row for each convolution, each choice of switches, and each kind of work."""
    network = make_network(given.resolution, device)
    target = make_target(device)
    codes = torch.randn(given.batch, network.num_ws, network.w_dim, device=device)
    chosen: list[tuple[str, ...]] = [(), *((switch,) for switch in given.switches)]
    chosen += [tuple(given.switches)] if len(given.switches) > 1 else []
    calls: dict[Any, Callable[[], None]] = {}
    for on in chosen:
        quick, seen_by = copy.deepcopy(network), copy.deepcopy(target)
        numerics = numerics_with(on, device)
        numerics.accelerate(quick)
        numerics.accelerate(seen_by)
        for fused in (False, True):
            calls[on, fused, "forward"] = partial(draw, quick, codes, fused)
            calls[on, fused, "forward and backward"] = partial(descend, quick, codes, fused)
            calls[on, fused, "attack step"] = partial(attack_step, quick, seen_by, codes, fused)
    return [
        {
            "pass": work,
            "convolution": "fused" if fused else "unfused",
            "switches": list(on),
            "median_seconds": value,
            "images_per_second": given.batch / value,
        }
        for (on, fused, work), value in seconds(calls, given.repeats, device).items()
    ]


def peak_mib(resolution: int, device: torch.device) -> float:
    """The most memory, in MiB, that this process has held after one image forward and backward."""
    network = make_network(resolution, device)
    codes = torch.randn(1, network.num_ws, network.w_dim, device=device)
    descend(network, codes, fused=False)
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MIB


def measured_peak(resolution: int, device: torch.device, threads: int) -> float:
    """``peak_mib`` of a new process, so that nothing else counts."""
    command = [sys.executable, __file__, "--only-peak", "--peak-resolution", str(resolution)]
    command += ["--device", str(device), "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--resolution", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--switches", nargs="*", choices=[*SWITCHES], default=[])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--peak-resolution", type=int, default=1024)
    parser.add_argument("--only-peak", action="store_true", help="print the peak in MiB and nothing else")
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was busy")
    parser.add_argument("result", nargs="?", type=Path, help="write the numbers to this JSON file as well")
    given = parser.parse_args()

    torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    if given.only_peak:
        print(peak_mib(given.peak_resolution, device))
        return
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    peak = measured_peak(given.peak_resolution, device, given.threads)
    print(f"peak of one image forward and backward at {given.peak_resolution} px: {peak / 1024:.2f} GiB")
    rows = measure(given, device)
    print(f"{'pass':<22}{'convolution':<13}{'switches':<30}{'images/s':>10}")
    for row in rows:
        switches = "+".join(row["switches"]) or "none"
        print(
            f"{row['pass']:<22}{row['convolution']:<13}{switches:<30}{row['images_per_second']:>10.3f}",
        )
    if given.result is not None:
        record = {
            "benchmark": "synthesis",
            "network": "StyleGAN2, default channels",
            **{name: getattr(given, name) for name in ("resolution", "batch", "repeats")},
            "statistic": "median",
            "device": device_name(device),
            "cpu_threads": given.threads,
            "machine_shared_with_other_work": given.shared,
            "load_average_before": load,
            "commit": git_commit(),
            "versions": {"python": platform.python_version(), "torch": version("torch")},
            "peak": {"resolution": given.peak_resolution, "batch": 1, "mib": peak},
            "measured": rows,
        }
        given.result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
