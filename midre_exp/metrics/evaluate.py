"""The metrics stage: show the reconstructions to the evaluator once, hand what it saw to every metric."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.plan.config import build
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import predict


def evaluate(
    settings: Mapping[str, Any],
    reconstructions: Mapping[str, Tensor],
    evaluator: Classifier,
    private_train: ImageSet,  # at the evaluator's resolution
    *,
    device: torch.device,
    trusted: tuple[str, ...] = (),
) -> tuple[dict[str, float], dict[str, str], Tensor]:
    """All metrics of ``settings.measure`` on the stored reconstructions: numbers by name, the reason for each
    that is missing, and the class int64 [n] the evaluator sees in each reconstruction, selected or not.

    ``settings.image_to_evaluator`` lists the named steps between a reconstruction and the evaluator;
    ``private_train`` is what the evaluator was trained on and goes in as it is. A metric of null is left out.
    Of an attack that marks its results as ``selected`` bool [n], these are measured.
    """
    steps = tuple(build(step, trusted=trusted) for step in settings["image_to_evaluator"])
    made = dict(reconstructions)
    made["logits"], made["features"] = predict(evaluator, made["images"], device, steps=steps)
    seen_as = made["logits"].argmax(1)
    if "failed" in made:  # an attack that knows it failed succeeds by no accident
        failed = made["failed"].nonzero().squeeze(1)
        made["logits"][failed, made["labels"][failed]] = -torch.inf
    unfiltered = None
    if "selected" in made:
        unfiltered = made["logits"], made["labels"]
        made = only_selected(made)
    if not len(made["labels"]):
        asked = [name for name, metric in settings["measure"].items() if metric is not None]
        return {}, dict.fromkeys(asked, "the attack selected no reconstruction"), seen_as
    rows = torch.isin(private_train.labels, made["labels"]).nonzero().squeeze(1)
    # The images may be mapped from disk: a batch of them is in memory at a time.
    private_features = [predict(evaluator, private_train.images[part], device)[1] for part in rows.split(256)]
    seen = Evaluation(
        images=made["images"],
        labels=made["labels"],
        restarts=made["restarts"],
        logits=made["logits"],
        features=made["features"],
        private_features=torch.cat(private_features),
        private_labels=private_train.labels[rows],
        private_images=private_train.images,
        private_rows=rows,
        device=device,
        unfiltered=unfiltered,
        confidence=made.get("confidence"),
        stages=made.get("stages"),
        judge=lambda images: predict(evaluator, images, device, steps=steps)[0],
    )
    numbers: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, metric in settings["measure"].items():
        if metric is None:  # left out by a config that builds on another
            continue
        try:
            numbers.update(build(metric, trusted=trusted)(seen))
        except Unavailable as reason:
            missing[name] = str(reason)
    return numbers, missing, seen_as


def hits_by_identity(made: Mapping[str, Tensor], predicted: Tensor) -> list[float]:
    """Percent of the reconstructions that count (``selected``, if the attack marks them) that the evaluator
    takes for their identity, by attacked identity in the order of the classes: what a comparison of two
    attacks on the same people can be paired by.

    ``made`` are stored reconstructions, ``predicted`` int64 [n] the evaluator's classes of all of them. A
    reconstruction that the attack knows to have ``failed`` is no hit.
    """
    hits = predicted == made["labels"]
    if "failed" in made:
        hits = hits & ~made["failed"].bool()
    counted = made["selected"].bool() if "selected" in made else torch.ones_like(hits)
    people, place = made["labels"][counted].unique(return_inverse=True)
    total = torch.zeros(len(people), dtype=torch.float64).index_add(0, place, hits[counted].double())
    each: list[float] = (100 * total / place.bincount(minlength=len(people))).tolist()
    return each


def only_selected(made: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of ``made``, tensors [n, ...] by name, that ``selected`` bool [n] marks; ``restarts`` counted
    anew within each label.
    """
    selected = made["selected"].bool()
    rows = selected.nonzero().squeeze(1)
    # not copied when all of them count: pictures may be many gigabytes
    kept = dict(made) if bool(selected.all()) else {name: value[rows] for name, value in made.items()}
    return {**kept, "restarts": places(kept["labels"], kept["restarts"])}


def places(labels: Tensor, restarts: Tensor) -> Tensor:
    """Which of its label each item is, 0, 1, .. in order of ``restarts``: int64 [n] from int64 [n] and [n]."""
    order = restarts.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    _, counts = labels.unique(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.empty_like(restarts).scatter_(0, order, torch.arange(len(labels)) - first)
