"""The prior of GMI, also the general GAN of the KedMI, LOMMA and PLG-MI benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled
from midre_exp.plan.ranges import Count, NonNegative
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.gmi_networks import GMICritic, GMIGenerator
from midre_exp.priors.gan.training import GanTraining, sample_latents, train
from midre_exp.priors.gan.wgan import critic_step, generator_loss
from midre_exp.priors.gan_prior import GanPrior
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim


@dataclass(kw_only=True, eq=False, repr=False)
class GMIPrior(GanPrior):
    """A WGAN-GP on public images, one for all targets (Zhang et al., CVPR 2020): the critic ascends
    E D(x) - E D(G(z)) - w · E (|grad D| - 1)^2, the generator E D(G(z)).
    """

    critic_width: Count | None  # channels of the critic at half resolution, doubled per level; None: as width
    epochs: Count  # the critic's passes over the public images
    steps: Count | None  # the critic's steps, instead of epochs if not None
    critic_steps: Count  # critic steps per generator step
    gp_weight: NonNegative  # w, of the gradient penalty
    gp_every: Count  # the penalty comes at every n-th critic step, with n times its weight; 1: official

    required_files = ("generator", "critic")

    def __post_init__(self) -> None:
        """Check the options and make both networks."""
        super().__post_init__()
        require_counts(
            "attack.prior",
            critic_width=self.critic_width,
            epochs=self.epochs,
            steps=self.steps,
            critic_steps=self.critic_steps,
            gp_every=self.gp_every,
        )
        require_numbers("attack.prior", gp_weight=self.gp_weight)
        self.generator = GMIGenerator(
            latent_dim=self.latent_dim, width=self.width, image_size=self.image_size
        )
        self.critic = GMICritic(width=self.critic_width or self.width, image_size=self.image_size)

    def realism(self, images: Tensor) -> Tensor:
        """The critic's scores, [n]."""
        scores: Tensor = self.critic(images)
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
        """Train on ``public``, or load published weights; returns the final estimate of the Wasserstein
        distance and gradient penalty.
        """
        if self.load_published():
            return {}
        device = runtime.device
        images = self.training_images(public).to(device)
        batches = Shuffled(len(images), self.batch_size, seed=seed, purpose="epoch", device=device)
        gan = GanTraining(
            self.generator,
            self.critic,
            lr=self.lr,
            betas=self.betas,
            ema=self.ema,
            device=device,
            numerics=runtime.numerics,
        )

        def step(number: int, previous: Tensor) -> Tensor:
            real = to_float(images[batches.rows(number)])
            draws = seeding.generator(seed, "prior", "step", number)
            latents = seeding.normal(draws, 2, len(real), self.latent_dim, device=device)
            alpha = seeding.uniform(draws, len(real), 1, 1, 1, device=device)
            numbers = critic_step(
                gan, real, latents[0], alpha, gp_weight=self.gp_weight, gp_every=self.gp_every, step=number
            )
            if (number + 1) % self.critic_steps == 0:
                gan.generator_step(generator_loss(gan.judge(gan.generate(latents[1]))))
            return numbers

        shown = sample_latents(self.latent_dim, seed, device)
        numbers = train(
            gan,
            step,
            steps=self.steps or self.epochs * batches.per_epoch,
            names=("wasserstein", "gradient_penalty"),
            samples=lambda: self.generate(shown),
            remedy="lower attack.prior.lr or raise attack.prior.gp_weight",
            title="training the GAN",
            work=work,
            runtime=runtime,
        )
        gan.finish(self.latent_dim, seed)
        return numbers
