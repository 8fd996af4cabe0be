"""What our inversion loop is worth: identities x restarts x iterations per second against the pattern of the
released code.

    python benchmarks/inversion.py [--device auto] [--identities 60] [--restarts 5] [--steps 20]
                                   [--target vgg16] [--switches bf16 channels_last compile] [RESULT.json]

GMI and PLG-MI with the published networks at 64 px, 1,000 classes, random weights. Ours is ``invert`` of the
attack, all restarts of all identities together in chunks of --chunk. The released pattern takes restart after
restart, 60 identities at a time, with an optimiser object for each, reads two losses back to the host in
every step, and leaves the weights of all networks collecting gradients nobody uses. Both start from the same
latents; for GMI, which draws no random views, the largest difference of their results is reported as well.
With --switches ours is measured once more with each of them, and with all of them.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measuring import SWITCHES, numerics_with, seconds
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional as F

from attacks.gmi import GMI
from attacks.losses import max_margin_identity
from attacks.plgmi import PLGMI
from midre_exp.data.transforms.view import NUMBERS
from midre_exp.loop import Loop
from midre_exp.numerics import PRIOR_CALLS, Numerics
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.runtime import Runtime, choose_device
from midre_exp.seeding import ItemRNG
from midre_exp.targets import Classifier, build_target
from midre_exp.threat import Threat, Victim
from midre_exp.tracking.provenance import device_name, git_commit

CLASSES, PIXELS = 1000, 64


@dataclass(frozen=True)
class Case:
    """One attack, its networks, and the items it makes: ``starts`` [identities, restarts, latent_dim]."""

    attack: GMI | PLGMI
    prior: Prior
    target: Classifier
    labels: Tensor
    starts: Tensor
    batch: int


def make_case(name: str, given: argparse.Namespace, device: torch.device) -> Case:
    """The attack of conf/attack/``name``.yaml at the size asked for."""
    node = plain(OmegaConf.load(CONF_DIR / "attack" / f"{name}.yaml"))
    sizes = {"identities": given.identities, "restarts": given.restarts, "steps": given.steps}
    batch = min(60, given.identities)
    attack = build({**without(node, "defaults", "name", "judged"), **sizes, "reference_batch": batch})
    prior_node = OmegaConf.load(CONF_DIR / "attack" / "prior" / f"{name}.yaml")
    prior_node.image_size = PIXELS
    if "image_to_target" in prior_node:
        prior_node.image_to_target = []
    prior = initial_prior(plain(prior_node), num_classes=CLASSES).eval().to(device)
    torch.manual_seed(0)
    target = build_target(given.target, num_classes=CLASSES).eval().to(device)
    labels = torch.arange(given.identities, device=device).repeat_interleave(given.restarts)
    starts = _streams(labels, given.restarts).normal("start", prior.latent_dim)
    return Case(
        attack, prior, target, labels, starts.view(given.identities, given.restarts, prior.latent_dim), batch
    )


def _streams(labels: Tensor, restarts: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=(labels, torch.arange(len(labels), device=labels.device) % restarts))


def ours(case: Case, numerics: Numerics, chunk: int, device: torch.device) -> Callable[[], Tensor]:
    """``invert`` on chunks of all items: latents [identities, restarts, latent_dim]."""
    target, prior = copy.deepcopy(case.target), copy.deepcopy(case.prior).requires_grad_(False)
    numerics.accelerate(target)
    numerics.accelerate(prior, PRIOR_CALLS)
    victim = Victim.of(target, CLASSES, Threat.WHITE_BOX)
    rng = _streams(case.labels, case.attack.restarts)
    rows = torch.arange(len(case.labels), device=device).split(chunk)
    runtime = Runtime(device=device, quiet=True, checkpoint_seconds=1e9)

    def run() -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            parts = []
            for number, part in enumerate(rows):
                loop = Loop(Path(folder) / f"{number}.pt", "", runtime, victim)
                parts.append(case.attack.invert(victim, prior, case.labels[part], rng[part], loop))
        return torch.cat(parts).view_as(case.starts)

    return run


def released(case: Case) -> Callable[[], Tensor]:
    """The pattern of the released code, with the same losses and optimisers: latents [identities, restarts,
    latent_dim].
    """
    attack, prior, target = case.attack, copy.deepcopy(case.prior), copy.deepcopy(case.target)
    prior.requires_grad_(True)
    target.requires_grad_(True)

    def step(latents: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = prior.generate(latents, labels)
        if isinstance(attack, GMI):
            return (
                -prior.realism(images).mean(),
                attack.identity_weight * F.cross_entropy(target(images).logits, labels),
            )
        first, second = (
            max_margin_identity(
                target(attack.view(images, torch.rand(len(images), NUMBERS, device=images.device))).logits,
                labels,
            ).mean()
            for _ in range(attack.views)
        )
        return first, second

    def run() -> Tensor:
        results = torch.empty_like(case.starts)
        people = case.labels[:: attack.restarts]
        for restart in range(attack.restarts):
            for rows in torch.arange(len(people), device=people.device).split(case.batch):
                latents = case.starts[rows, restart].clone().requires_grad_()
                optimizer: torch.optim.Optimizer = (
                    torch.optim.SGD([latents], lr=attack.lr, momentum=attack.momentum, nesterov=True)
                    if isinstance(attack, GMI)
                    else torch.optim.Adam([latents], lr=attack.lr)
                )
                shown = 0.0
                for _ in range(attack.steps):
                    optimizer.zero_grad()
                    first, second = step(latents, people[rows])
                    (first + second).backward()
                    optimizer.step()
                    if isinstance(attack, GMI) and attack.clip is not None:
                        latents.data.clamp_(-attack.clip, attack.clip)
                    shown += first.item() + second.item()  # the host waits for the device
                results[rows, restart] = latents.detach()
        return results

    return run


def measure(name: str, given: argparse.Namespace, device: torch.device) -> list[dict[str, Any]]:
    """One row for each way to run one attack."""
    case = make_case(name, given, device)
    chosen = [(switch,) for switch in given.switches]
    chosen += [tuple(given.switches)] if len(given.switches) > 1 else []
    choices = {
        "ours": Numerics(),
        **{f"ours, {'+'.join(on)}": numerics_with(on, device) for on in chosen},
    }
    calls = {label: ours(case, numerics, given.chunk, device) for label, numerics in choices.items()}
    calls = {"released pattern": released(case), **calls}
    difference = None
    if isinstance(case.attack, GMI):
        difference = float((calls["ours"]() - calls["released pattern"]()).abs().max())
        print(f"gmi: latents differ by at most {difference:.2g} after {given.steps} steps")
    times = seconds(calls, given.repeats, device)
    work = given.identities * given.restarts * given.steps
    return [
        {
            "attack": name,
            "name": label,
            "median_seconds": value,
            "identity_restart_iterations_per_second": work / value,
            "speedup": times["released pattern"] / value,
            **({"largest_latent_difference": difference} if label == "ours" else {}),
        }
        for label, value in times.items()
    ]


def main() -> None:
    """Measure, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--attacks", nargs="+", choices=("gmi", "plgmi"), default=["gmi", "plgmi"])
    parser.add_argument("--target", default="vgg16")
    parser.add_argument("--identities", type=int, default=60, help="at most 60, or a multiple of 60")
    parser.add_argument("--restarts", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--chunk", type=int, default=512, help="items optimised together")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--switches", nargs="*", choices=[*SWITCHES], default=[])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--shared", action="store_true", help="say in the record that the machine was busy")
    parser.add_argument("result", nargs="?", type=Path, help="write the numbers to this JSON file as well")
    given = parser.parse_args()
    if given.identities > 60 and given.identities % 60:
        parser.error(f"--identities {given.identities} must be at most 60 or a multiple of 60")

    torch.set_num_threads(given.threads)
    device = choose_device(given.device)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    rows = [row for name in given.attacks for row in measure(name, given, device)]
    print(f"{'attack':<8}{'how':<36}{'identities x restarts x steps / s':>34}{'speed-up':>10}")
    for row in rows:
        rate = row["identity_restart_iterations_per_second"]
        print(f"{row['attack']:<8}{row['name']:<36}{rate:>34.2f}{row['speedup']:>9.2f}x")
    if given.result is not None:
        record = {
            "benchmark": "inversion",
            "target": given.target,
            "classes": CLASSES,
            "pixels": PIXELS,
            **{
                name: getattr(given, name) for name in ("identities", "restarts", "steps", "chunk", "repeats")
            },
            "statistic": "median",
            "device": device_name(device),
            "cpu_threads": given.threads,
            "machine_shared_with_other_work": given.shared,
            "load_average_before": load,
            "commit": git_commit(),
            "versions": {"python": platform.python_version(), "torch": version("torch")},
            "measured": rows,
        }
        given.result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
