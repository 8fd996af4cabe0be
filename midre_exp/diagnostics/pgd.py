"""Attacks on classification within an L-infinity ball: projected gradients with steps of one length, and
AutoPGD, which chooses them itself (Croce and Hein 2020). Images in [0, 1], the network normalises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.targets.predict import predicted_classes

#: Images [n, 3, h, w] to logits [n, k].
Classify = Callable[[Tensor], Tensor]
#: Logits [n, k] and labels [n] to what rises as an image becomes wrong, [n].
Loss = Callable[[Tensor, Tensor], Tensor]

#: AutoPGD: momentum, share of rising steps that is enough, and its checkpoints in shares of all steps: the
#: first, how much shorter each interval is than the one before, the shortest.
_MOMENTUM, _RISING = 0.75, 0.75
_FIRST, _SHORTER, _SHORTEST = 0.22, 0.03, 0.06


def cross_entropies(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross entropy of each image, [n]."""
    return F.cross_entropy(logits, labels, reduction="none")


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio of each image, [n]: unlike the cross entropy, its gradient does not
    vanish where the network is certain, and no factor of the logits changes it. Of two classes, which have no
    third largest, the difference alone.
    """
    own = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    if logits.shape[1] < 3:
        return others - own
    ordered = logits.topk(3, dim=1).values
    return (others - own) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropies, "dlr": dlr}


def gradients(
    classify: Classify, images: Tensor, labels: Tensor, loss: Loss, answers: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of each image's loss, the loss [n] and the mean logits [n, k]; a network that answers at
    random is asked ``answers`` times, and the gradient is that of its mean answer.
    """
    x = images.detach().requires_grad_(True)
    logits = classify(x) if answers == 1 else torch.stack([classify(x) for _ in range(answers)]).mean(0)
    each = loss(logits, labels)
    if not each.requires_grad:  # a target may be cut off from its images altogether
        return torch.zeros_like(images), each.detach(), logits.detach()
    (found,) = torch.autograd.grad(each.sum(), x, allow_unused=True, materialize_grads=True)
    return found, each.detach(), logits.detach()


def projected(x: Tensor, images: Tensor, eps: float) -> Tensor:
    """The nearest picture to ``x`` that differs from ``images`` by at most ``eps``."""
    return (images + (x - images).clamp(-eps, eps)).clamp(0, 1)


class Attacked(NamedTuple):
    """What became of images under an attack."""

    right: Tensor  # bool [n], whether the class is still the label
    loss: Tensor  # [n], the cross entropy
    early: Tensor  # bool [n], whether it still was so after a quarter of the steps


def pgd(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    iterations: int,
    start: Tensor | None = None,
    answers: int = 1,
) -> Attacked:
    """``iterations`` steps of length ``step`` along the sign of the cross entropy's gradient, from the images
    or from ``start``; judged where the last one ends.
    """
    x = images if start is None else projected(start, images, eps)
    early = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    quarter = max(1, iterations // 4)
    for number in range(iterations):
        gradient, _, logits = gradients(classify, x, labels, cross_entropies, answers)
        if number == quarter:
            early = logits.argmax(1) == labels
        x = projected(x + step * gradient.sign(), images, eps)
    with torch.no_grad():
        logits = torch.stack([classify(x) for _ in range(answers)]).mean(0)
    right = predicted_classes(logits) == labels
    return Attacked(right, cross_entropies(logits, labels), right if iterations <= quarter else early)


def checkpoints(iterations: int) -> list[int]:
    """The steps after which AutoPGD looks back, of so many: the first, then shorter and shorter intervals."""
    interval, shorter, shortest = (max(int(share * iterations), 1) for share in (_FIRST, _SHORTER, _SHORTEST))
    found = [interval]
    while found[-1] < iterations:
        interval = max(interval - shorter, shortest)
        found.append(found[-1] + interval)
    return found


class AutoAttacked(NamedTuple):
    """What became of images under AutoPGD."""

    right: Tensor  # bool [n], whether no step made the class another one
    best: Tensor  # [n], the largest loss that was found


def auto_pgd(
    classify: Classify,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    iterations: int,
    loss: Loss = cross_entropies,
    start: Tensor | None = None,
    answers: int = 1,
    stop: bool = False,
) -> AutoAttacked:
    """AutoPGD from the images or from ``start``. ``stop``: images that were wrong once are attacked no
    further, from the next checkpoint on; what is right is the same with it and without.
    """
    x = images if start is None else projected(start, images, eps)
    gradient, losses, logits = gradients(classify, x, labels, loss, answers)
    right = logits.argmax(1) == labels
    best, best_x, best_gradient = losses.clone(), x.clone(), gradient.clone()
    last_x, last_losses = x.clone(), torch.zeros_like(losses)  # as released: the first step is held to 0
    size = torch.full((len(x), 1, 1, 1), 2 * eps, dtype=x.dtype, device=x.device)
    rising = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    halved = torch.ones(len(x), dtype=torch.bool, device=x.device)
    at_checkpoint = losses.clone()
    every, since = checkpoints(iterations), 0
    rows = torch.arange(len(x), device=x.device)  # of the images that are still attacked
    right_of_all, best_of_all = right.clone(), best.clone()
    for number in range(iterations):
        forward = projected(x + size * gradient.sign(), images, eps)
        momentum = 1.0 if number == 0 else _MOMENTUM
        moved = x + momentum * (forward - x) + (1 - momentum) * (x - last_x)
        x, last_x = projected(moved, images, eps), x
        gradient, losses, logits = gradients(classify, x, labels, loss, answers)
        right &= logits.argmax(1) == labels
        rising += losses > last_losses
        last_losses = losses
        better = losses > best
        best = torch.where(better, losses, best)
        best_x = torch.where(better[:, None, None, None], x, best_x)
        best_gradient = torch.where(better[:, None, None, None], gradient, best_gradient)
        right_of_all[rows], best_of_all[rows] = right, best
        since += 1
        if number + 1 in every:
            slow = rising <= _RISING * since
            stuck = ~halved & (best <= at_checkpoint)
            halved = slow | stuck
            size = torch.where(halved[:, None, None, None], size / 2, size)
            x = torch.where(halved[:, None, None, None], best_x, x)
            gradient = torch.where(halved[:, None, None, None], best_gradient, gradient)
            at_checkpoint, rising, since = best.clone(), torch.zeros_like(rising), 0
            if stop and not bool(right.all()):  # here, where it is waited for the device a few times in all
                kept = right
                if not bool(kept.any()):
                    break
                rows, images, labels, right = rows[kept], images[kept], labels[kept], right[kept]
                x, last_x, last_losses, gradient = x[kept], last_x[kept], last_losses[kept], gradient[kept]
                best, best_x, best_gradient = best[kept], best_x[kept], best_gradient[kept]
                size, rising, halved = size[kept], rising[kept], halved[kept]
                at_checkpoint = at_checkpoint[kept]
    return AutoAttacked(right_of_all, best_of_all)
