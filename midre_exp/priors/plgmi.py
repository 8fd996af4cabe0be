"""The prior of PLG-MI (Yuan et al. 2023): a conditional GAN on public images that the target itself has
labelled, pulled towards the target's idea of each class while it is trained. One for every target.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.transforms.view import RandomView
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts
from midre_exp.priors.base import Prior, needed
from midre_exp.priors.gan.cgan import Recipe, train_cgan
from midre_exp.priors.plgmi_networks import Discriminator, Generator
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights import checkpoint
from midre_exp.weights.state_dict import load_checkpoint

_SELECTION = "selection.pt"


class PLGMIPrior(Prior):
    """Pseudo-labels, then a conditional GAN with hinge losses whose generator also pleases the target.

    ``per_class``: public images chosen for each class; the choice is kept with the weights: ``chosen`` int64
    [num_classes, per_class] rows of the public set, most confident first, and ``confidence``, the target's
    softmax there (-1: none were chosen). ``identity_loss``: a function of logits and labels to a loss per
    image; ``view``: the random views of generated images that the target is shown; ``image_to_target``: named
    steps between image and target, as in the attack. ``pretrained``: paths of published weights instead of
    training, ``generator`` and, not needed by the inversion, ``discriminator``. The rest is ``cgan.Recipe``.
    Raises ConfigError for counts below 1, an impossible size, and a discriminator without a generator.
    """

    uses_target = True
    chosen: Tensor
    confidence: Tensor

    def __init__(
        self,
        *,
        num_classes: int,
        latent_dim: int,
        width: int,
        discriminator_width: int | None,
        image_size: int,
        per_class: int,
        steps: int,
        discriminator_steps: int,
        batch_size: int,
        lr: float,
        betas: Sequence[float],
        ema: float,
        identity_weight: float,
        identity_loss: Callable[[Tensor, Tensor], Tensor],
        view: RandomView,
        image_to_target: Sequence[Callable[[Tensor], Tensor]],
        pretrained: Mapping[str, str | None],
    ):
        super().__init__()
        require_counts(
            "attack.prior",
            latent_dim=latent_dim,
            width=width,
            discriminator_width=discriminator_width,
            per_class=per_class,
        )
        self.pretrained = {name: path for name, path in pretrained.items() if path is not None}
        if self.pretrained and "generator" not in self.pretrained:
            raise ConfigError(
                "attack.prior.pretrained has a discriminator without a generator; give attack.prior.pretrained.generator, or null for both"
            )
        self.latent_dim = latent_dim
        self.image_size = image_size
        self.per_class = per_class
        self.recipe = Recipe(
            steps=steps,
            discriminator_steps=discriminator_steps,
            batch_size=batch_size,
            lr=lr,
            betas=betas,
            ema=ema,
            identity_weight=identity_weight,
        )
        self.identity_loss = identity_loss
        self.view = view
        self.image_to_target = tuple(image_to_target)
        self.generator = Generator(
            num_classes=num_classes, latent_dim=latent_dim, width=width, image_size=image_size
        )
        self.discriminator = Discriminator(
            num_classes=num_classes, width=discriminator_width or width, image_size=image_size
        )
        self.register_buffer("chosen", torch.full((num_classes, per_class), -1))
        self.register_buffer("confidence", torch.full((num_classes, per_class), -1.0))

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] of latents [n, latent_dim] and labels int64 [n].

        In (-1, 1), the range of tanh, though trained on [0, 1]: the target gets them as they are, as in the
        official code, and published weights need it. Raises ConfigError without labels.
        """
        if labels is None:
            raise ConfigError("prior plgmi draws people of given labels; use an attack that names them")
        images: Tensor = self.generator(latents, labels)
        return images

    def realism(self, images: Tensor) -> Tensor:
        """The discriminator's scores, [n], as far as they do not depend on a class."""
        scores: Tensor = self.discriminator(images)
        return scores.squeeze(1)

    def fit(
        self, public: ImageSet | None, victim: AnyVictim | None, *, seed: int, work: Path, runtime: Runtime
    ) -> dict[str, float]:
        """Choose images of ``public`` by the victim's scores and train on them, or load published weights.

        Returns the final losses and the share of generated images the target takes for their label, nothing
        when weights were loaded. Raises ConfigError for a victim that shows no gradients, images of another
        size, fewer images than a class is to get, and as ``train_cgan``; CheckpointError for weight files
        that do not fit.
        """
        if self.pretrained:
            for name, path in self.pretrained.items():
                load_checkpoint(self.get_submodule(name), path)
            return {}
        public = needed(public)
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("prior plgmi needs the target's gradients; use it with a white-box attack")
        height, width = public.images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ConfigError(
                f"attack.prior.image_size={self.image_size}, but the public images have {height}x{width} pixels; "
                "make them equal"
            )
        if len(public) < self.per_class:
            raise ConfigError(
                f"attack.prior.per_class={self.per_class} exceeds the {len(public)} public images; lower it"
            )
        self.to(runtime.device)

        def answer(images: Tensor) -> Tensor:
            for step in self.image_to_target:
                images = step(images)
            return victim(images).logits

        saved = checkpoint.load(work / _SELECTION)
        if saved is None:
            chosen, confidence = select(answer, public.images, self.per_class, runtime)
            saved = {"chosen": chosen.cpu(), "confidence": confidence.cpu()}
            checkpoint.save(work / _SELECTION, saved)
        self.chosen.copy_(saved["chosen"])
        self.confidence.copy_(saved["confidence"])
        runtime.tracker.images("chosen", public.images[saved["chosen"][:, 0][:64]], step=0)

        def identity(images: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
            logits = answer(self.view(images, numbers))
            return self.identity_loss(logits, labels), logits.argmax(1) == labels

        return train_cgan(
            self.generator,
            self.discriminator,
            public.images[saved["chosen"].flatten()],
            torch.arange(len(self.chosen)).repeat_interleave(self.per_class),
            self.recipe,
            identity,
            latent_dim=self.latent_dim,
            seed=seed,
            work=work,
            runtime=runtime,
        )


@torch.no_grad()
def select(
    answer: Callable[[Tensor], Tensor], images: Tensor, per_class: int, runtime: Runtime, batch: int = 256
) -> tuple[Tensor, Tensor]:
    """For each class the ``per_class`` images of uint8 [n, 3, h, w] with the largest softmax probability:
    rows and probabilities, both [k, per_class], most confident first, of equal ones the later image first.

    ``answer`` gives logits [b, k] of float images. Every image is shown once; one may serve several classes
    or none.
    """
    best = rows = torch.empty(0, 0)
    starts = range(0, len(images), batch)
    for start in runtime.bar(starts, "labelling public images by the target", total=len(starts)):
        part = to_float(images[start : start + batch].to(runtime.device))
        probabilities = answer(part).softmax(1).T.flip(1)  # later images first, and a stable sort keeps it so
        here = torch.arange(start, start + len(part), device=runtime.device).flip(0).expand_as(probabilities)
        best = torch.cat((probabilities, best), 1) if start else probabilities
        rows = torch.cat((here, rows), 1) if start else here
        best, order = best.sort(dim=1, descending=True, stable=True)
        best, rows = best[:, :per_class], rows.gather(1, order[:, :per_class])
    return rows, best
