"""Features of images in an Inception-v3 for the metrics that compare clouds of them: ours, and as official
programs extract them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from midre_exp.data.base import to_float
from midre_exp.data.transforms import Resize
from midre_exp.errors import CheckpointError
from midre_exp.memory.batches import AtOnce
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.extractors import Extractor
from midre_exp.metrics.official import stretched
from midre_exp.metrics.tensorflow_inception import PYTORCH_FID, tensorflow_inception, tensorflow_resize
from midre_exp.numerics import Numerics
from midre_exp.targets.architectures.inception_v3 import InceptionV3
from midre_exp.targets.predict import Step, predict
from midre_exp.weights.published import note_weights
from midre_exp.weights.state_dict import load_backbone, load_checkpoint

Program = Literal["", "ppa", "lomma", "plgmi"]
#: Whose features are those of TensorFlow's network.
OF_TENSORFLOW = ("ppa", "lomma")
_SIZE = 299  # px
_BATCH = 64


class InceptionFeatures:
    """The 2048 pooled features of torchvision's Inception-v3 at 299 px (bilinear, antialiased), private
    images first brought to the size of the reconstructions.

    ``weights``: ``imagenet``, a path, or None for no features at all. ``official_range``: the network sees
    images in [-3, 1] as in PPA's code, instead of [-1, 1]. Computed once for all metrics of an evaluation.

    ``program`` repeats an official extraction instead:

    - ``ppa``: TensorFlow's network (``weights``: ``pytorch_fid`` or a path), which sees [-3, 1].
    - ``lomma``: TensorFlow's network, its resize, and on both sides images that are taken for [-1, 1] though
      they are in [0, 1], so that the network sees their upper half washed out, cut to 8 bits.
    - ``plgmi``: torchvision's network, scaled to ImageNet's statistics as if images in [0, 1] were centred,
      reconstructions ``stretched`` by PNG files. Its last partial batch of 64, whichever that is, is not left
      out here.
    """

    def __init__(self, *, weights: str | None, official_range: bool = False, program: Program = ""):
        self.weights, self.program = weights, program
        self.official_range = official_range
        self.extractor = Extractor("inception", weights, official_range, program)
        self._loaded: InceptionV3 | None = None
        self._at_once = AtOnce(_BATCH)

    def check(self, key: str) -> None:
        """Raises Unavailable, naming the config key, when no weights are chosen."""
        if self.weights is None:
            raise Unavailable(
                f"no Inception weights are chosen; set {key} to "
                + ("pytorch_fid" if self.program in OF_TENSORFLOW else "imagenet")
                + " or to the path of a file"
            )

    def fake(self, evaluation: Evaluation, rows: Tensor | None) -> Tensor:
        """[m, 2048] of the reconstructions ``rows`` int64 [m], None for all. Raises Unavailable as
        ``network``.
        """
        before = (_as_written,) if self.program == "plgmi" else ()
        if rows is not None:
            return self._features(evaluation.images, rows, evaluation.device, evaluation.numerics, *before)
        name = (self.extractor, "fake")
        if name not in evaluation.shared:
            every = torch.arange(len(evaluation.images))
            evaluation.shared[name] = self._features(
                evaluation.images, every, evaluation.device, evaluation.numerics, *before
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
        if self.program in OF_TENSORFLOW:
            return self._tensorflow()
        # Published weights expect images normalised with 0.5 / 0.5, which is how this class normalises.
        network = InceptionV3(num_classes=1000, auxiliary=False, transform_input=False)
        try:
            load_backbone(network, str(self.weights))
        except CheckpointError as error:
            raise Unavailable(f"no Inception weights: {error}") from error
        return network.eval()

    def _tensorflow(self) -> InceptionV3:
        path = Path(str(self.weights)).expanduser()
        if self.weights == "pytorch_fid":
            path = Path(torch.hub.get_dir()) / "checkpoints" / PYTORCH_FID
            if not path.exists():
                raise Unavailable(
                    f"{path} does not exist; put the release file of pytorch-fid there or set fid_weights to "
                    "its path"
                )
        network = tensorflow_inception()
        try:
            load_checkpoint(network, path)
        except CheckpointError as error:
            raise Unavailable(f"no Inception weights: {error}") from error
        if self.weights == "pytorch_fid":  # a name, which tells nothing of the file's content
            note_weights("pytorch_fid", weights=PYTORCH_FID, source="pytorch-fid", path=path)
        return network.eval()

    def _shown(self) -> tuple[Step, ...]:
        """From images in [0, 1] of the reconstructions' size to what the network, which normalises with 0.5 /
        0.5, is shown.
        """
        if self.program == "lomma":
            return (_washed_out, lambda images: tensorflow_resize(images, _SIZE))
        if self.program == "plgmi":
            return (lambda images: F.interpolate(images, _SIZE, mode="bilinear"), _scaled_again)
        if self.official_range or self.program == "ppa":
            return (Resize(size=_SIZE), lambda images: 2 * images - 1)
        return (Resize(size=_SIZE),)

    def _features(
        self, images: Tensor, rows: Tensor, device: torch.device, numerics: Numerics, *before: Step
    ) -> Tensor:
        if self._loaded is None:
            self._loaded = self.network().to(device)
            numerics.accelerate(self._loaded)
        steps = (*before, *self._shown())
        # The private ones may be mapped from disk: a batch of them is in memory at a time.
        found = [
            predict(self._loaded, images[part], device, steps=steps, batch=self._at_once)[1]
            for part in rows.to(images.device).split(_BATCH)
        ]
        return torch.cat(found)


def _as_written(images: Tensor) -> Tensor:
    """Stretched by PNG files, and read again."""
    return to_float(stretched(images))


def _washed_out(images: Tensor) -> Tensor:
    """Taken for [-1, 1] and cut to 8 bits, v, as a network of which the input is (v - 128) / 128 needs them
    when it normalises [0, 1] with 0.5 / 0.5.
    """
    return ((0.5 * images + 0.5) * 255).clamp(0, 255).floor() / 256


def _scaled_again(images: Tensor) -> Tensor:
    """Images in [0, 1] taken for ones that are normalised with ImageNet's statistics."""
    mean = images.new_tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
    std = images.new_tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    return images * std + mean
