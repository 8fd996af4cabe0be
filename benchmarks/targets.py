"""Every target of conf/target on synthetic faces: ``python benchmarks/targets.py [OUT.json] [NAME ...]``.

In its reduced form (scale mini): natural accuracy after training without defense, and seconds of that
training. At its real size: seconds of a forward pass and of a training step of two images. Two threads, CPU.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from defenses.composer import compose
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build
from midre_exp.runtime import Runtime
from midre_exp.targets import build_target
from midre_exp.targets.training.train import train_classifier
from midre_exp.tracking.provenance import device_name, git_commit

THREADS = 2
#: Pixels at which a target works at its real size, where it is not 224.
SIZES = {
    "vgg16": 64,
    "ir152": 64,
    "facenet64": 64,
    "facenet112": 112,
    "inception_resnet_v1": 160,
    "inception_v3": 299,
}


def reduced(name: str) -> dict[str, float]:
    """Train the reduced form; accuracy in percent, seconds, parameters."""
    with packaged_configs():
        settings = settings_of([f"target={name}", "scale=mini", "defense=nodef"])
    data = build(settings["data"]["private"])
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        numbers = train_classifier(
            settings["target"],
            data,
            compose(),
            seed=0,
            work=Path(work),
            runtime=Runtime(quiet=True),
            title=name,
        ).numbers
    return {
        "acc": round(numbers["acc"], 2),
        "seconds": round(time.perf_counter() - start, 1),
        "parameters": numbers["parameters"],
    }


def real(name: str) -> dict[str, float]:
    """Seconds of a forward pass and of a training step on two images, best of three."""
    size = SIZES.get(name, 224)
    model = build_target(name, num_classes=1000)
    images, labels = torch.rand(2, 3, size, size), torch.tensor([0, 1])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)

    @torch.no_grad()
    def forward() -> None:
        model.eval()(images)

    def step() -> None:
        output = model.train()(images)
        optimizer.zero_grad()
        F.cross_entropy(output.logits, labels).backward()
        optimizer.step()

    return {"pixels": size, "forward_s": best(forward), "step_s": best(step)}


def best(run: Callable[[], None]) -> float:
    """The shortest of three runs after a warm-up, in seconds."""
    seconds = []
    for _ in range(4):  # the first warms up
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return round(min(seconds[1:]), 3)


def main(arguments: list[str]) -> None:
    """Measure the named targets, or all, and write the record after each."""
    torch.set_num_threads(THREADS)
    out = next((name for name in arguments if name.endswith(".json")), None)
    names = [name for name in arguments if name != out] or sorted(
        path.stem for path in (CONF_DIR / "target").glob("*.yaml")
    )
    record: dict[str, Any] = {
        "what": "targets on synthetic faces: reduced form trained at scale mini, real size timed on 2 images",
        "hardware": device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
        "commit": git_commit(),
        "targets": {},
    }
    print(f"{'target':>20} {'acc':>6} {'train s':>8} {'px':>4} {'forward s':>10} {'step s':>7}")
    for name in names:
        row = {"reduced": reduced(name), "real": real(name)}
        record["targets"][name] = row
        small, full = row["reduced"], row["real"]
        print(
            f"{name:>20} {small['acc']:>6.1f} {small['seconds']:>8.1f}"
            f" {full['pixels']:>4.0f} {full['forward_s']:>10.3f} {full['step_s']:>7.3f}",
            flush=True,
        )
        if out:
            Path(out).write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
