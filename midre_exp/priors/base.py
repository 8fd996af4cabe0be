"""What a prior is to the rest of the project: latents in, images in [0, 1] out, trained on public images or
loaded.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.errors import CheckpointError, ConfigError, DivergedError
from midre_exp.plan.config import build, without
from midre_exp.plan.keys import uses_target
from midre_exp.runtime import Runtime
from midre_exp.seeding import derive
from midre_exp.threat import AnyVictim
from midre_exp.weights.finite import few, not_finite

P = TypeVar("P", bound="Prior")


class Prior(nn.Module):
    """Base of all priors, built by ``_target_`` from ``conf/attack/prior``.

    A prior is a module whose options are dataclass fields (``@dataclass(kw_only=True, eq=False,
    repr=False)``) and whose ``__post_init__`` checks them and builds the networks.
    """

    #: Whether training looks at the attacked target: if not, one trained prior serves every target of a
    #: sweep, and ``fit`` is given no victim; if so, the constructor is given the target's ``num_classes``.
    uses_target: ClassVar[bool] = False
    latent_dim: int
    image_size: int  # px

    def __new__(cls: type[P], *args: object, **options: object) -> P:
        """An empty module, which the ``__init__`` of a dataclass does not make and its fields may need."""
        prior: P = super().__new__(cls)
        nn.Module.__init__(prior)
        return prior

    def freeze(self) -> None:
        """Make it ready to be attacked with, on the device where it is: in evaluation mode, its weights
        without gradients. To be called again when weights change; ``train`` ends it.
        """
        self.eval().requires_grad_(False)

    @abstractmethod
    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] in [0, 1] of latents [n, latent_dim]; ``labels`` int64 [n] for
        conditional generators.
        """

    @abstractmethod
    def realism(self, images: Tensor) -> Tensor:
        """How real the prior's own critic finds images: [n], larger is more real."""

    @abstractmethod
    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None = None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train in place on ``runtime.device`` and return final training numbers, none where published
        weights replace training. Continues from the checkpoint in ``work`` if there is one, with the same
        result as an unbroken run.

        ``public`` is None for a prior whose ``pretrained`` names weights, ``victim`` for one without
        ``uses_target``. Raises ConfigError for public images or a victim that cannot be used, DivergedError
        when the losses stop being finite, CheckpointError for weight files that do not fit.
        """

    def training_images(self, public: ImageSet | None) -> Tensor:
        """The public images, uint8 [n, 3, image_size, image_size]. Raises ConfigError when there are none,
        though no published weights are named, and when they have another size.
        """
        if public is None:
            raise ConfigError("a prior without published weights is trained on public images; hand them in")
        height, width = public.images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ConfigError(
                f"attack.prior.image_size={self.image_size}, but the public images have {height}x{width} "
                "pixels; "
                "make them equal"
            )
        return public.images


@torch.no_grad()
def check_images(prior: Prior, *, pretrained: bool) -> None:
    """Draw two images with a prior that is ready. Raises DivergedError unless they and its weights are
    finite; of ``pretrained`` weights CheckpointError, also when both images are the same.
    """
    device = next(prior.parameters(), torch.empty(0)).device
    latents = torch.randn(2, prior.latent_dim, generator=torch.Generator().manual_seed(0)).to(device)
    images = prior.generate(latents, torch.zeros(2, dtype=torch.int64, device=device))
    wrong = not_finite({**prior.state_dict(), "images": images})
    if pretrained and (wrong or bool((images[0] == images[1]).all())):
        what = f"draw what is not finite ({few(wrong)})" if wrong else "draw the same image of every latent"
        raise CheckpointError(
            f"the weights of attack.prior.pretrained {what}; they are damaged or belong to another network"
        )
    if wrong:
        raise DivergedError(f"the prior diverged (not finite: {few(wrong)})", "lower attack.prior.lr")


def initial_prior(
    node: Mapping[str, Any], trusted: tuple[str, ...] = (), *, num_classes: int | None = None
) -> Prior:
    """The untrained prior a node of conf/attack/prior describes, initialised from the node's own ``seed``.

    A class with ``uses_target`` is also given ``num_classes``, how many classes the target has.
    """
    known = {"num_classes": num_classes} if uses_target(node, trusted) else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(node["seed"], "prior", "init"))
        prior: Prior = build(without(node, "seed", "name"), kind=Prior, trusted=trusted, **known)
    return prior
