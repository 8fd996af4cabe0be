"""Show reconstructions to the evaluator once, hand its answers to every metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import in_batches
from midre_exp.metrics.accuracy import AttackAccuracy, Confidence
from midre_exp.metrics.base import Evaluation, Metric, Unavailable
from midre_exp.metrics.distance import KnnDistance
from midre_exp.metrics.extractors import Extractor, extractors
from midre_exp.metrics.fid import EvaluatorFid
from midre_exp.metrics.judge import Judge
from midre_exp.metrics.private import PrivateFeatures
from midre_exp.numerics import Numerics
from midre_exp.plan.config import build
from midre_exp.targets.base import Output
from midre_exp.targets.predict import Step, predicted_classes
from midre_exp.weights.finite import require_finite

_BATCH = 256
#: How many of 255 levels floats may lie from the stored 8 bits, in the mean over a picture: rounding is less.
_LEVELS = 3.0
_OTHER = (
    "the attack's latents give other pictures than it stored ({what}), so they cannot be judged as floats; "
    "let the attack say how its images come of latents (generated), or use metrics.pictures=eight_bit"
)
EVALUATOR = Extractor("evaluator")


class Scores(NamedTuple):
    """What an evaluator says of reconstructions."""

    numbers: dict[str, float]  # the metrics
    missing: dict[str, str]  # why a metric has no number
    predicted: Tensor  # int64 [n], the class the evaluator sees in each reconstruction, selected or not


class Floats(NamedTuple):
    """Reconstructions in floats, not clamped, as official programs of some attacks judge them."""

    of: Callable[[slice], Tensor]  # float [m, 3, h, w] of some of the stored rows, on any device
    at_once: int  # rows to begin with; fewer once memory is short


def evaluate(
    images: Tensor,
    labels: Tensor,
    evaluator: nn.Module,
    *,
    private: ImageSet | None = None,
    metrics: Mapping[str, Metric] | None = None,
    restarts: Tensor | None = None,
    image_to_evaluator: Iterable[Step] = (),
    pictures: Literal["eight_bit", "floats"] = "eight_bit",
    device: torch.device | str = "cpu",
) -> Scores:
    """All ``metrics`` of reconstructions by an evaluator of one's own.

    ``images`` uint8 or float [n, 3, h, w] of the identities ``labels`` int64 [n]; ``evaluator``: images in
    [0, 1] to logits [n, k] or ``Output``. ``private``: the training images of these identities as the
    evaluator sees them, for metrics that compare with them. ``metrics`` None: top-1 and top-5 accuracy and
    confidence, with ``private`` also the KNN and the Fréchet distance in the evaluator's features.
    ``restarts`` int64 [n] None: in the order of the images of an identity. ``image_to_evaluator``: steps
    between the two, a resize for example. ``pictures``: whether floats are cut to 8 bits, clamped to [0, 1]
    and rounded, or judged as they are.
    """
    require_finite({"images": images}, "these reconstructions", "attack again")
    if images.is_floating_point() and pictures == "eight_bit":
        images = images.clamp(0, 1).mul(255).round().to(torch.uint8)
    images, labels = images.cpu(), labels.cpu()
    if metrics is None:
        metrics = {name: AttackAccuracy(k=k, group=60) for name, k in (("top1", 1), ("top5", 5))}
        metrics["confidence"] = Confidence()
        if private is not None:
            metrics.update(knn=KnnDistance(), fid_evaluator=EvaluatorFid())
    if private is None:
        private = ImageSet(images[:0], labels[:0], ())
    reconstructions = {
        "images": images,
        "labels": labels,
        "restarts": places(labels, torch.arange(len(labels))) if restarts is None else restarts.cpu(),
    }
    steps, place = tuple(image_to_evaluator), torch.device(device)
    return _measure(reconstructions, _Evaluator(evaluator), private, metrics.items(), steps, place)


def evaluate_stored(
    settings: Mapping[str, Any],
    reconstructions: Mapping[str, Tensor],
    evaluator: nn.Module,
    private_train: ImageSet,
    *,
    device: torch.device,
    numerics: Numerics | None = None,
    trusted: tuple[str, ...] = (),
    known: PrivateFeatures | None = None,
    floats: Floats | None = None,
) -> Scores:
    """The metrics of ``settings.measure`` (of conf/metrics; null: left out) on the reconstructions an attack
    has stored.

    ``settings.image_to_evaluator`` lists the named steps between a reconstruction and the evaluator;
    ``private_train`` is what the evaluator was trained on, at its resolution, and goes in as it is. Of an
    attack that marks its results as ``selected`` bool [n], these are measured. ``numerics``: of networks that
    metrics bring; the evaluator has its own already. ``known``: what was computed of
    private images before, for this evaluator and these metrics; what it lacks is computed now. ``floats``:
    what the evaluator and all metrics see in place of the stored images; raises ConfigError where the two are
    not the same pictures.
    """
    steps = tuple(build(step, kind=Step, trusted=trusted) for step in settings["image_to_evaluator"])
    metrics = (  # one at a time: some hold a network
        (name, build(node, kind=Metric, trusted=trusted))
        for name, node in settings["measure"].items()
        if node is not None
    )
    looked_through = extractors(settings["measure"])
    return _measure(
        dict(reconstructions),
        evaluator,
        private_train,
        metrics,
        steps,
        device,
        numerics,
        looked_through=looked_through,
        known=known,
        floats=floats,
    )


def _measure(
    reconstructions: dict[str, Tensor],
    evaluator: nn.Module,
    private: ImageSet,
    metrics: Iterable[tuple[str, Metric]],
    steps: tuple[Step, ...],
    device: torch.device,
    numerics: Numerics | None = None,
    looked_through: Sequence[Extractor] = (EVALUATOR,),
    known: PrivateFeatures | None = None,
    floats: Floats | None = None,
) -> Scores:
    shown = dict(reconstructions)
    shown.pop("floats", None)
    judge = Judge(evaluator, steps, device, numerics or Numerics())
    exact: Tensor | None = None
    if floats is None:
        shown["logits"], shown["features"] = judge.look(shown["images"])
    else:
        shown["logits"], shown["features"], exact = _look_at_floats(judge, floats, reconstructions)
        shown.pop("images")
    require_finite(
        {name: shown[name] for name in ("logits", "features")},
        "the evaluator's view of reconstructions has",
        "check its weights and metrics.image_to_evaluator",
    )
    predicted = predicted_classes(shown["logits"])
    if "failed" in shown:  # an attack that knows it failed succeeds by no accident
        failed = shown["failed"].nonzero().squeeze(1)
        shown["logits"][failed, shown["labels"][failed]] = -torch.inf
    unfiltered = None
    if "selected" in shown:
        unfiltered = shown["logits"], shown["labels"]
        shown = only_selected(shown)
    if exact is not None:
        shown["images"] = exact
    if not len(shown["labels"]):
        return Scores({}, {name: "the attack selected no reconstruction" for name, _ in metrics}, predicted)
    rows = torch.isin(private.labels, shown["labels"]).nonzero().squeeze(1)
    shared: dict[object, Tensor] = {}
    for extractor in looked_through:
        shared |= {} if known is None else known.find(extractor, rows, shown["images"].shape[-1])
    private_features = shared.pop(EVALUATOR, None)
    if private_features is None:
        # The images may be mapped from disk: a batch of them is in memory at a time.
        parts = rows.split(_BATCH) if EVALUATOR in looked_through else ()
        seen = [judge.look(private.images[part], as_they_are=True)[1] for part in parts if len(part)]
        private_features = torch.cat([shown["features"][:0], *seen])
    evaluation = Evaluation(
        images=shown["images"],
        labels=shown["labels"],
        restarts=shown["restarts"],
        logits=shown["logits"],
        features=shown["features"],
        private_features=private_features,
        private_labels=private.labels[rows],
        private_images=private.images,
        private_rows=rows,
        device=device,
        numerics=judge.numerics,
        unfiltered=unfiltered,
        confidence=shown.get("confidence"),
        phases=shown.get("stages"),
        phase_hits=shown.get("stage_hits"),
        judge=judge,
        shared=shared,
    )
    numbers: dict[str, float] = {}
    missing: dict[str, str] = {}
    for name, metric in metrics:
        try:
            found = metric(evaluation)
            numbers.update({key: value for key, value in found.items() if math.isfinite(value)})
            if lost := [f"{key} is {value}" for key, value in found.items() if not math.isfinite(value)]:
                missing[name] = f"it is no finite number: {', '.join(lost)}"
        except Unavailable as reason:
            missing[name] = str(reason)
    return Scores(numbers, missing, predicted)


def _look_at_floats(
    judge: Judge, floats: Floats, reconstructions: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits and features of all reconstructions, and the pictures of those that count, on the CPU: of the
    others, which may be many times as many, none is kept.
    """
    stored = reconstructions["images"]
    counted = reconstructions.get("selected", torch.ones(len(stored))).bool()
    pictures = torch.empty(int(counted.sum()), *stored.shape[1:])
    places = counted.cumsum(0) - 1

    def look(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        images = floats.of(part)
        if images.shape[1:] != stored.shape[1:]:
            raise ConfigError(_OTHER.format(what=f"they are of {images.shape[-1]} px"))
        levels = images.clamp(0, 1) * 255 - stored[part].to(images.device)
        apart = levels.abs().mean((1, 2, 3)).cpu()
        logits, features = judge.look(images)
        rows = counted[part]
        pictures[places[part][rows]] = images.cpu()[rows]
        return logits, features, apart

    looks = list(in_batches(look, len(stored), floats.at_once, what="reconstructions"))
    logits, features, apart = (torch.cat(each) for each in zip(*looks, strict=True))
    if bool((apart > _LEVELS).any()):
        raise ConfigError(_OTHER.format(what=f"they are {float(apart.max()):.0f} of 255 levels apart"))
    return logits, features, pictures


class _Evaluator(nn.Module):
    """A network whose answer is an ``Output`` also where it gives logits alone."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Output:
        answer = self.network(images)
        return answer if isinstance(answer, Output) else Output(answer, answer.new_empty(len(answer), 0))


def hits_by_identity(reconstructions: Mapping[str, Tensor], predicted: Tensor) -> list[float]:
    """Percent of the reconstructions that count (``selected``, if the attack marks them) that the evaluator
    takes for their identity, by attacked identity in the order of the classes: what a comparison of two
    attacks on the same identities can be paired by.

    ``predicted`` int64 [n]: the evaluator's classes of all stored reconstructions. A reconstruction that the
    attack knows to have ``failed`` is no hit.
    """
    hits = predicted == reconstructions["labels"]
    if "failed" in reconstructions:
        hits = hits & ~reconstructions["failed"].bool()
    counted = torch.ones_like(hits)
    if "selected" in reconstructions:
        counted = reconstructions["selected"].bool()
    identities, place = reconstructions["labels"][counted].unique(return_inverse=True)
    total = torch.zeros(len(identities), dtype=torch.float64).index_add(0, place, hits[counted].double())
    each: list[float] = (100 * total / place.bincount(minlength=len(identities))).tolist()
    return each


def only_selected(reconstructions: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The rows of ``reconstructions``, tensors [n, ...] by name, that ``selected`` bool [n] marks;
    ``restarts`` counted anew within each label.
    """
    selected = reconstructions["selected"].bool()
    rows = selected.nonzero().squeeze(1)
    # not copied when all of them count: images may be many gigabytes
    kept = {name: value if bool(selected.all()) else value[rows] for name, value in reconstructions.items()}
    return {**kept, "restarts": places(kept["labels"], kept["restarts"])}


def places(labels: Tensor, restarts: Tensor) -> Tensor:
    """Which of its label each item is, 0, 1, .. in order of ``restarts``: int64 [n] from two int64 [n]."""
    order = restarts.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    _, counts = labels.unique(return_counts=True)
    first = (counts.cumsum(0) - counts).repeat_interleave(counts)
    return torch.empty_like(restarts).scatter_(0, order, torch.arange(len(labels)) - first)
