"""Running a trained classifier over many images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet, to_float
from midre_exp.errors import DivergedError
from midre_exp.memory.batches import AtOnce, in_batches
from midre_exp.store.progress import Progress
from midre_exp.targets.base import Classifier
from midre_exp.weights.finite import require_finite

Step = Callable[[Tensor], Tensor]


@torch.no_grad()
def predict(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    *,
    steps: tuple[Step, ...] = (),
    batch: int | AtOnce = 256,
) -> tuple[Tensor, Tensor]:
    """Logits [n, k] and features [n, d] on the CPU of images [n, 3, h, w], uint8 or float in [0, 1], each
    batch first going through ``steps``; fewer at once where ``batch`` do not fit. ``model`` answers with
    ``Output``.
    """
    model = model.to(device).eval()

    def look(part: slice) -> tuple[Tensor, Tensor]:
        x = images[part].to(device)
        x = x.float() if x.is_floating_point() else to_float(x)
        for step in steps:
            x = step(x)
        output = model(x)
        return output.logits, output.features

    logits, features = [], []
    with Progress("images through a classifier", len(images), bar=False) as shown:
        for some_logits, some_features in in_batches(look, len(images), batch, what="images"):
            logits.append(some_logits)
            features.append(some_features)
            shown.update(len(some_logits))
    return torch.cat(logits).cpu(), torch.cat(features).cpu()


def predicted_classes(logits: Tensor) -> Tensor:
    """The class with the largest of ``logits`` [n, k], int64 [n]: the only place where classes are predicted
    of numbers on the host. -inf rules a class out; raises DivergedError where the largest is NaN or infinite,
    of which ``argmax`` would make a class as good as any.
    """
    largest, classes = logits.max(1)
    if not bool(largest.isfinite().all()):
        broken = int((~largest.isfinite()).sum())
        raise DivergedError(
            f"a classifier's answers are not finite for {broken} of {len(logits)} images, so it predicts "
            "nothing",
            "check its weights and the images it is shown",
        )
    return classes


def hits(logits: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest of ``logits`` [n, k] is the label's, else 0, and NaN where it is not finite: [n],
    for means that are taken without waiting for the device.
    """
    largest, classes = logits.max(1)
    return (classes == labels).float() + 0 * largest.float()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of ``logits`` [n, k]. Raises DivergedError as ``predicted_classes``."""
    return 100.0 * float((predicted_classes(logits) == labels).double().mean())


def hits_by_class(logits: Tensor, labels: Tensor) -> dict[str, list[int]]:
    """How many ``images`` each class has, and how many of them are predicted to be of it (``right``), both in
    the order of the classes. Raises DivergedError as ``predicted_classes``.
    """
    classes = logits.shape[1]
    right = labels[predicted_classes(logits) == labels]
    of = {"right": right, "images": labels}
    return {name: torch.bincount(own, minlength=classes).tolist() for name, own in of.items()}


def answers(model: Classifier, images: ImageSet, device: torch.device) -> Tensor:
    """Logits [n, k] on the CPU of clean images. Raises DivergedError unless they and the features are
    finite.
    """
    logits, features = predict(model, images.images, device)
    require_finite({"logits": logits, "features": features}, "the network", "give it other weights")
    return logits


def are_alike(logits: Tensor) -> bool:
    """Whether several images have the very same answer, ``logits`` [n, k]."""
    return len(logits) > 1 and bool((logits == logits[0]).all())
