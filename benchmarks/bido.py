"""What BiDO costs per training step: HSIC and COCO against undefended training.

    python benchmarks/bido.py [RESULT.json]

On the CPU, VGG16 at 64 px with 1,000 classes, published taps, batches of 64 (16 identities x 4 images), two
threads. A step is forward, losses, backward and the optimiser's update; "losses alone" is the time of BiDO's
terms and of their way back to the taps. The number is the minimum of the repeats, the contestants taking
turns; on a busy machine trust the losses alone.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from measuring import fastest
from torch.nn import functional as F

from defenses import Batch, Defense, NoDef, TrainingProgress
from defenses.bido import BiDO
from midre_exp.targets import build_target
from midre_exp.tracking.provenance import device_name

BATCH, CLASSES, THREADS = 64, 1000, 2
STEPS, LOSSES = 3, 20  # repeats; a step takes seconds, BiDO's share of it little
TAPS = ("block1", "block2", "block3", "block4", "block5")
CLOCK = TrainingProgress(epoch=0, epochs=1)


def bido(measure: str, lambda_x: float, lambda_y: float) -> BiDO:
    """The published settings (conf/defense/bido.yaml), with the training left as it is."""
    return BiDO(
        measure=measure,
        lambda_x=lambda_x,
        lambda_y=lambda_y,
        stages=TAPS,
        sigma=5.0,
        label_kernel="linear",
        images_per_id=4,
        ids_per_batch=None,
        training="shared",
        lr=1e-4,
        weight_decay=0.0,
        epochs=1,
        batch_size=BATCH,
        milestones=[],
        gamma=1.0,
    )


def contestants() -> tuple[dict[str, Callable[[], None]], dict[str, Callable[[], None]]]:
    """What is timed, by name: whole steps, and the losses of BiDO alone."""
    model = build_target("vgg16", num_classes=CLASSES).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    labels = torch.arange(16).repeat_interleave(4)
    batch = Batch(torch.rand(BATCH, 3, 64, 64), labels, torch.arange(BATCH))
    hsic, coco = bido("hsic", 0.05, 0.5), bido("coco", 1.0, 50.0)

    def step(defense: Defense) -> None:
        optimizer.zero_grad()
        output = model(batch.images, tuple(defense.taps(model)))
        loss = F.cross_entropy(output.logits, labels)
        for extra in defense.extra_losses(output, batch, CLOCK).values():
            loss = loss + extra
        loss.backward()
        optimizer.step()

    with torch.no_grad():
        output = model(batch.images, ("input", *TAPS))
    leaves = {name: tap.clone().requires_grad_(name != "input") for name, tap in output.taps.items()}
    detached = output._replace(taps=leaves)

    def losses(defense: Defense) -> None:
        extras = defense.extra_losses(detached, batch, CLOCK)
        torch.stack(list(extras.values())).sum().backward()

    steps: dict[str, Defense] = {"NoDef, step": NoDef(), "BiDO-HSIC, step": hsic, "BiDO-COCO, step": coco}
    alone: dict[str, Defense] = {"BiDO-HSIC, losses alone": hsic, "BiDO-COCO, losses alone": coco}
    return (
        {name: partial(step, defense) for name, defense in steps.items()},
        {name: partial(losses, defense) for name, defense in alone.items()},
    )


def main() -> None:
    """Measure, print, and write the record if a path is given."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", nargs="?", type=Path, help="write the numbers to this JSON file as well")
    result: Path | None = parser.parse_args().result

    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    steps, losses = contestants()
    times = {**fastest(steps, STEPS), **fastest(losses, LOSSES)}
    baseline = times["NoDef, step"]
    measured = [
        {"name": name, "milliseconds": value, "share_of_nodef_step": value / baseline}
        for name, value in times.items()
    ]
    print(f"{'what':<26}{'ms':>9}{'of NoDef':>10}")
    for row in measured:
        print(f"{row['name']:<26}{row['milliseconds']:>9.1f}{row['share_of_nodef_step']:>9.3f}x")
    if result is not None:
        record = {
            "benchmark": "bido",
            "target": "vgg16",
            "images": (BATCH, 3, 64, 64),
            "classes": CLASSES,
            "taps": TAPS,
            "repeats": {"step": STEPS, "losses alone": LOSSES},
            "statistic": "minimum",
            "cpu": device_name(torch.device("cpu")),
            "cpu_threads": THREADS,
            "versions": {"python": platform.python_version(), "torch": version("torch")},
            "measured": measured,
        }
        result.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
