"""A published classifier in place of a trained one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from midre_exp.data.base import Dataset
from midre_exp.errors import CheckpointError, DivergedError
from midre_exp.runtime import Runtime
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import accuracy, answers, are_alike, hits_by_class, predicted_classes
from midre_exp.targets.training.fitting import fitting_options
from midre_exp.targets.training.hooks import DefenseHooks
from midre_exp.targets.training.train import TrainedClassifier
from midre_exp.weights.state_dict import MismatchError, load_checkpoint


def published_classifier(
    settings: Mapping[str, Any],
    data: Dataset,
    defense: DefenseHooks,
    *,
    seed: int,
    work: Path,
    runtime: Runtime,
    title: str,
    role: str = "target",
    trusted: tuple[str, ...] = (),
) -> TrainedClassifier:
    """Load ``settings.checkpoint`` strictly into the network the settings and the defense describe, and
    measure its accuracy here.

    Same signature and results as ``train_classifier``, without a history; ``role``: target or evaluator,
    whose keys a mistake is told by. Raises CheckpointError when the
    file does not fit, holds numbers that are not finite, or makes a network whose answers are not finite or
    the same for all test images.
    """
    test = data.load("test")
    model = assemble(settings, test.num_classes, defense, seed=seed, trusted=trusted)
    _load(model, settings, role, runtime, trusted)
    defense.on_inference(model)
    model = model.to(runtime.device).eval()
    try:
        logits = answers(model, test, runtime.device)
    except DivergedError as error:
        raise CheckpointError(
            f"{settings['checkpoint']} makes a {settings['name']} whose answers to test images are not "
            "finite; its weights are damaged, or belong to other options of the network"
        ) from error
    if are_alike(logits):
        raise CheckpointError(
            f"{settings['checkpoint']} makes a {settings['name']} that gives all test images the same "
            "answer; its weights are empty or damaged, so give a trained network"
        )
    numbers = {
        "acc": accuracy(logits, test.labels),
        "parameters": float(sum(p.numel() for p in model.parameters())),
    }
    by_class = hits_by_class(logits, test.labels)
    return TrainedClassifier(model, numbers, [], predicted_classes(logits), by_class)


def _load(
    model: Classifier, settings: Mapping[str, Any], role: str, runtime: Runtime, trusted: tuple[str, ...]
) -> None:
    """Load the file, tell what was chosen in it, and of one that does not fit, which options would."""
    path, entry, prefix = (
        settings.get(key) for key in ("checkpoint", "checkpoint_entry", "checkpoint_prefix")
    )
    try:
        loaded = load_checkpoint(model, str(path), entry=entry, prefix=prefix)
    except MismatchError as error:
        options = fitting_options(settings["name"], settings["model"], error.state, trusted)
        if not options:
            raise
        given = " ".join(f"{role}.model.{key}={_as_typed(value)}" for key, value in options.items())
        first = str(error).partition("; ")[0]
        raise CheckpointError(
            f"{first}; the file is a {settings['name']} of other options: add {given}"
        ) from error
    for note in loaded.notes:
        runtime.say(note)


def _as_typed(value: Any) -> str:
    return "null" if value is None else str(value).replace(" ", "")
