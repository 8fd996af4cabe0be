"""The prior of KedMI, also of LOMMA+KedMI: a GAN whose discriminator is taught the attacked target's
answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import Count, NonNegative
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.gmi_networks import GMIGenerator
from midre_exp.priors.gan.kedmi_gan import discriminator_step, generator_step
from midre_exp.priors.gan.kedmi_networks import KedMIDiscriminator
from midre_exp.priors.gan.training import GanTraining, sample_latents, train
from midre_exp.priors.gan_prior import GanPrior
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights import checkpoint

_QUERY = 256  # public images per question to the victim
_SOFT_LABELS = "soft_labels.pt"
_PASSES = (
    "labelled",
    "unlabelled",
    "unlabelled2",
)  # three orders of the public images, shuffled on their own


@dataclass(kw_only=True, eq=False, repr=False)
class KedMIPrior(GanPrior):
    """An inversion-specific GAN on public images, one for every target (Chen et al., ICCV 2021): with
    s = logsumexp of its logits, the discriminator descends CE(D(x), T(x)) + E softplus(s(x)) - E s(x) and
    E softplus(s(G(z))), half each; the generator |E f(G(z)) - E f(x)| + w · H(D(G(z))).
    """

    num_classes: int  # of the target
    critic_width: Count | None  # channels of the discriminator at half resolution; None: as width
    kernels: Count  # minibatch discrimination: views of the features
    kernel_dims: Count  # numbers per view
    epochs: Count  # passes over the public images
    steps: Count | None  # discriminator steps, instead of epochs if not None
    critic_steps: Count  # discriminator steps per generator step
    entropy_weight: NonNegative  # w, of the entropy summed over the batch
    group: Count | None  # consecutive images that share the minibatch discrimination; None: the batch

    uses_target = True
    required_files = ("generator", "discriminator")

    def __post_init__(self) -> None:
        """Check the options and make both networks."""
        super().__post_init__()
        require_counts(
            "attack.prior",
            critic_width=self.critic_width,
            kernels=self.kernels,
            kernel_dims=self.kernel_dims,
            epochs=self.epochs,
            steps=self.steps,
            critic_steps=self.critic_steps,
            group=self.group,
        )
        require_numbers("attack.prior", entropy_weight=self.entropy_weight)
        if self.group is not None and self.batch_size % self.group:
            raise ConfigError(
                f"attack.prior.group={self.group} must divide attack.prior.batch_size={self.batch_size}; "
                "use null for whole batches"
            )
        self.generator = GMIGenerator(
            latent_dim=self.latent_dim, width=self.width, image_size=self.image_size
        )
        self.discriminator = KedMIDiscriminator(
            num_classes=self.num_classes,
            width=self.critic_width or self.width,
            image_size=self.image_size,
            kernels=self.kernels,
            kernel_dims=self.kernel_dims,
        )

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
        victim: AnyVictim | None = None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train on ``public`` and the victim's answers, or load published weights; returns the final losses.

        The victim is queried once per public image: images are not augmented and a victim is in eval mode,
        so an answer never changes. (The official code left the target in train mode by oversight, where
        answers vary with batch and dropout; no victim offers that.) It must be white-box.
        """
        if self.load_published():
            return {}
        device = runtime.device
        images = self.training_images(public)
        batches = [
            Shuffled(len(images), self.batch_size, seed=seed, purpose=name, device=device) for name in _PASSES
        ]
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("KedMI's prior learns from the target's scores; use it with a white-box attack")
        answers = soft_labels(victim, images, work / _SOFT_LABELS, runtime).to(device)
        images = images.to(device)
        gan = GanTraining(
            self.generator,
            self.discriminator,
            lr=self.lr,
            betas=self.betas,
            ema=self.ema,
            device=device,
            numerics=runtime.numerics,
        )

        def step(number: int, previous: Tensor) -> Tensor:
            labelled, unlabelled, unlabelled2 = (part.rows(number) for part in batches)
            draws = seeding.generator(seed, "prior", "step", number)
            latents = seeding.normal(draws, 2, self.batch_size, self.latent_dim, device=device)
            real = to_float(images[torch.cat([labelled, unlabelled])])
            losses = discriminator_step(gan, real, answers[labelled], latents[0], group=self.group)
            of_generator = previous[2]  # stands until the next generator step
            if (number + 1) % self.critic_steps == 0:
                of_generator = generator_step(
                    gan,
                    to_float(images[unlabelled2]),
                    latents[1],
                    entropy_weight=self.entropy_weight,
                    group=self.group,
                )
            return torch.cat((losses, of_generator[None]))

        shown = sample_latents(self.latent_dim, seed, device)
        numbers = train(
            gan,
            step,
            steps=self.steps or self.epochs * batches[0].per_epoch,
            names=("supervised_loss", "unsupervised_loss", "generator_loss"),
            samples=lambda: self.generate(shown),
            remedy="lower attack.prior.lr",
            title="training the GAN",
            work=work,
            runtime=runtime,
        )
        gan.finish(self.latent_dim, seed)
        return numbers


def soft_labels(victim: WhiteBoxVictim, images: Tensor, file: Path, runtime: Runtime) -> Tensor:
    """The victim's class probabilities [n, k] of ``images`` uint8 [n, 3, h, w], on the CPU; asked for once
    and then kept in ``file``.
    """
    saved = checkpoint.load(file)
    if saved is None:

        @torch.no_grad()
        def ask(part: slice) -> Tensor:
            return victim(to_float(images[part].to(runtime.device))).logits.softmax(1).cpu()

        parts = []
        with runtime.shown("querying the target", len(images)) as shown:
            for answers in in_batches(ask, len(images), _QUERY, what="public images", victim=victim):
                parts.append(answers)
                shown.update(len(answers))
        victim.check_answers()
        saved = {"probabilities": torch.cat(parts)}
        checkpoint.save(file, saved)
    probabilities: Tensor = saved["probabilities"]
    return probabilities
