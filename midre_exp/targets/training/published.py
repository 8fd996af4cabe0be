"""A published classifier in place of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.data.base import Dataset
from midre_exp.runtime import Runtime
from midre_exp.targets.assemble import assemble
from midre_exp.targets.predict import accuracy
from midre_exp.targets.training.hooks import DefenseHooks
from midre_exp.targets.training.train import TrainedClassifier
from midre_exp.weights.state_dict import load_checkpoint


def published_classifier(
    settings: Mapping[str, Any],
    data: Dataset,
    defense: DefenseHooks,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
    title: str,
    trusted: tuple[str, ...] = (),
) -> TrainedClassifier:
    """Load ``settings.checkpoint`` strictly into the network the settings and the defense describe, and
    measure its accuracy here.

    Same signature and results as ``train_classifier``, without a history. Raises CheckpointError when the
    file does not fit.
    """
    test = data.load("test")
    model = assemble(settings, test.num_classes, defense, seed=seed, trusted=trusted)
    load_checkpoint(model, settings["checkpoint"])
    defense.on_inference(model)
    model = model.to(runtime.device).eval()
    numbers = {
        "acc": accuracy(model, test, runtime.device),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    return TrainedClassifier(model, numbers, [])
