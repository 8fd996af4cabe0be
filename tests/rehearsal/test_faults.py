"""What the rehearsal is for: faults planted into the code are found. Each changes one line of a function."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import attacks.gmi
import defenses.midre
from midre_exp import attack_run
from midre_exp.priors import gmi, kedmi, plgmi
from midre_exp.runtime import Runtime
from midre_exp.targets import predict
from midre_exp.targets.training import module
from tests.contracts import test_every_attack as every_attack
from tests.contracts import test_every_defense as every_defense
from tests.contracts import test_every_prior as every_prior
from tests.devices import CUDA, never_waiting
from tests.rehearsal.waits import ROOT, WAITS, complaints

pytestmark = pytest.mark.rehearsal


def plant(monkeypatch: pytest.MonkeyPatch, function: Any, place: str, change: Callable[[str], str]) -> None:
    """Let ``function`` run as if the line of its source that holds ``place`` were changed."""
    function = inspect.unwrap(function)
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    (row,) = [row for row, line in enumerate(lines) if place in line]
    changed = change(lines[row])
    assert changed != lines[row], f"{function.__qualname__} is another; plant the fault anew"
    lines[row] = changed
    source = "\n".join(["from __future__ import annotations", *lines])
    names: dict[str, Any] = {}
    exec(compile(source, function.__code__.co_filename, "exec"), dict(function.__globals__), names)
    monkeypatch.setattr(function, "__code__", inspect.unwrap(names[function.__name__]).__code__)


def attack(work: Path, name: str = "gmi") -> None:
    case = next(case for case in every_attack.CASES if case.name == name)
    every_attack.carried_out(case, device=CUDA, work=work)


def style_attack(work: Path) -> None:
    attack(work, "ppa")


def training(work: Path) -> None:
    case = next(case for case in every_defense.CASES if case.name == "midre")
    recipe, node = {"epochs": 1, "batch_size": 9}, every_defense.model_node("resnet18")
    every_defense.train_node(work, node, recipe, device=CUDA, midre=every_defense.made(case))


def defended_step(work: Path) -> None:
    case = next(case for case in every_defense.CASES if case.name == "midre")
    every_defense.step(every_defense.made(case), CUDA, never_waiting)


def prior(work: Path, name: str = "gmi") -> None:
    case = next(case for case in every_prior.CASES if case.name == name)
    every_prior.fit(every_prior.small(name, steps=2), case, work, runtime=Runtime(device=CUDA))


def kedmi_prior(work: Path) -> None:
    prior(work, "kedmi")


def plgmi_prior(work: Path) -> None:
    prior(work, "plgmi")


def prediction(work: Path) -> None:
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    predict.predict(every_attack.Colours(), images, CUDA)


TO, RUNTIME = ".to(device)", ".to(runtime.device)"
NON_BLOCKING = ".to(batch.images.device, non_blocking=True)"
STEP = module.ClassifierModule.training_step
ON_EPOCH = module.ClassifierModule.on_train_epoch_start
ON_BATCH = defenses.midre.MIDRE.on_batch
ON_DEVICE = 'generator(self.seed, "batches", self.current_epoch, *own)'
#: What is done, under a change of which function, and what in it is replaced by what.
MIXED = [
    (attack, attack_run._invert_chunk, "queries = items.labels[rows].to(device)", TO, ""),
    (attack, attack_run._invert_chunk, "items.rng[rows].to(device)", TO, ""),
    (style_attack, attack_run.shared_rng, RUNTIME, RUNTIME, ""),
    (style_attack, attack_run.run_shard, RUNTIME, RUNTIME, ""),
    (training, ON_EPOCH, ON_DEVICE, ON_DEVICE, "torch.Generator(self.device)"),
    (training, ON_BATCH, "moved(part, batch.images.device)", "moved(part, batch.images.device)", "part"),
    (defended_step, ON_BATCH, NON_BLOCKING, NON_BLOCKING, ""),
    (prior, gmi.GMIPrior.fit, "self.training_images(public).to(device)", TO, ""),
    (prior, gmi.GMIPrior.fit, "latents = seeding.normal", ", device=device", ""),
    (kedmi_prior, kedmi.KedMIPrior.fit, "images = images.to(device)", TO, ""),
    (plgmi_prior, plgmi.PLGMIPrior.fit, "images[selection.flatten()].to(device)", TO, ""),
    (prediction, predict.predict, "x = images[part].to(device)", TO, ""),
    (prediction, predict.predict, "model.to(device).eval()", TO, ""),
]
#: What is done, under a change of which function, before which line of it what is put.
WAITING = [
    (attack, attacks.gmi.GMI.losses, "return critic_prior", "identity.sum().item()"),
    (training, STEP, "return total", "float(total.detach())"),
    (training, defenses.midre.MIDRE.on_batch, "n, _, height, width", "bool((batch.images > 2).any())"),
    (prior, gmi.GMIPrior.fit, "numbers = critic_step(", "real.cpu()"),
]
every_act = pytest.mark.parametrize(
    "act", [attack, style_attack, training, defended_step, prior, kedmi_prior, plgmi_prior, prediction]
)


@pytest.mark.parametrize(("act", "function", "place", "old", "new"), MIXED)
def test_mixed_devices_are_found(act, function, place, old, new, monkeypatch, tmp_path):
    plant(monkeypatch, function, place, lambda line: line.replace(old, new, 1))
    with WAITS.during() as found, pytest.raises(RuntimeError, match="device"):
        act(tmp_path)
    WAITS.forget(found)


@pytest.mark.parametrize(("act", "function", "place", "wait"), WAITING)
def test_a_wait_in_a_hot_loop_is_found(act, function, place, wait, monkeypatch, tmp_path):
    plant(monkeypatch, function, place, lambda line: line.replace(line.lstrip(), f"{wait}; {line.lstrip()}"))
    with WAITS.during() as found:
        act(tmp_path)
    WAITS.forget(found)
    file = Path(str(inspect.getsourcefile(function))).relative_to(ROOT)
    assert any(said.startswith(f"{file}:") for said in complaints(found)), complaints(found)


@every_act
def test_without_a_fault_nothing_is_found(act, tmp_path):
    with WAITS.during() as found:
        act(tmp_path)
    assert complaints(found) == []
