"""Where images lie in the feature space of a target: penultimate activations, projected to two directions,
and their convex hulls.

The projection is a principal component analysis, one for each model, fitted on the private images of the
identities shown and on the same images erased, so that reconstructions have no say in how they are looked at.
It is linear: hulls in the plane are the shadows of hulls in feature space, so what is outside of a shadow is
outside, and what is inside of it may still be outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from midre_exp import stages
from midre_exp.data.base import Dataset, to_float
from midre_exp.data.transforms import Resize
from midre_exp.defense import Defense, compose_defenses
from midre_exp.errors import StoreError
from midre_exp.plan.config import build, trusted_packages
from midre_exp.report.runs.planned_runs import PlannedRun
from midre_exp.runtime import choose_device
from midre_exp.seeding import generator
from midre_exp.store.store import Artifact, Store
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.batch import Batch, TrainingProgress

KINDS = ("private", "erased", "reconstruction")

Points = NDArray[np.float64]


def points_of(run: PlannedRun, eraser: PlannedRun, identities: int) -> pd.DataFrame:
    """The images of the first ``identities`` as the target of ``run`` sees them, one row each.

    Columns: ``model`` (the defense's label), ``target`` and ``reconstructed`` (keys in the store),
    ``identity``, ``kind`` (of ``KINDS``), ``x``, ``y``, and ``share_x``, ``share_y``: percent of the variance
    of what the projection was fitted on. Erasing is that of the defense of ``eraser``, once for each image,
    the same squares for every model. Of attacks that select their results only these are shown. Raises
    StoreError for an artifact that is not in the store, DataError for data that are not here.
    """
    settings = run.settings
    target, attack = (stored(run, stage) for stage in ("target", "attack"))
    model = stages.target.load(settings, target, _defense(run))
    node, trusted = settings["data"]["private"], trusted_packages(settings)
    private = build(node, kind=Dataset, trusted=trusted).load("train")
    identities = min(identities, private.num_classes, settings["attack"]["identities"])
    rows = (private.labels < identities).nonzero().squeeze(1)
    labels, images = private.labels[rows], to_float(private.images[rows])
    draws = generator(run.seed, "figure", "erased")
    batch = Batch(images, labels, rows)
    erased = _defense(eraser).on_batch(batch, model, TrainingProgress(0, 1), draws).images
    reconstructions = attack.tensors("reconstructions")
    shown = reconstructions["labels"] < identities
    if "selected" in reconstructions:
        shown &= reconstructions["selected"].bool()
    # some attacks store them at the evaluator's size
    reconstructed = Resize(size=images.shape[-1])(to_float(reconstructions["images"][shown]))
    device = choose_device(settings["runtime"]["device"])
    clouds = [features(model, part, device) for part in (images, erased, reconstructed)]
    projected, shares = project(clouds, fitted_on=2)
    plane = np.concatenate(projected)
    return pd.DataFrame(
        {
            "model": run.label,
            "target": target.key,
            "reconstructed": attack.key,
            "identity": torch.cat([labels, labels, reconstructions["labels"][shown]]).numpy(),
            "kind": np.repeat(KINDS, [len(cloud) for cloud in clouds]),
            "x": plane[:, 0],
            "y": plane[:, 1],
            "share_x": shares[0],
            "share_y": shares[1],
        }
    )


def stored(run: PlannedRun, stage: str) -> Artifact:
    """What a stage of a run left. Raises StoreError with the way to get it."""
    if run.record is None:
        raise StoreError(f"{run.label} has not been run yet; run {run.command}")
    if stage not in run.record["artifacts"]:
        raise StoreError(
            f"{run.settings['attack']['name']} is a suite of attacks, and its members made the {stage}s of "
            f"{run.label}; choose one attack"
        )
    artifact = run.artifact(stage)
    if artifact is None:
        raise StoreError(
            f"the {stage} of {run.label} ({run.record['artifacts'][stage]}) is not in the store "
            f"{Store(run.settings['paths']['store'])}; give paths.store= of the one that has it, or make it "
            f"again by {run.command}"
        )
    return artifact


def _defense(run: PlannedRun) -> Defense:
    return compose_defenses(run.settings["defense"], trusted_packages(run.settings))


@torch.no_grad()
def features(model: Classifier, images: Tensor, device: torch.device, *, batch: int = 256) -> Points:
    """Penultimate activations float64 [n, d] of images float [n, 3, h, w] in [0, 1]. The model stays on its
    device.
    """
    home = next(model.parameters()).device
    model.to(device)
    found = torch.cat([model(part.to(device)).features.double().cpu() for part in images.split(batch)])
    model.to(home)
    return np.asarray(found)


def project(clouds: Sequence[Points], *, fitted_on: int) -> tuple[list[Points], tuple[float, float]]:
    """The first two principal components of the first ``fitted_on`` clouds [n_i, d], and all clouds in them
    [n_i, 2].

    Returns also the percent of the fitted variance along each. Signs are such that the largest loading of
    each direction is positive.
    """
    fitted = np.concatenate(clouds[:fitted_on])
    centre = fitted.mean(0)
    _, lengths, directions = np.linalg.svd(fitted - centre, full_matrices=False)
    axes = directions[:2]
    axes = axes * np.sign(axes[np.arange(2), np.abs(axes).argmax(1)])[:, None]
    shares = 100 * lengths[:2] ** 2 / np.square(lengths).sum()
    return [(cloud - centre) @ axes.T for cloud in clouds], (float(shares[0]), float(shares[1]))


def hull(points: Points) -> ConvexHull | None:
    """The convex hull of points [n, 2]; None when they span no area."""
    try:
        return ConvexHull(points)
    except (QhullError, ValueError):  # fewer than three points, or all on a line
        return None


def share_inside(points: Points, of: ConvexHull | None) -> float:
    """Percent of points [n, 2] in a hull or on its edge; NaN without hull or points."""
    if of is None or not len(points):
        return float("nan")
    sides = points @ of.equations[:, :2].T + of.equations[:, 2]
    slack = 1e-9 * float(np.ptp(of.points, axis=0).max())  # points on the edge belong to it
    return 100 * float((sides <= slack).all(1).mean())


def overlap(first: ConvexHull | None, second: ConvexHull | None) -> float:
    """Area that two hulls share, by cutting the first along every edge of the second; NaN without one of
    them.
    """
    if first is None or second is None:
        return float("nan")
    corners = first.points[first.vertices]
    for *normal, offset in second.equations:
        height = corners @ np.asarray(normal) + offset  # negative inside
        following, after = np.roll(corners, -1, axis=0), np.roll(height, -1)
        crosses = (height <= 0) != (after <= 0)
        cut = (
            corners
            + (following - corners)
            * np.divide(height, height - after, out=np.zeros_like(height), where=crosses)[:, None]
        )
        corners = np.stack([corners, cut], axis=1)[np.stack([height <= 0, crosses], axis=1)]
        if len(corners) < 3:
            return 0.0
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def hull_numbers(points: pd.DataFrame) -> pd.DataFrame:
    """For each model and identity: how many points of each kind, areas of the hulls of private and erased
    images, the share of them in common (``overlap``, percent of their union), and the percent of
    reconstructions and of erased images inside.
    """
    return pd.DataFrame(
        [
            {"model": model, "identity": identity, **_numbers(clouds_of(part))}
            for (model, identity), part in points.groupby(["model", "identity"], sort=False)
        ]
    )


def clouds_of(points: pd.DataFrame) -> dict[str, Points]:
    """The points [n, 2] of each kind."""
    return {kind: points.loc[points["kind"] == kind, ["x", "y"]].to_numpy(float) for kind in KINDS}


def _numbers(clouds: Mapping[str, Points]) -> dict[str, float]:
    private, erased = hull(clouds["private"]), hull(clouds["erased"])
    areas = [float("nan") if found is None else float(found.volume) for found in (private, erased)]
    common = overlap(private, erased)
    return {
        **{f"n_{kind}": len(cloud) for kind, cloud in clouds.items()},
        "reconstructions_in_private": share_inside(clouds["reconstruction"], private),
        "reconstructions_in_erased": share_inside(clouds["reconstruction"], erased),
        "erased_in_private": share_inside(clouds["erased"], private),
        "area_private": areas[0],
        "area_erased": areas[1],
        "overlap": 100 * common / (sum(areas) - common),
    }
