"""What networks see in private images: computed in one pass over them, once for all attacks that are compared
with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from midre_exp.memory.batches import AtOnce
from midre_exp.metrics.base import Unavailable
from midre_exp.metrics.extractors import Extractor, extractors, of_clouds
from midre_exp.metrics.face import FaceDistance
from midre_exp.metrics.fid import Cloud
from midre_exp.metrics.inception import InceptionFeatures, Program
from midre_exp.runtime import Runtime
from midre_exp.targets.predict import predict

_BATCH = 256  # a multiple of every network's own

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class PrivateFeatures:
    """Features [m, d] of the private images ``rows`` int64 [m], ascending, by the network they are of, and
    the ``clouds`` of those that Fréchet distances are taken to.

    Inception sees images that were first brought to the ``pixels`` of the reconstructions.
    """

    rows: Tensor
    pixels: int
    of: Mapping[Extractor, Tensor]
    clouds: Mapping[Extractor, Cloud]

    def find(self, extractor: Extractor, rows: Tensor, pixels: int) -> dict[object, Tensor]:
        """For ``Evaluation.shared``, what is known of the private images ``rows`` int64 [n], ascending:
        nothing where they are not all there as the network should see them.
        """
        features = self.of.get(extractor)
        if features is None or (extractor.kind == "inception" and pixels != self.pixels):
            return {}
        if torch.equal(rows, self.rows):
            cloud = self.clouds.get(extractor)
            found: dict[object, Tensor] = {extractor: features}
            if cloud is not None:
                found |= {("mean", extractor): cloud.mean, ("root", extractor): cloud.root}
            return found
        place = torch.searchsorted(self.rows, rows).clamp(max=max(0, len(self.rows) - 1))
        there = len(self.rows) > 0 and torch.equal(self.rows[place], rows)
        return {extractor: features[place]} if there else {}


def private_features(
    measure: Mapping[str, Any],
    evaluator: nn.Module,
    images: Tensor,
    rows: Tensor,
    *,
    pixels: int,
    runtime: Runtime,
) -> tuple[PrivateFeatures, dict[str, str]]:
    """What the metrics of ``measure`` (of conf/metrics) look at in the private ``images`` uint8 [N, 3, h, w]
    in ``rows``, and why there is nothing of a network, by its kind: its weights may be missing, which the
    metric will say.

    The images may lie on disk: each is read once, for all networks.
    """
    networks, missing = dict[Extractor, Network](), dict[str, str]()
    for extractor in extractors(measure):
        try:
            networks[extractor] = _network(extractor, evaluator, pixels, runtime)
        except Unavailable as reason:
            missing[extractor.kind] = str(reason)
    found: dict[Extractor, list[Tensor]] = {extractor: [] for extractor in networks}
    parts = rows.split(_BATCH) if len(rows) else ()
    for part in runtime.bar(parts, "private images, batches", total=len(parts)):
        block = images[part]
        if runtime.device.type == "cuda":
            block = block.pin_memory().to(runtime.device, non_blocking=True)
        for extractor, network in networks.items():
            found[extractor].append(network(block))
    features = {extractor: torch.cat(each) for extractor, each in found.items() if each}
    clouds = {
        extractor: Cloud.of(features[extractor])
        for extractor in of_clouds(measure)
        if extractor in features and len(rows) > 1 and bool(features[extractor].isfinite().all())
    }
    return PrivateFeatures(rows, pixels, features, clouds), missing


def _network(extractor: Extractor, evaluator: nn.Module, pixels: int, runtime: Runtime) -> Network:
    """From uint8 images [n, 3, h, w] to features [n, d] on the CPU."""
    device, numerics = runtime.device, runtime.numerics
    if extractor.kind == "evaluator":
        at_once = AtOnce(_BATCH)
        return lambda images: predict(evaluator, images, device, batch=at_once)[1]
    if extractor.kind == "inception":
        inception = InceptionFeatures(
            weights=extractor.weights,
            official_range=extractor.official_range,
            program=cast(Program, extractor.program),
        )
        return inception.of_private(pixels, device, numerics)
    return FaceDistance(weights=extractor.weights).embedder(device, numerics)
