"""Whether reconstructions look like the traps of a defense that sets some (Trap-MID): by the direction of the
features of triggered images of each class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.data.base import ImageSet, to_float
from midre_exp.diagnostics.intervals import flat, measured
from midre_exp.memory.batches import in_batches
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import predict, predicted_classes

#: The share of clean training images that lie below the threshold (authors' notebook).
_QUANTILE = 0.95
_BATCH = 256

#: Images float [n, 3, h, w] and classes int64 [n] to the same images, each with the trigger of its class.
Triggered = Callable[[Tensor, Tensor], Tensor]


def signatures(features: Tensor, labels: Tensor, classes: int) -> Tensor:
    """The direction [classes, d] of each class's trap: the sum of the ``features`` [n, d] of triggered
    training images with trigger classes ``labels`` int64 [n], of length 1.
    """
    sums = features.new_zeros(classes, features.shape[1]).index_add_(0, labels, features)
    return F.normalize(sums)


def signature_cosines(features: Tensor, predicted: Tensor, of_classes: Tensor) -> Tensor:
    """How much images look like the trap of the class they are ``predicted`` to be of, int64 [n]: the cosine
    [n] of their ``features`` [n, d] with its signature. Released use: above the 95 % quantile of clean
    training images is caught.
    """
    return (F.normalize(features) * of_classes[predicted]).sum(1)


def trapped(
    model: Classifier,
    triggered: Triggered,
    train: ImageSet,
    test: ImageSet,
    reconstructions: Tensor,
    device: torch.device,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Cosines of clean and triggered test images and of ``reconstructions`` (uint8 [n, 3, h, w] as the target
    gets them), the threshold, and the percent of each above it: what a record tells, and the chief numbers.
    """

    @torch.no_grad()
    def with_trigger(images: ImageSet) -> tuple[Tensor, Tensor]:
        def look(part: slice) -> tuple[Tensor, Tensor]:
            labels = images.labels[part].to(device)
            output = model(triggered(to_float(images.images[part].to(device)), labels))
            return output.logits.cpu(), output.features.cpu()

        logits, features = zip(*in_batches(look, len(images), _BATCH, what="images"), strict=True)
        return torch.cat(logits), torch.cat(features)

    _, features = with_trigger(train)
    traps = signatures(features.double(), train.labels.cpu(), train.num_classes)

    def cosines(logits: Tensor, features: Tensor) -> Tensor:
        return signature_cosines(features.double(), predicted_classes(logits), traps)

    known = cosines(*predict(model, train.images, device))
    threshold = float(known.quantile(_QUANTILE))
    shown = {
        "clean": predict(model, test.images, device),
        "triggered": with_trigger(test),
        "reconstructions": predict(model, reconstructions, device),
    }
    told: dict[str, Any] = {"threshold": threshold}
    for name, (logits, features) in shown.items():
        found = cosines(logits, features)
        told[name] = {
            "images": len(found),
            "cosine": measured(found),
            "caught": measured(found > threshold, scale=100),
        }
    right = predicted_classes(shown["triggered"][0]) == test.labels.cpu()
    told["triggered"]["class"] = measured(right, scale=100)
    numbers = {
        **flat("trap_cosine", told["reconstructions"]["cosine"]),
        **flat("trap_caught", told["reconstructions"]["caught"]),
        "trap_cosine_clean": told["clean"]["cosine"]["value"],
    }
    return told, numbers
