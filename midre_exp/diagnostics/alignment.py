"""Whether the gradients of a target lie along the pictures that an attacker's prior can make: who inverts
through a generator only gets as far as they do (AlignMI, Peng et al. 2025).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from midre_exp.diagnostics.intervals import measured
from midre_exp.memory.batches import in_batches
from midre_exp.priors.base import Prior
from midre_exp.seeding import generator, normal
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import Step

#: Singular values below this share of the largest count as none.
_RANK = 1e-6
#: Bytes that the Jacobians of the pictures that are looked at together take.
_ROOM = 1e9
#: What the gradient is of: the cross entropy of the attacked class, or all logits together (official).
LOSSES = ("cross_entropy", "logits")


class Aligned(NamedTuple):
    """Of each of n images."""

    ratio: Tensor  # float64 [n], in [0, 1]: the share of the gradient's length along the manifold
    rank: Tensor  # int64 [n], how many directions that has
    chance: Tensor  # float64 [n]: about the ratio of a random direction


def jacobian(picture: Callable[[Tensor], Tensor], latents: Tensor, columns: int | None = None) -> Tensor:
    """The Jacobian of pictures [n, 3, h, w] at latents [n, k], one latent dimension of all pictures after the
    other: [n, 3 h w, k], or its first ``columns``. Each picture must depend on its own latent alone.
    """
    # A product with a direction is the gradient of a gradient that is linear in its weights: whatever can be
    # differentiated twice goes, also operations that know no forward mode.
    z = latents.detach().requires_grad_(True)
    made = picture(z)
    weights = torch.zeros_like(made, requires_grad=True)
    (pulled,) = torch.autograd.grad(made, z, weights, create_graph=True)
    found = []
    for number in range(latents.shape[1] if columns is None else columns):
        (column,) = torch.autograd.grad(pulled[:, number].sum(), weights, retain_graph=True)
        found.append(column.flatten(1))
    return torch.stack(found, dim=2)


def alignment(gradients: Tensor, tangents: Tensor) -> Aligned:
    """How much of gradients [n, ...] lies in the span of ``tangents`` [n, d, k]; d is the size of a picture.
    An image whose gradient is nothing has a ratio of 0.
    """
    d = tangents.shape[1]
    flat = gradients.flatten(1).double()
    ratio, rank = [], []
    for gradient, columns in zip(flat, tangents.double(), strict=True):
        directions, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
        kept = directions[:, sizes > _RANK * sizes[0]]
        length = gradient.norm()
        ratio.append((kept.T @ gradient).norm() / length if length > 0 else length)
        rank.append(kept.shape[1])
    of_rank = torch.tensor(rank, dtype=torch.int64)
    return Aligned(torch.stack(ratio).cpu(), of_rank, (of_rank.double() / d).sqrt())


def align(
    model: Classifier,
    prior: Prior,
    image_to_target: Sequence[Step],
    *,
    images: int,
    classes: int,
    loss: str,
    seed: int,
) -> dict[str, Any]:
    """Of random pictures of the prior, as the target gets them: the share of the length of the target's
    gradient that lies along what the prior can change about them, beside that of a random direction. Picture
    i is drawn, where the prior draws classes, and judged, by its cross entropy, as class i, modulo
    ``classes``.
    """
    device = next(model.parameters()).device
    prior.train()  # which ends a form for fixed weights, that can be differentiated once alone
    prior.eval().requires_grad_(False)
    latents = normal(generator(seed, "alignment"), images, prior.latent_dim)
    labels = torch.arange(images) % classes
    pixels: list[int] = []

    def look(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        some, wanted = latents[part].to(device), labels[part].to(device)

        def picture(z: Tensor) -> Tensor:
            made = prior.generate(z, wanted)
            for transform in image_to_target:
                made = transform(made)
            return made

        with torch.no_grad():
            seen = picture(some)
        seen.requires_grad_(True)
        logits = model(seen).logits
        value = F.cross_entropy(logits, wanted, reduction="sum") if loss == LOSSES[0] else logits.sum()
        (gradient,) = torch.autograd.grad(value, seen)
        pixels.append(seen[0].numel())
        found = alignment(gradient, jacobian(picture, some))
        return found.ratio, found.rank, found.chance

    size = 3 * prior.image_size**2 * prior.latent_dim * 4
    parts = list(in_batches(look, images, max(1, int(_ROOM / size)), what="pictures"))
    ratio, rank, chance = (torch.cat(each) for each in zip(*parts, strict=True))
    return {
        "images": images,
        "loss": loss,
        "ratio": measured(ratio),
        "chance": float(chance.mean()),
        "rank": int(rank.max()),
        "pixels": pixels[0],
    }
