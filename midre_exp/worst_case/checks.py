"""What a target itself tells of masked gradients, and what it likes: on images that are there, in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from midre_exp.data.base import to_float
from midre_exp.memory.batches import in_batches
from midre_exp.threat import ScoreVictim, WhiteBoxVictim
from midre_exp.worst_case.alarms import ROUNDED

#: How often the target is asked the same.
_REPEATS = 5
#: Of the attack on pixels: Adam's steps at each of its rates, and the confidence that ends it. Nothing bounds
#: the pixels: logits of a target that was trained little move little.
_RATES, _STEPS, _CONFIDENT = (0.05, 0.5, 5.0), 100, 0.99
_LOOKED_AT = 10  # steps between two looks at whether all are done, for each waits for the device
#: The share of a side that each of the common views shows.
_CROP = 0.9
_BATCH = 256


@dataclass(frozen=True)
class Checks:
    """Of a few images, each with a label that is not its own."""

    zero_gradient_share: float
    repeat_max_difference: float
    probabilities: bool
    pixels_share: float


def check_target(
    victim: WhiteBoxVictim, images: Tensor, labels: Tensor, deployed: ScoreVictim | None = None
) -> Checks:
    """``images`` float [n, 3, h, w] in [0, 1] on the target's device, ``labels`` int64 [n] to go for;
    ``deployed``: the target behind what it answers at deployment, asked again as often.
    """
    with torch.no_grad():
        answers = [victim(images).logits.double() for _ in range(_REPEATS)]
    differences = [repeat_max_difference(answers)]
    if deployed is not None:
        differences.append(repeat_max_difference([deployed.scores(images).double() for _ in range(_REPEATS)]))
    return Checks(
        zero_gradient_share(victim, images, labels),
        max(differences),
        look_like_probabilities(answers[0]),
        pixels_share(victim, images, labels),
    )


def zero_gradient_share(victim: WhiteBoxVictim, images: Tensor, labels: Tensor) -> float:
    """Share of images whose gradient of the cross entropy is nothing but zeros, or not finite. One that the
    target already takes for its label with certainty has nothing to climb and does not count.
    """
    x = images.clone().requires_grad_(True)
    logits = victim(x).logits
    loss = cross_entropy(logits, labels, reduction="sum")
    gradient = torch.zeros_like(x)
    if loss.requires_grad:  # a target may be cut off from its images altogether
        gradient = torch.autograd.grad(loss, x, allow_unused=True, materialize_grads=True)[0]
    flat = gradient.flatten(1)
    broken = (flat == 0).all(1) | ~flat.isfinite().all(1)
    certain = logits.detach().softmax(1).gather(1, labels[:, None]).squeeze(1) == 1
    return float((broken & ~certain).double().mean())


def repeat_max_difference(answers: Sequence[Tensor]) -> float:
    """The largest distance of two answers [n, k] to the same images, each scaled to length 1."""
    scaled = [answer / answer.norm(dim=1, keepdim=True).clamp_min(1e-12) for answer in answers]
    return max(float((a - b).norm(dim=1).max()) for a, b in combinations(scaled, 2))


def look_like_probabilities(logits: Tensor) -> bool:
    """Whether all of [n, k] lie in [0, 1] and all rows sum up to 1, but for rounding."""
    within = (logits > -ROUNDED) & (logits < 1 + ROUNDED)
    return bool(within.all()) and bool(((logits.sum(1) - 1).abs() < ROUNDED).all())


def pixels_share(victim: WhiteBoxVictim, images: Tensor, labels: Tensor) -> float:
    """Share of images that become their label with confidence when single pixels are changed without bound:
    with working gradients all of them.
    """
    reached = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    for rate in _RATES:
        x = images.clone().requires_grad_(True)
        adam = torch.optim.Adam([x], lr=rate)
        for step in range(_STEPS):
            logits = victim(x).logits
            reached |= logits.detach().softmax(1).gather(1, labels[:, None]).squeeze(1) >= _CONFIDENT
            loss = cross_entropy(logits, labels, reduction="sum")
            if not loss.requires_grad or (step % _LOOKED_AT == 0 and bool(reached.all())):
                break
            gradient = torch.autograd.grad(loss, x, allow_unused=True, materialize_grads=True)[0]
            x.grad = gradient.nan_to_num(0.0, 0.0, 0.0)
            adam.step()
    return float(reached.double().mean())


def liking(victim: WhiteBoxVictim, images: Tensor, labels: Tensor, device: torch.device) -> Tensor:
    """How much the target takes each image, uint8 [n, 3, h, w], for its label [n]: its mean confidence,
    float64 [n], over the same views of every image: whole, four corners and the middle, each also mirrored.
    """

    @torch.no_grad()
    def look(part: slice) -> Tensor:
        x, wanted = to_float(images[part].to(device)), labels[part].to(device)
        seen = [victim(view).logits.double().softmax(1).gather(1, wanted[:, None]) for view in views_of(x)]
        return torch.cat(seen, dim=1).mean(1).cpu()

    return torch.cat(list(in_batches(look, len(images), _BATCH, what="images", victim=victim)))


def views_of(images: Tensor) -> list[Tensor]:
    """The common views of images [n, 3, h, w], at their own size."""
    height, width = images.shape[-2:]
    rows, columns = (max(1, round(_CROP * side)) for side in (height, width))
    places = [
        *product((0, height - rows), (0, width - columns)),
        ((height - rows) // 2, (width - columns) // 2),
    ]
    crops = [images[..., top : top + rows, left : left + columns] for top, left in places]
    resized = [interpolate(crop, (height, width), mode="bilinear", antialias=True) for crop in crops]
    return [view for whole in (images, *resized) for view in (whole, whole.flip(-1))]
