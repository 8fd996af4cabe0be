"""Running a trained classifier over many images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet, to_float
from midre_exp.targets.base import Classifier

Step = Callable[[Tensor], Tensor]


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, device: torch.device, *, steps: tuple[Step, ...] = (), batch: int = 256
) -> tuple[Tensor, Tensor]:
    """Logits [n, k] and features [n, d] on the CPU of uint8 images [n, 3, h, w], each batch first going
    through ``steps``. ``model`` answers with ``Output``.
    """
    model = model.to(device).eval()
    logits, features = [], []
    for part in images.split(batch):
        x = to_float(part.to(device))
        for step in steps:
            x = step(x)
        output = model(x)
        logits.append(output.logits)
        features.append(output.features)
    return torch.cat(logits).cpu(), torch.cat(features).cpu()


def accuracy(model: Classifier, images: ImageSet, device: torch.device) -> float:
    """Top-1 accuracy in percent on clean images."""
    logits, _ = predict(model, images.images, device)
    return 100.0 * float((logits.argmax(1) == images.labels).double().mean())
