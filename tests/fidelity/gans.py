"""Trainings of the small GANs on recorded draws: how ``fit`` is handed them, and what is compared."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp import priors
from midre_exp.data.base import ImageSet
from midre_exp.priors import gmi, kedmi, plgmi
from midre_exp.targets.base import Output
from midre_exp.threat import Victim
from midre_exp.weights import checkpoint
from tests.fidelity.recorded import (
    Recording,
    classifier,
    draw,
    enlarged,
    gan_prior,
    gap,
    ints,
    near,
    pick,
    quiet,
    unif,
)


class Draws:
    """In place of ``seeding`` in a training: what the rules of a recording say."""

    def __init__(self, run: Recording):
        self.run, self.step, self.noises = run, 0, 0

    def generator(self, seed: int, *purpose: str | int) -> None:
        self.step, self.noises = int(purpose[-1]), 0

    def normal(self, draws: object, count: int, *shape: int, device: object = None) -> Tensor:
        each = [draw(f"{self.run.tag}/latents/{self.step}/{k}", *shape) for k in range(count)]
        return torch.stack(each).double()

    def integers(
        self, draws: object, low: int, high: int, count: int, *shape: int, device: object = None
    ) -> Tensor:
        each = [ints(f"{self.run.tag}/labels/{self.step}/{k}", high, *shape) for k in range(count)]
        return torch.stack(each)

    def uniform(self, draws: object, *shape: int, device: object = None) -> Tensor:
        if shape[1:] == (1, 1, 1):
            return unif(f"{self.run.tag}/alpha/{self.step}", *shape).double()
        if len(shape) == 4:
            self.noises += 1
            return unif(f"{self.run.tag}/noise/{self.step}/{self.noises - 1}", *shape).double()
        return torch.zeros(*shape)  # of a view that is not taken


class Batches:
    """In place of ``Shuffled``: the recorded rows, in the places where the training has these images."""

    run: Recording
    per_epoch = 1

    def __init__(self, n: int, batch_size: int, *, seed: int, purpose: str, device: object):
        self.name = "real" if purpose == "epoch" else purpose

    def rows(self, number: int) -> Tensor:
        meta = self.run.meta
        rows = pick(f"{self.run.tag}/batch/{self.name}/{number}", meta["images"], meta["batch_size"])
        if "discriminator_steps" not in meta:
            return rows
        return rows % meta["classes"] * per_class(self.run) + rows // meta["classes"]


def per_class(run: Recording) -> int:
    return -(-int(run.meta["images"]) // int(run.meta["classes"]))


def selection(run: Recording) -> Tensor:
    """Of PLG-MI, the images of each class: row by row, as labels are the row modulo the classes."""
    rows = torch.arange(per_class(run)) * run.meta["classes"] + torch.arange(run.meta["classes"])[:, None]
    return torch.where(rows < run.meta["images"], rows, 0)


def public(run: Recording) -> Tensor:
    """The images of a training, uint8."""
    return enlarged(ints(f"{run.tag}/images", 256, run.meta["images"], 3, 8, 8), 8).to(torch.uint8)


def victim(run: Recording) -> Any:
    """Whom the training asks."""
    classes = run.meta["classes"]
    if run.meta["kind"] == "kedmi":
        answers = 2 * draw(f"{run.tag}/answers", run.meta["images"], classes).double()
        return Victim.of(lambda images: Output(answers[: len(images)], images), classes)
    target = ToyTarget(run)
    return Victim.of(target, classes)


class ToyTarget(nn.Module):
    """PLG-MI's target, with its own filled bias."""

    def __init__(self, run: Recording):
        super().__init__()
        bias = 0.1 * draw(f"{run.tag}/T.fc.bias", run.meta["classes"])
        self.toy = classifier(Recording(run.meta, {"bias": bias.numpy()}), "T", "bias", double=True)

    def forward(self, images: Tensor) -> Output:
        answer: Output = self.toy(images)
        return answer


def probe(network: nn.Module, entries: list[str]) -> Tensor:
    """Sum, norm and a fixed product of each of the entries."""
    state = network.state_dict()

    def of(key: str) -> list[Tensor]:
        value = state[key].double()
        seed = zlib.crc32(f"probe.{key}".encode()) & 0x7FFFFFFF
        weights = torch.from_numpy(np.random.RandomState(seed).standard_normal(value.numel()))
        return [value.sum(), value.norm(), value.flatten() @ weights]

    return torch.tensor([[float(number) for number in of(key)] for key in entries], dtype=torch.float64)


def idle(key: str, kind: str, network: nn.Module) -> bool:
    """Whether no output depends on this entry, so that its gradient is rounding."""
    layer, _, name = key.rpartition(".")
    following = f"{layer[:-1]}1"
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.InstanceNorm2d)}
    return name == "bias" and layer.endswith(".0") and following in norms and kind != "plgmi"


def spied(function: Callable[..., Any], results: list[Any]) -> Callable[..., Any]:
    def spy(*arguments: Any, **options: Any) -> Any:
        results.append(function(*arguments, **options))
        return results[-1]

    return spy


MODULES: dict[str, ModuleType] = {"gmi": gmi, "kedmi": kedmi, "plgmi": plgmi}
CRITICS = {"gmi": "critic", "kedmi": "discriminator", "plgmi": "discriminator"}


def trained(run: Recording, **options: Any) -> tuple[priors.Prior, dict[str, list[Tensor]]]:
    """The prior after its ``fit`` on the recorded draws, in float64, and what its steps returned."""
    meta, kind = run.meta, str(run.meta["kind"])
    module, critic = MODULES[kind], CRITICS[kind]
    sizes = {key: meta[key] for key in ("batch_size", "steps", "lr", "betas") if key in meta}
    counts = {"critic_steps", "discriminator_steps", "identity_weight"} & set(meta)
    sizes |= {key: meta[key] for key in counts} | options
    if kind == "plgmi":
        sizes |= {"per_class": per_class(run)}
    prior: Any = gan_prior(run, kind, critic=critic, double=True, ema=0, **sizes)
    for part, network in (("generator", prior.generator), ("discriminator", prior.get_submodule(critic))):
        start = probe(network, meta[f"{part}_entries"])
        near(start, run[f"{part}_start"], 1e-9, f"{part} before the first step")
    if kind == "plgmi":
        prior.view = lambda images, numbers: images
    results: dict[str, list[Tensor]] = {}
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(module, "seeding", Draws(run))
        patch.setattr(Batches, "run", run, raising=False)
        patch.setattr(module, "Shuffled", Batches)
        patch.setattr(module, "to_float", lambda images: images.double() / 255)
        for name in ("critic_step", "discriminator_step", "generator_step", "generator_loss"):
            if hasattr(module, name):
                spy = spied(getattr(module, name), results.setdefault(name, []))
                patch.setattr(module, name, spy)
        torch.set_default_dtype(torch.float64)
        try:
            if kind == "plgmi":
                chosen = selection(run)
                saved = {"selection": chosen, "confidence": torch.ones(chosen.shape)}
                checkpoint.save(Path(folder) / "selection.pt", saved)
            images = public(run)
            people = ImageSet(images, torch.zeros(len(images), dtype=torch.int64), ("somebody",))
            asked = None if kind == "gmi" else victim(run)
            prior.fit(people, asked, seed=0, work=Path(folder), runtime=quiet())
        finally:
            torch.set_default_dtype(torch.float32)
    return prior, results


def compare(run: Recording, prior: Any, results: dict[str, list[Tensor]]) -> None:
    """Losses before every update, weights and what both networks answer after the last."""
    meta, kind = run.meta, str(run.meta["kind"])
    critic = prior.get_submodule(CRITICS[kind])
    losses = results["critic_step" if kind == "gmi" else "discriminator_step"]
    near(torch.stack(losses), run["critic_losses"], 1e-6, "losses of the critic")
    generator = results["generator_loss" if kind == "gmi" else "generator_step"]
    of_generator = torch.stack([loss.detach() for loss in generator])
    if kind == "plgmi":
        near(of_generator[:, 1], run["identity_loss"], 1e-6, "identity loss")
        of_generator = of_generator[:, 0]
    near(of_generator, run["generator_loss"], 1e-6, "losses of the generator")
    for part, network in (("generator", prior.generator), ("discriminator", critic)):
        entries = meta[f"{part}_entries"]
        counts = torch.tensor([not idle(key, kind, network) for key in entries])
        near(probe(network, entries)[counts], run[part][counts], 1e-6, f"weights of the {part}")
    classes = torch.arange(meta["classes"])
    with torch.no_grad():
        latents = draw(f"{run.tag}/show", 4, meta["latent_dim"]).double()
        shown = F.adaptive_avg_pool2d(prior.generate(latents, classes[:4]), 16)
        real = public(run)[:8].double() / 255
        if kind == "plgmi":
            scores = critic(real, torch.arange(8) % meta["classes"])
        else:
            scores = critic(real) if kind == "gmi" else critic(real)[1]
    near(shown, run["shown"], 1e-7, "pictures")
    near(scores, run["scores"], 1e-6, "scores")
    assert gap(run["generator"], run["generator_start"]) > 1e-3
