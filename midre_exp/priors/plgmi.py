"""The prior of PLG-MI: a conditional GAN on public images that the target itself has labelled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled
from midre_exp.data.transforms.view import NUMBERS, RandomView
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import Count, NonNegative
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.gan.cgan import discriminator_step, generator_step
from midre_exp.priors.gan.plgmi_networks import PLGMIDiscriminator, PLGMIGenerator
from midre_exp.priors.gan.training import SAMPLES, GanTraining, sample_latents, train
from midre_exp.priors.gan_prior import GanPrior
from midre_exp.runtime import Runtime
from midre_exp.targets.predict import hits
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights import checkpoint
from midre_exp.weights.finite import require_finite

#: Where ``fill_selection`` keeps what was selected.
SELECTION = "selection.pt"


@dataclass(kw_only=True, eq=False, repr=False)
class PLGMIPrior(GanPrior):
    """Pseudo-labels, then a conditional GAN with hinge losses, one for every target (Yuan et al., AAAI 2023):
    the generator descends -E D(G(z, y), y) + w · E L(T(view(G(z, y))), y).
    """

    num_classes: int  # of the target
    discriminator_width: Count | None  # channels of the discriminator at half resolution; None: as width
    per_class: Count  # public images selected for each class, the target's most confident
    steps: Count  # of the generator, each followed by discriminator_steps
    discriminator_steps: Count  # after each generator step
    identity_weight: NonNegative  # w, of the target's loss
    identity_loss: Callable[[Tensor, Tensor], Tensor]  # L: logits [n, k], labels [n] -> loss per image [n]
    view: RandomView  # what the target is shown of a generated image
    image_to_target: Sequence[Callable[[Tensor], Tensor]]  # named steps before the target, as in the attack

    selection: Tensor = field(init=False)  #: rows of the public set, int64 [num_classes, per_class]; -1: none
    confidence: Tensor = field(init=False)  #: the target's softmax there; -1: none

    uses_target = True
    required_files = ("generator",)  # the inversion needs no discriminator

    def __post_init__(self) -> None:
        """Check the options and make both networks and the empty selection, which is kept with the
        weights.
        """
        super().__post_init__()
        require_counts(
            "attack.prior",
            discriminator_width=self.discriminator_width,
            per_class=self.per_class,
            steps=self.steps,
            discriminator_steps=self.discriminator_steps,
        )
        require_numbers("attack.prior", identity_weight=self.identity_weight)
        self.generator = PLGMIGenerator(
            num_classes=self.num_classes,
            latent_dim=self.latent_dim,
            width=self.width,
            image_size=self.image_size,
        )
        self.discriminator = PLGMIDiscriminator(
            num_classes=self.num_classes,
            width=self.discriminator_width or self.width,
            image_size=self.image_size,
        )
        self.register_buffer("selection", torch.full((self.num_classes, self.per_class), -1))
        self.register_buffer("confidence", torch.full((self.num_classes, self.per_class), -1.0))

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float [n, 3, h, w] of latents [n, latent_dim] and labels int64 [n].

        In (-1, 1), the range of tanh, though trained on [0, 1]: the target gets them as they are, as in the
        official code, and published weights need it. Raises ConfigError without labels.
        """
        if labels is None:
            raise ConfigError("prior plgmi generates images of given labels; use an attack that passes them")
        images: Tensor = self.generator(latents, labels)
        return images

    def realism(self, images: Tensor) -> Tensor:
        """The discriminator's scores, [n], as far as they do not depend on a class."""
        scores: Tensor = self.discriminator(images)
        return scores.squeeze(1)

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim | None = None,
        *,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Select images of ``public`` by the victim's scores and train on them, or load published weights;
        returns the final losses and the share of generated images that the target takes for their label.

        The victim must be white-box, and there must be as many public images as a class is to get.
        """
        if self.load_published():
            return {}
        images = self.training_images(public)
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("prior plgmi needs the target's gradients; use it with a white-box attack")
        if len(images) < self.per_class:
            raise ConfigError(
                f"attack.prior.per_class={self.per_class} exceeds the {len(images)} public images; lower it"
            )
        device, classes, size = runtime.device, self.num_classes, self.batch_size
        self.to(device)

        def target_logits(images: Tensor) -> Tensor:
            for resize in self.image_to_target:
                images = resize(images)
            return victim(images).logits

        def identity(images: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
            logits = target_logits(self.view(images, numbers))
            return self.identity_loss(logits, labels), hits(logits.detach(), labels)

        fill_selection(self, target_logits, images, self.per_class, work / SELECTION, runtime, victim)
        selection = self.selection.cpu()
        runtime.tracker.images("chosen", images[selection[:SAMPLES, 0]], step=0)
        images = images[selection.flatten()].to(device)
        labels = torch.arange(classes, device=device).repeat_interleave(self.per_class)
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
            numbers = seeding.uniform(draws, size, NUMBERS, device=device)
            of_generator = generator_step(gan, latents[0], wanted[0], numbers, identity, self.identity_weight)
            losses = []
            for turn in range(1, count):
                rows = batches.rows(number * self.discriminator_steps + turn - 1)
                real = to_float(images[rows])
                # 8-bit images made continuous: noise of one grey level, never beyond white by more than that
                real += seeding.uniform(draws, *real.shape, device=device) / 256
                losses.append(discriminator_step(gan, real, labels[rows], latents[turn], wanted[turn]))
            return torch.cat((torch.stack(losses).mean(0, keepdim=True), of_generator))

        shown = sample_latents(self.latent_dim, seed, device), torch.arange(SAMPLES, device=device) % classes
        numbers = train(
            gan,
            step,
            steps=self.steps,
            names=("discriminator_loss", "generator_loss", "identity_loss", "taken_for_label"),
            samples=lambda: self.generate(*shown).clamp(0, 1),
            remedy="lower attack.prior.lr",
            title="training the conditional GAN",
            work=work,
            runtime=runtime,
        )
        gan.finish(self.latent_dim, seed, classes)
        return numbers


@torch.no_grad()
def select(
    target_logits: Callable[[Tensor], Tensor],
    images: Tensor,
    per_class: int,
    runtime: Runtime,
    batch: int = 256,
    victim: AnyVictim | None = None,
) -> tuple[Tensor, Tensor]:
    """For each class the ``per_class`` images of uint8 [n, 3, h, w] with the largest softmax probability:
    rows and probabilities, both [k, per_class], most confident first, of equal ones the later image first.

    ``target_logits`` gives logits [b, k] of float images, by asking ``victim``. Every image is shown once;
    one may serve several classes or none.
    """

    def ask(part: slice) -> Tensor:
        return target_logits(to_float(images[part].to(runtime.device))).softmax(1)

    best = rows = torch.empty(0, 0)
    start = 0
    with runtime.shown("labelling public images by the target", len(images)) as shown:
        for answers in in_batches(ask, len(images), batch, what="public images", victim=victim):
            # later images first, and a stable sort keeps it so
            probabilities, stop = answers.T.flip(1), start + len(answers)
            here = torch.arange(start, stop, device=runtime.device).flip(0).expand_as(probabilities)
            best = torch.cat((probabilities, best), 1) if start else probabilities
            rows = torch.cat((here, rows), 1) if start else here
            best, order = best.sort(dim=1, descending=True, stable=True)
            best, rows = best[:, :per_class], rows.gather(1, order[:, :per_class])
            start = stop
            shown.update(len(answers))
    return rows, best


class Selecting(Protocol):
    """A prior that keeps, with its weights, which public images it learned of each class."""

    selection: Tensor
    confidence: Tensor


def fill_selection(
    prior: Selecting,
    target_logits: Callable[[Tensor], Tensor],
    images: Tensor,
    per_class: int,
    file: Path,
    runtime: Runtime,
    victim: AnyVictim,
) -> None:
    """``select`` into the buffers of ``prior``, once: what was selected is kept in ``file``. Raises
    DivergedError for answers that are not finite.
    """
    saved = checkpoint.load(file)
    if saved is None:
        rows, confidence = select(target_logits, images, per_class, runtime, victim=victim)
        require_finite(
            {"scores": confidence}, "the target's answers to public images", "give a healthy target"
        )
        saved = {"selection": rows.cpu(), "confidence": confidence.cpu()}
        checkpoint.save(file, saved)
    prior.selection.copy_(saved["selection"])
    prior.confidence.copy_(saved["confidence"])
