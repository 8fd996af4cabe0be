"""Features of images in ImageNet's Inception-v3, for the metrics that compare clouds of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from midre_exp.data.transforms import Resize
from midre_exp.errors import CheckpointError
from midre_exp.memory.batches import AtOnce
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.extractors import Extractor
from midre_exp.numerics import Numerics
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
        self.extractor = Extractor("inception", weights, official_range)
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
            return self._features(evaluation.images, rows, evaluation.device, evaluation.numerics)
        name = ("inception", self.weights, self.official_range, "fake")
        if name not in evaluation.shared:
            every = torch.arange(len(evaluation.images))
            evaluation.shared[name] = self._features(
                evaluation.images, every, evaluation.device, evaluation.numerics
            )
        return evaluation.shared[name]

    def private(self, evaluation: Evaluation) -> Tensor:
        """[m, 2048] of the private images ``evaluation.private_rows``, as computed before for all attacks, or
        now. Raises Unavailable as ``network``.
        """
        if self.extractor not in evaluation.shared:
            before = Resize(size=evaluation.images.shape[-1])
            evaluation.shared[self.extractor] = self._features(
                evaluation.private_images,
                evaluation.private_rows,
                evaluation.device,
                evaluation.numerics,
                before,
            )
        return evaluation.shared[self.extractor]

    def of_private(self, pixels: int, device: torch.device, numerics: Numerics) -> Callable[[Tensor], Tensor]:
        """From private images uint8 [n, 3, h, w], first brought to ``pixels``, to features [n, 2048]. Raises
        Unavailable as ``network``.
        """
        self._loaded, before = self.network().to(device), Resize(size=pixels)
        numerics.accelerate(self._loaded)
        return lambda images: self._features(images, torch.arange(len(images)), device, numerics, before)

    def network(self) -> InceptionV3:
        """Inception-v3 with its weights. Raises Unavailable when they are missing or do not fit."""
        # Published weights expect images normalised with 0.5 / 0.5, which is how this class normalises.
        network = InceptionV3(num_classes=1000, auxiliary=False, transform_input=False)
        try:
            load_backbone(network, str(self.weights))
        except CheckpointError as error:
            raise Unavailable(f"no Inception weights: {error}") from error
        return network.eval()

    def _features(
        self, images: Tensor, rows: Tensor, device: torch.device, numerics: Numerics, *before: Step
    ) -> Tensor:
        if self._loaded is None:
            self._loaded = self.network().to(device)
            numerics.accelerate(self._loaded)
        steps: tuple[Step, ...] = (*before, Resize(size=_SIZE))
        if self.official_range:
            steps = (*steps, lambda images: 2 * images - 1)
        # The private ones may be mapped from disk: a batch of them is in memory at a time.
        found = [
            predict(self._loaded, images[part], device, steps=steps, batch=self._at_once)[1]
            for part in rows.to(images.device).split(_BATCH)
        ]
        return torch.cat(found)
