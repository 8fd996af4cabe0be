"""Expectation over transformations: an attack's loss, its search and its selection as means over randomly
changed copies of each image (EOT, Athalye et al. 2018).

With noise or crops as the change it is AlignMI's gradient averaging; with what a defense does to its training
images, an attacker who knows the defense; with none, the mean over a target's own randomness.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from attacks.parts.checks import at_least_one, one_of
from midre_exp.data.transforms import View
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count
from midre_exp.seeding import ItemRNG

#: What the critic of a prior judges while the target is shown copies.
Judged = Literal["image", "copies", "nothing"]


@dataclass(kw_only=True, eq=False)
class Expectation:
    """(1 / copies) sum_j L(v_j(x)), v_j drawn anew for every item, copy and step.

    The copies are of what the target would be shown, after the attack's own steps; the image itself is not
    among them. They are one batch, so that a step is one forward and one backward pass.
    """

    copies: Count  # per image and step (AlignMI: 50, of GMI's crops 30)
    views: Sequence[View]  # v: one after the other; []: copies alike, for a target that answers at random
    search: bool  # starts are chosen by the mean probability over copies
    optimisation: bool  # the gradient is that of the mean loss over copies
    #: Results are chosen by what the target says of copies: the same change for all that are compared.
    selection: bool
    #: In GMI and KedMI, whose losses have a critic: the image | the attack's own copies of it (AlignMI with
    #: KedMI) | nothing, the term is left out (AlignMI with GMI).
    critic: Judged = "image"

    def __post_init__(self) -> None:
        at_least_one(copies=self.copies)
        one_of("attack.expectation.critic", self.critic, Judged)
        for number, view in enumerate(self.views):
            if not callable(view):
                raise ConfigError(
                    f"attack.expectation.views[{number}] is a {type(view).__name__}, which changes no "
                    "images; give attacks.GaussianNoise, attacks.CropMirrorRotate or another view"
                )

    def of(
        self,
        images: Tensor,
        rng: ItemRNG,
        name: str,
        step: int,
        ask: Callable[[Tensor, ItemRNG], Tensor],
    ) -> Tensor:
        """The mean of ``ask`` over the copies of images [n, 3, h, w], [n, ...].

        ``rng`` has a row for each image, or one for all of them. ``ask`` is given all copies
        [copies * n, 3, h, w], all images' first copies first, with the streams of as many rows, and answers
        [copies * n, ...].
        """
        streams = rng.copies(self.copies)
        if len(rng) < len(images):
            streams = streams.repeated(len(images))
        copies = self.changed(images.repeat(self.copies, 1, 1, 1), streams, name, step)
        answers: Tensor = ask(copies, streams).unflatten(0, (self.copies, len(images))).mean(0)
        return answers

    def changed(self, images: Tensor, rng: ItemRNG, name: str, step: int) -> Tensor:
        """Each image [n, 3, h, w] changed once, by its row of ``rng``."""
        for number, view in enumerate(self.views):
            images = view(images, rng, f"{name} {number}", step)
        return images
