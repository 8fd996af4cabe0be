"""Features of images in ImageNet's Inception-v3, for the metrics that compare clouds of them."""

from __future__ import annotations

import torch
from torch import Tensor

from midre_exp.data.transforms import Resize
from midre_exp.errors import CheckpointError
from midre_exp.memory.batches import AtOnce
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.targets.architectures.inception_v3 import InceptionV3
from midre_exp.targets.predict import Step, predict
from midre_exp.weights.state_dict import load_backbone

_SIZE = 299  # px
_BATCH = 64


class InceptionFeatures:
    """The 2048 pooled features of torchvision's Inception-v3 at 299 px (bilinear, antialiased), private
    images first brought to the size of the reconstructions.

    ``weights``: ``imagenet``, a path, or None for no features at all. ``official_range``: the network sees
    images in [-3, 1] as in PPA's code, instead of [-1, 1]. Computed once for all metrics of an evaluation.
    """

    def __init__(self, *, weights: str | None, official_range: bool):
        self.weights, self.official_range = weights, official_range
        self._loaded: InceptionV3 | None = None
        self._at_once = AtOnce(_BATCH)

    def check(self, key: str) -> None:
        """Raises Unavailable, naming the config key, when no weights are chosen."""
        if self.weights is None:
            raise Unavailable(
                f"no Inception weights are chosen; set {key} to imagenet or to the path of a file"
            )

    def fake(self, evaluation: Evaluation, rows: Tensor | None) -> Tensor:
        """[m, 2048] of the reconstructions ``rows`` int64 [m], None for all. Raises Unavailable as
        ``network``.
        """
        if rows is not None:
            return self._features(evaluation, evaluation.images, rows)
        name = ("inception", self.weights, self.official_range, "fake")
        if name not in evaluation.shared:
            evaluation.shared[name] = self._features(
                evaluation, evaluation.images, torch.arange(len(evaluation.images))
            )
        return evaluation.shared[name]

    def private(self, evaluation: Evaluation) -> Tensor:
        """[m, 2048] of the private images ``evaluation.private_rows``. Raises Unavailable as ``network``."""
        name = ("inception", self.weights, self.official_range, "private")
        if name not in evaluation.shared:
            before = Resize(size=evaluation.images.shape[-1])
            evaluation.shared[name] = self._features(
                evaluation, evaluation.private_images, evaluation.private_rows, before
            )
        return evaluation.shared[name]

    def network(self) -> InceptionV3:
        """Inception-v3 with its weights. Raises Unavailable when they are missing or do not fit."""
        # Published weights expect images normalised with 0.5 / 0.5, which is how this class normalises.
        network = InceptionV3(num_classes=1000, auxiliary=False, transform_input=False)
        try:
            load_backbone(network, str(self.weights))
        except CheckpointError as error:
            raise Unavailable(f"no Inception weights: {error}") from error
        return network.eval()

    def _features(self, evaluation: Evaluation, images: Tensor, rows: Tensor, *before: Step) -> Tensor:
        if self._loaded is None:
            self._loaded = self.network().to(evaluation.device)
            evaluation.numerics.accelerate(self._loaded)
        steps: tuple[Step, ...] = (*before, Resize(size=_SIZE))
        if self.official_range:
            steps = (*steps, lambda images: 2 * images - 1)
        # The private ones may be mapped from disk: a batch of them is in memory at a time.
        found = [
            predict(self._loaded, images[part], evaluation.device, steps=steps, batch=self._at_once)[1]
            for part in rows.split(_BATCH)
        ]
        return torch.cat(found)
