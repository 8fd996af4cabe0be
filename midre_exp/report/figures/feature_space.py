"""Where images lie in the feature space of a target: penultimate activations, projected to two directions,
and their convex hulls.

The projection is a principal component analysis, one for each model, fitted on the private images of the
people shown and on the same images erased, so that reconstructions have no say in how they are looked at. It
is linear: hulls in the plane are the shadows of hulls in feature space, so what is outside of a shadow is
outside, and what is inside of it may still be outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError
from torch import Tensor

from midre_exp import stages
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.transforms import Resize
from midre_exp.errors import StoreError
from midre_exp.plan.config import build
from midre_exp.report.runs.planned_runs import Cell
from midre_exp.runtime import choose_device
from midre_exp.seeding import generator
from midre_exp.store.store import Artifact, Store
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.batch import Batch, TrainingProgress

KINDS = ("private", "erased", "reconstruction")

Points = NDArray[np.float64]


def points_of(cell: Cell, eraser: Cell, people: int) -> pd.DataFrame:
    """The images of the first ``people`` identities as the target of ``cell`` sees them, one row each.

    Columns: ``model`` (the defense's label), ``target`` and ``reconstructed`` (keys in the store),
    ``identity``, ``kind`` (of ``KINDS``), ``x``, ``y``, and ``share_x``, ``share_y``: percent of the variance
    of what the projection was fitted on. Erasing is that of the defense of ``eraser``, once for each image,
    the same squares for every model. Of attacks that select their results only these are shown. Raises
    StoreError for an artifact that is not in the store, DataError for data that are not here.
    """
    settings = cell.settings
    trusted, device = (
        tuple(settings["runtime"]["trusted_packages"]),
        choose_device(settings["runtime"]["device"]),
    )
    target, attack = (stored(cell, stage) for stage in ("target", "attack"))
    defense = _defense(cell)
    model = stages.target.load(settings, target, defense)
    private: ImageSet = build(settings["data"]["private"], trusted=trusted).load("train")
    people = min(people, private.num_classes, settings["attack"]["identities"])
    rows = (private.labels < people).nonzero().squeeze(1)
    labels, images = private.labels[rows], to_float(private.images[rows])
    draws = generator(settings["seed"], "figure", "erased")
    erased = (
        _defense(eraser).on_batch(Batch(images, labels, rows), model, TrainingProgress(0, 1), draws).images
    )
    made = attack.tensors("reconstructions")
    mine = made["labels"] < people
    if "selected" in made:
        mine &= made["selected"].bool()
    found = Resize(size=images.shape[-1])(
        to_float(made["images"][mine])
    )  # kept at the judge's size by some attacks
    seen = [features(model, part, device) for part in (images, erased, found)]
    flat, shares = project(seen, fitted_on=2)
    kinds = np.repeat(KINDS, [len(part) for part in seen])
    plane = np.concatenate(flat)
    return pd.DataFrame(
        {
            "model": cell.label,
            "target": target.key,
            "reconstructed": attack.key,
            "identity": torch.cat([labels, labels, made["labels"][mine]]).numpy(),
            "kind": kinds,
            "x": plane[:, 0],
            "y": plane[:, 1],
            "share_x": shares[0],
            "share_y": shares[1],
        }
    )


def stored(cell: Cell, stage: str) -> Artifact:
    """What a stage of a run left. Raises StoreError with the way to get it."""
    if cell.record is None:
        raise StoreError(f"{cell.label} has not been run yet; run {cell.command}")
    root, key = cell.settings["paths"]["store"], cell.record["artifacts"][stage]
    found = Store(root).find(stage, key)
    if found is None:
        raise StoreError(
            f"the {stage} of {cell.label} ({key}) is not in the store {root}; give paths.store= of the one that has it, "
            f"or make it again by {cell.command}"
        )
    return found


def _defense(cell: Cell) -> Any:
    settings = cell.settings
    return build(
        {**settings["composer"], **settings["defense"]},
        trusted=tuple(settings["runtime"]["trusted_packages"]),
    )


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
