"""The prior of Diff-MI: a diffusion model of the public images that the target takes most for each of its
classes, and its tuning against the target.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, NonNegative, Positive, Probability
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.base import Prior
from midre_exp.priors.diffusion.network import NoiseLevels, make_unet
from midre_exp.priors.diffusion.training import DiffusionTraining
from midre_exp.priors.diffusion.tuning import TargetTuning
from midre_exp.priors.gan.training import SAMPLES, require_optimiser, sample_latents, train
from midre_exp.priors.plgmi import SELECTION, fill_selection
from midre_exp.runtime import Runtime
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights import checkpoint

_TRAINED = "trained.pt"
#: Where ``realism`` looks, as shares of all noise levels.
_LOOKS = (0.05, 0.15, 0.3)


@dataclass(kw_only=True, eq=False, repr=False)
class DDPMPrior(Prior):
    """A class-conditional noise predictor e on public images x of class y, one for every target (Ho et al.
    2020; as Diff-MI has it, Li et al. 2024): it descends E |e(sqrt(a_t) x + sqrt(1 - a_t) n, t, y) - n|^2.

    Latents are the noise [n, 3 * image_size ** 2] from which images are drawn without further noise (DDIM).
    """

    num_classes: int  # of the target
    image_size: Count  # px; halved once per further multiplier
    width: Count  # channels at full resolution, of the group norms' 32 groups as many as divide it
    multipliers: Sequence[int]  # of the width, by resolution
    blocks: Count  # residual blocks of each resolution
    attention: Sequence[int]  # resolutions, px, with attention after each block; the middle has one anyway
    levels: Count  # noise levels
    beta: tuple[Positive, Positive]  # variance that the first and the last level add
    per_class: Count  # public images selected for each class, the target's most confident
    steps: Count  # of the training
    batch_size: Count  # images per step; the incomplete last batch of an epoch is left out
    lr: LearningRate  # of AdamW
    betas: tuple[BelowOne, BelowOne]  # of AdamW
    ema: BelowOne  # decay per step of the average that replaces the weights; 0: none
    unlabelled: Probability  # probability that a batch is learned without its labels
    guidance: NonNegative  # w: images are drawn by w e(x, t, y) - (w - 1) e(x, t, none); 1: by the first
    drawing_steps: Count  # network calls to draw an image
    image_to_target: Sequence[Callable[[Tensor], Tensor]]  # named steps before the target, as in the attack
    tuning: TargetTuning | None  # against the target, after the training; None: none

    latent_dim: int = field(init=False)
    selection: Tensor = field(init=False)  #: rows of the public set, int64 [num_classes, per_class]; -1: none
    confidence: Tensor = field(init=False)  #: the target's softmax there; -1: none
    generator: nn.Module = field(init=False)  #: the noise predictor

    uses_target = True

    def __post_init__(self) -> None:
        """Check the options and make the untrained network and the empty selection, which is kept with the
        weights. Raises ConfigError without the library diffusers.
        """
        require_counts(
            "attack.prior",
            width=self.width,
            blocks=self.blocks,
            levels=self.levels,
            per_class=self.per_class,
            steps=self.steps,
            drawing_steps=self.drawing_steps,
        )
        require_optimiser(batch_size=self.batch_size, lr=self.lr, betas=self.betas, ema=self.ema)
        require_numbers("attack.prior", guidance=self.guidance)
        require_numbers("attack.prior", unlabelled=self.unlabelled, high=1)
        smallest = 1 << (len(self.multipliers) - 1)
        if not self.multipliers or min(self.multipliers) < 1 or self.image_size % smallest:
            raise ConfigError(
                f"attack.prior.multipliers={list(self.multipliers)} halve an image of "
                f"attack.prior.image_size={self.image_size} px {len(self.multipliers) - 1} times, which must "
                "be whole numbers from 1 and give whole pixels; give others"
            )
        if self.drawing_steps > self.levels:
            raise ConfigError(
                f"attack.prior.drawing_steps={self.drawing_steps} exceeds attack.prior.levels={self.levels}; "
                "lower it"
            )
        if importlib.util.find_spec("diffusers") is None:
            raise ConfigError("attack.prior ddpm needs diffusers; pip install 'midre-exp[diffusion]'")

        self.latent_dim = 3 * self.image_size**2
        self.generator = make_unet(
            image_size=self.image_size,
            width=self.width,
            multipliers=self.multipliers,
            blocks=self.blocks,
            attention=self.attention,
            num_labels=self.num_classes + 1,
        )
        self.register_buffer("selection", torch.full((self.num_classes, self.per_class), -1))
        self.register_buffer("confidence", torch.full((self.num_classes, self.per_class), -1.0))

    @property
    def schedule(self) -> NoiseLevels:
        """The noise levels, and the ways back from them."""
        return NoiseLevels(self.levels, self.beta)

    def as_images(self, latents: Tensor) -> Tensor:
        """Rows [n, latent_dim] as images [n, 3, h, w]."""
        return latents.view(-1, 3, self.image_size, self.image_size)

    def noise(self, noisy: Tensor, levels: Tensor, labels: Tensor, guidance: float | None = None) -> Tensor:
        """The noise in images [n, 3, h, w], nominally in [-1, 1], of levels [n] and labels int64 [n];
        ``guidance`` in place of the prior's.
        """
        weight = self.guidance if guidance is None else guidance
        named = self._predicted(noisy, levels, labels)
        if weight == 1:
            return named
        return weight * named - (weight - 1) * self._predicted(noisy, levels, self._nobody(labels))

    def _predicted(self, noisy: Tensor, levels: Tensor, labels: Tensor) -> Tensor:
        predicted: Tensor = self.generator(noisy, levels, labels, return_dict=False)[0]
        return predicted

    def _nobody(self, labels: Tensor) -> Tensor:
        return torch.full_like(labels, self.num_classes)

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] in [0, 1] of noise [n, latent_dim] and labels int64 [n]. Raises
        ConfigError without labels.
        """
        if labels is None:
            raise ConfigError("prior ddpm draws images of given labels; use an attack that passes them")
        schedule, x = self.schedule, self.as_images(latents)
        for level in schedule.drawing_levels(self.drawing_steps):
            noise = self.noise(x, torch.full_like(x[:, 0, 0, 0], level), labels)
            x, _ = schedule.drawn(x, noise, level, self.drawing_steps, clip=True)
        return ((x + 1) / 2).clamp(0, 1)

    def realism(self, images: Tensor) -> Tensor:
        """Minus the error of the noise predicted without labels in images [n, 3, h, w], [n]: the same noise
        and levels for all.
        """
        schedule, error = self.schedule, torch.zeros_like(images[:, 0, 0, 0])
        draws = seeding.generator(0, "prior", "realism")
        for share in _LOOKS:
            noise = seeding.normal(draws, *images.shape[1:], device=images.device).expand_as(images)
            level = torch.full_like(error, max(1, round(share * self.levels)), dtype=torch.int64)
            noisy = schedule.noised(2 * images - 1, level, noise)
            found = self._predicted(noisy, level, self._nobody(level))
            error = error + (found - noise).square().mean((1, 2, 3))
        return -error / len(_LOOKS)

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None = None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Select images of ``public`` by the victim's scores, train on them, and tune what was trained
        against the victim; returns the last losses and the ``queries``.

        The victim must be white-box, and there must be as many public images as a class is to get.
        """
        images = self.training_images(public)
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("prior ddpm needs the target's gradients; use it with a white-box attack")
        if len(images) < self.per_class:
            raise ConfigError(
                f"attack.prior.per_class={self.per_class} exceeds the {len(images)} public images; lower it"
            )
        self.to(runtime.device)

        def seen(images: Tensor) -> Tensor:
            for resize in self.image_to_target:
                images = resize(images)
            return images

        def target_logits(images: Tensor) -> Tensor:
            return victim(seen(images)).logits

        fill_selection(self, target_logits, images, self.per_class, work / SELECTION, runtime, victim)
        asked = len(images)
        selected = images[self.selection.cpu().flatten()]
        runtime.tracker.images("chosen", selected[:: self.per_class][:SAMPLES], step=0)
        trained = checkpoint.load(work / _TRAINED)
        if trained is None:
            numbers = self._train(selected, seed, work, runtime)
            if self.tuning is not None:
                state = {name: value.cpu() for name, value in self.generator.state_dict().items()}
                checkpoint.save(work / _TRAINED, {"generator": state, "numbers": numbers})
        else:
            self.generator.load_state_dict(trained["generator"])
            numbers = dict(trained["numbers"])
        self.generator.eval()
        if self.tuning is not None:
            tuned = self.tuning.tune(self, victim, seen, selected, seed=seed, work=work, runtime=runtime)
            asked += int(tuned.pop("queries"))
            numbers |= tuned
        return {**numbers, "queries": asked}

    def _train(self, images: Tensor, seed: int, work: Path, runtime: Runtime) -> dict[str, float]:
        """Train on selected images uint8 [num_classes * per_class, 3, h, w], class by class."""
        device, schedule = runtime.device, self.schedule
        images = images.to(device)
        labels = torch.arange(self.num_classes, device=device).repeat_interleave(self.per_class)
        batches = Shuffled(len(images), self.batch_size, seed=seed, purpose="epoch", device=device)
        training = DiffusionTraining(
            self.generator,
            lr=self.lr,
            betas=self.betas,
            ema=self.ema,
            device=device,
            numerics=runtime.numerics,
        )

        def step(number: int, previous: Tensor) -> Tensor:
            rows = batches.rows(number)
            draws = seeding.generator(seed, "prior", "step", number)
            real = to_float(images[rows])
            # 8-bit images made continuous: noise of one grey level, never beyond white by more than that
            real += seeding.uniform(draws, *real.shape, device=device) / 256
            noise = seeding.normal(draws, *real.shape, device=device)
            levels = seeding.integers(draws, 1, self.levels + 1, len(real), device=device)
            unlabelled = seeding.uniform(draws, 1, device=device) < self.unlabelled  # the batch as a whole
            whom = torch.where(unlabelled, self.num_classes, labels[rows])
            noisy = schedule.noised(2 * real - 1, levels, noise)
            found: Tensor = training.predict(noisy, levels, whom, return_dict=False)[0]
            error = (found - noise).square().mean()
            training.step(error)
            return error.detach()[None]

        shown = sample_latents(self.latent_dim, seed, device), torch.arange(SAMPLES, device=device)
        numbers = train(
            training,
            step,
            steps=self.steps,
            names=("noise_error",),
            samples=lambda: self.generate(shown[0], shown[1] % self.num_classes),
            remedy="lower attack.prior.lr",
            title="training the diffusion model",
            what="the diffusion model",
            work=work,
            runtime=runtime,
        )
        training.finish()
        return numbers
