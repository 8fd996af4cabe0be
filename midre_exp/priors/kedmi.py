"""The prior of KedMI (Chen et al. 2021), also of LOMMA+KedMI: a GAN whose discriminator is taught the
attacked target's answers.

The generator is GMI's; the discriminator tells the target's classes apart and compares the images of a batch
with each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet, to_float
from midre_exp.errors import ConfigError
from midre_exp.plan.validate import require_counts
from midre_exp.priors.base import Prior, needed
from midre_exp.priors.gan.kedmi_gan import Recipe, train_kedmi_gan
from midre_exp.priors.gmi import Generator
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights import checkpoint
from midre_exp.weights.state_dict import load_checkpoint

_AT_ONCE = 256  # public images per question to the victim
_ANSWERS = "answers.pt"


def _down(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, kernel, stride=2, padding=kernel // 2),
        nn.InstanceNorm2d(channels_out, affine=True),
        nn.LeakyReLU(0.2),
    )


class MinibatchDiscrimination(nn.Module):
    """Appends to each feature vector [n, d] how close it is to the others of its batch, in ``kernels`` views
    of ``kernel_dims`` numbers.

    M = features T; sum_j exp(-||M_i - M_j||_1) - 1 per view: a sum, so its scale grows with the batch
    (Salimans et al. 2016).
    """

    def __init__(self, features: int, kernels: int, kernel_dims: int):
        super().__init__()
        self.T = nn.Parameter(torch.randn(features, kernels, kernel_dims))

    def forward(self, features: Tensor, group: int | None = None) -> Tensor:
        """Features [n, d + kernels]; every ``group`` consecutive rows, the last ones possibly fewer, are a
        batch of their own.
        """
        views = torch.einsum("nd,dkc->nkc", features, self.T)
        size = min(group or len(views), len(views))
        whole = len(views) - len(views) % size
        near = [_closeness(views[:whole].unflatten(0, (-1, size)))]
        if whole < len(views):
            near.append(_closeness(views[whole:][None]))
        return torch.cat([features, torch.cat(near)], 1)


def _closeness(views: Tensor) -> Tensor:
    """[g * n, kernels] of views [g, n, kernels, dims]: closeness of each row to the other n - 1 of its batch."""
    views = views.transpose(1, 2)
    near = torch.cdist(views, views, p=1.0).neg().exp().sum(-1) - 1  # less itself
    return near.transpose(1, 2).flatten(0, 1)


class MinibatchDiscriminator(nn.Module):
    """Images [n, 3, image_size, image_size] in [0, 1] to features [n, d] and logits [n, num_classes].

    The features are those before minibatch discrimination, d = width * image_size^2 / 64. ``width`` is the
    number of channels at half resolution. The defaults are the official network (KedMI repository,
    discri.py); 32 pixels keep all layers and end in a 2x2 map. Raises ConfigError unless the size is a
    multiple of 16 and at least 32.
    """

    def __init__(
        self,
        *,
        num_classes: int = 1000,
        width: int = 64,
        image_size: int = 64,
        kernels: int = 64,
        kernel_dims: int = 50,
    ):
        super().__init__()
        if image_size < 32 or image_size % 16:
            raise ConfigError(
                f"attack.prior.image_size={image_size} is not supported by KedMI's discriminator; use a multiple of 16, at least 32"
            )
        self.layer1 = _down(3, width, 5)
        self.layer2 = _down(width, 2 * width, 5)
        self.layer3 = _down(2 * width, 4 * width, 5)
        self.layer4 = _down(4 * width, 4 * width, 3)
        features = 4 * width * (image_size // 16) ** 2
        self.mbd1 = MinibatchDiscrimination(features, kernels, kernel_dims)
        self.fc_layer = nn.Linear(features + kernels, num_classes)

    def forward(self, images: Tensor, group: int | None = None) -> tuple[Tensor, Tensor]:
        """Features and logits; every ``group`` consecutive images, the last ones possibly fewer, are a batch
        of their own.

        None: all images are one batch.
        """
        features = self.layer4(self.layer3(self.layer2(self.layer1(images)))).flatten(1)
        return features, self.fc_layer(self.mbd1(features, group))


class KedMIPrior(Prior):
    """Generator and discriminator trained on public images with the soft labels the attacked target gives
    them.

    ``width``, ``critic_width`` (None: as width), ``kernels`` and ``kernel_dims`` size the networks;
    ``epochs`` counts passes over the public images; ``steps``, if not None, is the number of discriminator
    steps instead. ``pretrained`` holds the paths ``generator`` and ``discriminator`` of published weights
    that replace training, or None for both. The rest is ``kedmi_gan.Recipe``. Raises ConfigError for an
    impossible size, group or number of steps, and when one of the two paths is missing.
    """

    uses_target = True

    def __init__(
        self,
        *,
        num_classes: int,
        latent_dim: int,
        width: int,
        critic_width: int | None,
        kernels: int,
        kernel_dims: int,
        image_size: int,
        epochs: int,
        steps: int | None,
        batch_size: int,
        critic_steps: int,
        lr: float,
        betas: Sequence[float],
        entropy_weight: float,
        group: int | None,
        ema: float,
        pretrained: Mapping[str, str | None],
    ):
        super().__init__()
        require_counts(
            "attack.prior",
            latent_dim=latent_dim,
            width=width,
            critic_width=critic_width,
            epochs=epochs,
            steps=steps,
        )
        require_counts(
            "attack.prior", kernels=kernels, kernel_dims=kernel_dims, group=group, batch_size=batch_size
        )
        if group is not None and batch_size % group:
            raise ConfigError(
                f"attack.prior.group={group} must divide attack.prior.batch_size={batch_size}; use null for whole batches"
            )
        self.pretrained = {name: path for name, path in pretrained.items() if path is not None}
        if self.pretrained and set(self.pretrained) != {"generator", "discriminator"}:
            raise ConfigError(
                "attack.prior.pretrained needs the paths of both generator and discriminator, or null for both to train; "
                f"it has only {', '.join(self.pretrained)}"
            )
        self.latent_dim = latent_dim
        self.image_size = image_size
        self.epochs = epochs
        self.recipe = Recipe(
            steps=steps or 0,  # 0: as many as the epochs take
            batch_size=batch_size,
            critic_steps=critic_steps,
            lr=lr,
            betas=betas,
            entropy_weight=entropy_weight,
            group=group,
            ema=ema,
        )
        self.generator = Generator(latent_dim=latent_dim, width=width, image_size=image_size)
        self.discriminator = MinibatchDiscriminator(
            num_classes=num_classes,
            width=critic_width or width,
            image_size=image_size,
            kernels=kernels,
            kernel_dims=kernel_dims,
        )

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] in (0, 1) of latents [n, latent_dim]; the labels play no part."""
        images: Tensor = self.generator(latents)
        return images

    def realism(self, images: Tensor, group: int | None = None) -> Tensor:
        """Logsumexp of the discriminator's logits, [n]: the logit of "real". Depends on the other images of
        the ``group`` (None: all).
        """
        _, logits = self.discriminator(images, group)
        scores: Tensor = logits.logsumexp(1)
        return scores

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train on ``public`` and the victim's answers, or load published weights.

        The victim is asked once per public image: images are not augmented and a victim is in eval mode, so
        an answer never changes. (The official code left the target in train mode by oversight, where answers
        vary with batch and dropout; no victim offers that.) Returns the final losses, nothing when weights
        were loaded. Raises ConfigError for a victim that is not white-box, for images of another size and for
        fewer images than a batch, CheckpointError for weight files that do not fit.
        """
        if self.pretrained:
            for name, path in self.pretrained.items():
                load_checkpoint(self.get_submodule(name), path)
            return {}
        public = needed(public)
        height, width = public.images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ConfigError(
                f"attack.prior.image_size={self.image_size}, but the public images have {height}x{width} pixels; "
                "make them equal"
            )
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("KedMI's prior learns from the target's scores; use it with a white-box attack")
        steps = self.recipe.steps or self.epochs * (len(public) // self.recipe.batch_size)
        return train_kedmi_gan(
            self.generator,
            self.discriminator,
            public.images,
            soft_labels(victim, public.images, work / _ANSWERS, runtime),
            replace(self.recipe, steps=steps),
            latent_dim=self.latent_dim,
            seed=seed,
            work=work,
            runtime=runtime,
        )


def soft_labels(victim: WhiteBoxVictim, images: Tensor, file: Path, runtime: Runtime) -> Tensor:
    """The victim's class probabilities [n, k] of ``images`` uint8 [n, 3, h, w], on the CPU; asked for once
    and then kept in ``file``.
    """
    saved = checkpoint.load(file)
    if saved is None:
        with torch.no_grad():
            parts = [
                victim(to_float(part.to(runtime.device))).logits.softmax(1).cpu()
                for part in runtime.bar(images.split(_AT_ONCE), "asking the target")
            ]
        saved = {"probabilities": torch.cat(parts)}
        checkpoint.save(file, saved)
    probabilities: Tensor = saved["probabilities"]
    return probabilities
