"""SSD, Stealthy Shield Defense: the deployed target answers with another distribution, as near to what is
usual for a class drawn at random as a budget of distortion lets it come (Zhuang et al., ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from defenses.base import Defense, Informed
from defenses.parts.options import check_choice
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative, Positive
from midre_exp.plan.validate import require_numbers
from midre_exp.seeding import generator, hashed, uniform
from midre_exp.targets.base import Classifier

Seed = Literal["image", "call"]
#: Changed copies of an image whose answers an informed attacker averages; the first is the image itself.
COPIES = 8
_TINY = torch.finfo(torch.float64).tiny


def class_means(probabilities: Tensor, labels: Tensor) -> Tensor:
    """D' float64 [k, k]: row c is the mean of ``probabilities`` [n, k] of the images of class c. Raises
    ConfigError for a class without any.
    """
    counts = torch.bincount(labels, minlength=probabilities.shape[1])
    if bool((counts == 0).any()):
        missing = int((counts == 0).nonzero()[0])
        raise ConfigError(
            f"defense.ssd needs a held-out private image of every class, and class {missing} has none; use "
            "data with test images of each identity"
        )
    sums = torch.zeros(len(counts), len(counts), dtype=torch.float64, device=labels.device)
    return sums.index_add(0, labels, probabilities.double()) / counts[:, None]


def class_law(probabilities: Tensor, temperature: float) -> Tensor:
    """The law by which a class is drawn, [n, k]: the softmax of the *probabilities* [n, k] over T."""
    return (probabilities / temperature).softmax(1)


def drawn_classes(law: Tensor, numbers: Tensor) -> Tensor:
    """The class at which each ``law`` [n, k] has gathered more than its number in [0, 1), int64 [n]."""
    return (law.cumsum(1) <= numbers[:, None]).sum(1).clamp_max(law.shape[1] - 1)


def entropy(probabilities: Tensor) -> Tensor:
    """Of each row [n, k], in nats, [n]; 0 log 0 is 0."""
    return -torch.xlogy(probabilities, probabilities).sum(1)


def water_filled(given: Tensor, wanted: Tensor, budget: Tensor) -> Tensor:
    """The distributions p [n, k] that minimise KL(p || wanted) subject to ||p - given||_1 <= budget [n], of
    distributions ``given`` and ``wanted`` [n, k].

    Where the budget reaches as far, p is ``wanted``. Else p = min(max(given, a wanted), b wanted): what is
    raised adds up to half of the budget, and so does what is lowered. Both sums are piecewise linear in a and
    b, with kinks at given / wanted, so one sort gives both.
    """
    wanted = wanted.clamp_min(_TINY)
    ratios, order = (given / wanted).sort(dim=1)
    f, q, half = given.gather(1, order), wanted.gather(1, order), budget[:, None] / 2
    # a: the ratios up to some place are raised to it, and the next one would take more than there is
    below_f, below_q = f.cumsum(1), q.cumsum(1)
    following = torch.cat([ratios[:, 1:], torch.full_like(ratios[:, :1], torch.inf)], 1)
    raised = _at_first(following * below_q - below_f >= half, (below_f + half) / below_q)
    # b: those from some place on are lowered to it, and the one before would give more
    above_f, above_q = (part.flip(1).cumsum(1) for part in (f, q))
    before = torch.cat([ratios.flip(1)[:, 1:], torch.zeros_like(ratios[:, :1])], 1)
    lowered = _at_first(above_f - before * above_q >= half, (above_f - half) / above_q)
    clipped = torch.minimum(torch.maximum(given, raised * wanted), lowered * wanted)
    reached = (wanted - given).abs().sum(1) <= budget
    found = torch.where(reached[:, None], wanted, clipped)
    return torch.where(budget[:, None] > 0, found, given)


def _at_first(holds: Tensor, values: Tensor) -> Tensor:
    """The value in each row [n, k] at the first place where ``holds``, or at the last, [n, 1]."""
    holds = holds.clone()
    holds[:, -1] = True
    return values.gather(1, holds.to(torch.uint8).argmax(1, keepdim=True))


@dataclass(kw_only=True, eq=False)
class SSD(Defense):
    """Answer p = argmin KL(p || D'_c) with ||p - f||_1 <= eps H(f) instead of f: c ~ softmax(f / T), H the
    entropy, D'_c the mean answer to held-out images of class c (Zhuang et al. 2025, Alg. 1-3).
    """

    acts_at: ClassVar[frozenset[str]] = frozenset({"deployment"})

    eps: NonNegative  # budget of distortion in L1 per nat of entropy; 0 answers f itself
    temperature: Positive  # T of the softmax of probabilities by which the class is drawn
    #: image: the draw is a function of the picture in 8 bits and of the target; call: anew at every query.
    seed: Seed
    _means: Tensor | None = field(default=None, init=False, repr=False)  # D' [k, k]
    _secret: str = field(default="", init=False, repr=False)
    _draws: torch.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        require_numbers("defense.ssd", eps=self.eps)
        if not self.temperature > 0:
            raise ConfigError(f"defense.ssd.temperature={self.temperature} must be above 0")
        check_choice("ssd.seed", self.seed, get_args(Seed))

    @property
    def label(self) -> str:
        return f"SSD {self.eps:g}"

    def calibrate(
        self, probabilities: Tensor, images: Tensor, labels: Tensor, *, key: str
    ) -> Mapping[str, Tensor]:
        """D', unless nothing is answered by it."""
        return {} if self.eps == 0 else {"class_means": class_means(probabilities, labels)}

    def deploy(self, calibrated: Mapping[str, Tensor], *, key: str) -> None:
        self._means, self._secret = calibrated.get("class_means"), key
        self._draws = generator(0, "ssd", key) if self.seed == "call" else None

    def answer(self, probabilities: Tensor, images: Tensor) -> Tensor:
        """In double precision, then as precise as it was given; what is no number stays none."""
        if self.eps == 0:
            return probabilities
        given, wanted = self._given_and_wanted(probabilities, images)
        found = water_filled(given, wanted, self.eps * entropy(given)).to(probabilities.dtype)
        usable = probabilities.isfinite().all(1, keepdim=True)
        return torch.where(usable, found, probabilities)

    def measure_answers(self, probabilities: Tensor, images: Tensor) -> Mapping[str, float]:
        """``replaced``: percent of the answers that are D'_c itself, so that they tell nothing but c."""
        if self.eps == 0 or self.seed == "call":  # whose draws would be others
            return {}
        given, wanted = self._given_and_wanted(probabilities, images)
        reached = (wanted - given).abs().sum(1) <= self.eps * entropy(given)
        return {"replaced": 100 * float(reached.double().mean())}

    def answer_alarms(self) -> Sequence[str]:
        if self.seed == "image":
            return ()
        return (
            "defense.ssd.seed=call draws anew at every query, so an attack in other chunks, or one that was "
            "interrupted, is answered otherwise, and one that asks often enough averages the draws away",
        )

    def informed(self, model: Classifier) -> Informed:
        if self.eps == 0:
            return Informed(reason="answers are the network's own, so the attack is the plain one")
        return Informed(
            asked=[Nudged(copy) for copy in range(COPIES)],
            reason=f"the class that an answer is drawn near to changes with every bit of a picture, so "
            f"{COPIES} copies that differ by a grey level are asked and their answers averaged",
        )

    def _given_and_wanted(self, probabilities: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        """F and D'_c of each image, [n, k] in double precision, f as a distribution."""
        if self._means is None:
            raise RuntimeError("an SSD answers once it is calibrated and deployed")
        given = probabilities.double()
        given = given / given.sum(1, keepdim=True).clamp_min(_TINY)
        if self._draws is None:
            levels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
            numbers = hashed(levels.flatten(1), "ssd", self._secret)
        else:
            numbers = uniform(self._draws, len(images), device=images.device).double()
        return given, self._means[drawn_classes(class_law(given, self.temperature), numbers)]


@dataclass(frozen=True)
class Nudged:
    """An image whose pixels are each a grey level brighter or darker, by a pattern that goes with ``copy``;
    copy 0 is the image itself.
    """

    copy: int

    def __call__(self, images: Tensor) -> Tensor:
        if self.copy == 0:
            return images
        signs = uniform(generator(self.copy, "nudged"), *images.shape[1:], device=images.device) < 0.5
        level = 1 / 255
        return (images + torch.where(signs, level, -level)).clamp(0, 1)
