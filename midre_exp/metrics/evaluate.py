"""The metrics stage: show the reconstructions to the evaluator once, hand what it saw to every metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from midre_exp.config import build
from midre_exp.data.base import ImageSet
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import predict


def evaluate(
    settings: Mapping[str, Any],
    reconstructions: Mapping[str, Tensor],
    evaluator: Classifier,
    private_train: ImageSet,  # at the evaluator's resolution
    *,
    device: torch.device,
    allow: tuple[str, ...] = (),
) -> tuple[dict[str, float], dict[str, str], Tensor]:
    """All metrics of ``settings.measure`` on the stored reconstructions: numbers by name, the reason for each that is missing, and
    the class int64 [n] the evaluator sees in each reconstruction.

    ``settings.image_to_evaluator`` lists the named steps between a reconstruction and the evaluator; ``private_train`` is what the
    evaluator was trained on and goes in as it is.
    """
    steps = tuple(build(step, allow=allow) for step in settings["image_to_evaluator"])
    logits, features = predict(evaluator, reconstructions["images"], device, steps=steps)
    seen_as = logits.argmax(1)
    if "failed" in reconstructions:  # an attack that knows it failed succeeds by no accident
        failed = reconstructions["failed"].nonzero().squeeze(1)
        logits[failed, reconstructions["labels"][failed]] = -torch.inf
    rows = torch.isin(private_train.labels, reconstructions["labels"]).nonzero().squeeze(1)
    # The images may be mapped from disk: a batch of them is in memory at a time.
    private_features = [predict(evaluator, private_train.images[part], device)[1] for part in rows.split(256)]
    seen = Evaluation(
        images=reconstructions["images"],
        labels=reconstructions["labels"],
        restarts=reconstructions["restarts"],
        logits=logits,
        features=features,
        private_features=torch.cat(private_features),
        private_labels=private_train.labels[rows],
        private_images=private_train.images,
        private_rows=rows,
        device=device,
    )
    numbers: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, metric in settings["measure"].items():
        try:
            numbers.update(build(metric, allow=allow)(seen))
        except Unavailable as reason:
            missing[name] = str(reason)
    return numbers, missing, seen_as
