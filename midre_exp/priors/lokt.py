"""The prior of LOKT: a conditional GAN on public images that learns the target's classes from its labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count, Natural, NonNegative
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.acgan import ACGANDiscriminator, discriminator_step, generator_step
from midre_exp.priors.gan.plgmi_networks import PLGMIGenerator
from midre_exp.priors.gan.training import SAMPLES, GanTraining, sample_latents, train
from midre_exp.priors.gan_prior import GanPrior
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim, LabelVictim


@dataclass(kw_only=True, eq=False, repr=False)
class TACGANPrior(GanPrior):
    """Target-assisted ACGAN, one for every target (Nguyen et al., NeurIPS 2023): PLG-MI's generator against a
    discriminator that also names classes, which the target's labels of generated images teach it.
    """

    num_classes: int  # of the target
    steps: Count  # of the generator, each followed by discriminator_steps
    warmup_steps: Natural  # of these the first, in which there are no classes and the target is not asked
    discriminator_steps: Count  # after each generator step, each asking the target about batch_size images
    class_weight: NonNegative  # alpha, of the classes in both losses; 0: an unconditional GAN
    image_to_target: Sequence[Callable[[Tensor], Tensor]]  # named steps before the target, as in the attack

    uses_target = True
    required_files = ("generator",)  # the inversion needs no discriminator

    def __post_init__(self) -> None:
        """Check the options and make both networks."""
        super().__post_init__()
        require_counts("attack.prior", steps=self.steps, discriminator_steps=self.discriminator_steps)
        require_numbers("attack.prior", class_weight=self.class_weight)
        if self.warmup_steps > self.steps:
            raise ConfigError(
                f"attack.prior.warmup_steps={self.warmup_steps} exceeds attack.prior.steps={self.steps}, so "
                "no class would ever be learned; lower it"
            )
        sizes = {"num_classes": self.num_classes, "width": self.width, "image_size": self.image_size}
        self.generator = PLGMIGenerator(latent_dim=self.latent_dim, **sizes)
        self.discriminator = ACGANDiscriminator(**sizes)

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] of latents [n, latent_dim] and labels int64 [n], in (-1, 1), the range of
        tanh, though trained on [0, 1]. Raises ConfigError without labels.
        """
        if labels is None:
            raise ConfigError("prior tacgan generates images of given labels; use an attack that passes them")
        images: Tensor = self.generator(latents, labels)
        return images

    def realism(self, images: Tensor) -> Tensor:
        """The discriminator's scores, [n]."""
        scores: Tensor = self.discriminator(images)[0]
        return scores.squeeze(1)

    def class_logits(self, images: Tensor) -> Tensor:
        """What the discriminator takes images for, [n, k]."""
        logits: Tensor = self.discriminator(images)[1]
        return logits

    @property
    def queries(self) -> int:
        """How many images the target labels in training."""
        asked = self.steps - self.warmup_steps if self.class_weight else 0
        return asked * self.discriminator_steps * self.batch_size

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None = None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Train on ``public`` and the victim's labels of what is generated, or load published weights;
        returns the last losses and the ``queries``.

        Raises ConfigError for a victim that shows more than labels.
        """
        if self.load_published():
            return {}
        images = self.training_images(public)
        if not isinstance(victim, LabelVictim):
            raise ConfigError("prior tacgan asks the target for labels alone; use it with attack lokt")
        device, classes, size = runtime.device, self.num_classes, self.batch_size
        self.to(device)

        def target(fake: Tensor) -> Tensor:
            for resize in self.image_to_target:
                fake = resize(fake)
            return victim.labels(fake)

        images = images.to(device)
        batches = Shuffled(len(images), size, seed=seed, purpose="epoch", device=device)
        gan = GanTraining(
            self.generator,
            self.discriminator,
            lr=self.lr,
            betas=self.betas,
            ema=self.ema,
            device=device,
            numerics=runtime.numerics,
        )
        count = self.discriminator_steps + 1

        def step(number: int, previous: Tensor) -> Tensor:
            draws = seeding.generator(seed, "prior", "step", number)
            latents = seeding.normal(draws, count, size, self.latent_dim, device=device)
            wanted = seeding.integers(draws, 0, classes, count, size, device=device)
            warm = number < self.warmup_steps
            alpha = 0.0 if warm else self.class_weight
            of_generator = generator_step(gan, latents[0], wanted[0], alpha)
            losses = []
            for turn in range(1, count):
                rows = batches.rows(number * self.discriminator_steps + turn - 1)
                real = to_float(images[rows])
                # 8-bit images made continuous: noise of one grey level, never beyond white by more than that
                real += seeding.uniform(draws, *real.shape, device=device) / 256
                asked = target if alpha else None
                losses.append(discriminator_step(gan, real, latents[turn], wanted[turn], asked, alpha))
            return torch.cat((torch.stack(losses).mean(0), of_generator))

        shown = sample_latents(self.latent_dim, seed, device), torch.arange(SAMPLES, device=device) % classes
        numbers = train(
            gan,
            step,
            steps=self.steps,
            names=("discriminator_loss", "discriminator_classes", "generator_loss", "generator_classes"),
            samples=lambda: self.generate(*shown).clamp(0, 1),
            remedy="lower attack.prior.lr",
            title="training the target-assisted GAN",
            work=work,
            runtime=runtime,
        )
        gan.finish(self.latent_dim, seed, classes)
        return {**numbers, "queries": self.queries}
