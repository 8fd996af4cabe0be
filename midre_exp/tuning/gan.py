"""PPDG-MI on the GANs of KedMI and PLG-MI: the prior's own training, continued on public images and an
identity's best reconstructions.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from midre_exp import seeding
from midre_exp.data.base import to_float
from midre_exp.data.loader import Shuffled
from midre_exp.data.transforms.view import NUMBERS, RandomView
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import BelowOne, Count, Natural, NonNegative, Share
from midre_exp.priors.base import Prior
from midre_exp.priors.gan import cgan, kedmi_gan
from midre_exp.priors.gan.training import SAMPLES, GanTraining, sample_latents, train
from midre_exp.priors.kedmi import KedMIPrior, soft_labels
from midre_exp.priors.plgmi import PLGMIPrior
from midre_exp.seeding import ItemRNG
from midre_exp.targets.predict import hits
from midre_exp.threat import WhiteBoxVictim
from midre_exp.tuning.base import Best, Material, State, Tuning, confidences

_SOFT_LABELS = "soft_labels.pt"
#: Of the state dict of a prior, what training moves.
_NETWORKS = ("generator.", "discriminator.")
_REMEDY = "lower attack.tuning.lr"


@dataclass(kw_only=True, eq=False)
class GanTuning(Tuning):
    """The steps by which the prior was trained, both networks with fresh Adams, on public images joined by
    those reconstructions that the target recognises best under random views (Peng et al., NeurIPS 2024).
    """

    tunes = "the GANs of KedMI and PLG-MI (attack/prior=kedmi, plgmi)"
    reads_public = True

    kept: Share  # of an identity's reconstructions, the best ones (released: 0.5; PLG-MI: 0.25)
    views: Count  # random views by whose mean confidence they are ranked (released: 100)
    view: RandomView  # one draw for all reconstructions
    #: Of every batch, these pictures, drawn with repetition; of PLG-MI also the share of generated ones that
    #: are asked for the identity. None: all images shuffled together (released).
    share: BelowOne | None
    #: Steps of the networks' training, as ``attack.prior.steps`` counts them; 0: the prior stays as it is.
    #: None: ``epochs``.
    steps: Natural | None
    epochs: Count | None  # passes over all images (released: 10; PLG-MI: 1,000 steps, on FFHQ 100)
    batch_size: Count | None  # None: the prior's own (released: 64)
    lr: NonNegative | None  # of Adam, both networks; None: the prior's own (released: 2e-4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps is None and self.epochs is None:
            raise ConfigError("attack.tuning needs steps or epochs; give one of the two")
        if not 0 < self.kept <= 1:
            raise ConfigError(f"attack.tuning.kept={self.kept} must lie above 0 and be at most 1")

    @classmethod
    def can_tune(cls, prior: type[Prior]) -> bool:
        return issubclass(prior, KedMIPrior | PLGMIPrior)

    def taken(self, restarts: int) -> int:
        return max(1, round(self.kept * restarts))

    @property
    def looks(self) -> int:
        return self.views

    def scores(self, victim: WhiteBoxVictim, seen: Tensor, labels: Tensor, shared_rng: ItemRNG) -> Tensor:
        """Mean probability over the views."""
        total = torch.zeros(len(labels), device=seen.device)
        for number in range(self.views):
            numbers = shared_rng.uniform("scoring", NUMBERS, step=number).expand(len(seen), -1)
            total += confidences(victim, self.view(seen, numbers), labels)
        return total / self.views

    def ask_before(self, material: Material) -> int:
        if not isinstance(material.prior, KedMIPrior) or self.steps == 0:
            return 0
        victim, images = material.victim, _public(material)
        queries = victim.queries
        soft_labels(victim, images, material.work / _SOFT_LABELS, material.runtime)
        victim.queries = queries + len(images)  # whoever asked, an interrupted attempt perhaps
        return len(images)

    def asked(self, prior: Prior, taken: int) -> int:
        if self.steps == 0:
            return 0
        if isinstance(prior, KedMIPrior):
            return taken  # for their soft labels
        assert isinstance(prior, PLGMIPrior)
        public = prior.num_classes * prior.per_class
        return self._steps(public + taken, self._batch(prior), prior.discriminator_steps) * self._batch(prior)

    def _steps(self, images: int, batch: int, batches: int) -> int:
        """How many, of a step that takes so many batches of real images."""
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None  # one of the two is given
        return max(1, self.epochs * (images // batch) // batches)

    def _batch(self, prior: KedMIPrior | PLGMIPrior) -> int:
        return prior.batch_size if self.batch_size is None else self.batch_size

    def changed(self, prior: Prior) -> list[str]:
        return [name for name in prior.state_dict() if name.startswith(_NETWORKS)]

    def at_once(self, material: Material, taken: int) -> int:
        """One after the other: batch norm and spectral norm keep statistics of their own."""
        return 1

    def told(self) -> dict[str, Any]:
        length = {"steps": self.steps} if self.steps is not None else {"epochs": self.epochs}
        return {"kept": self.kept, "share": self.share, **length}

    def tune(self, material: Material, best: Best) -> list[State]:
        states = []
        for place, label in enumerate(best.labels.tolist()):
            prior = deepcopy(material.prior)
            if best.states is not None:
                prior.load_state_dict({**prior.state_dict(), **best.states[place]})
            if self.steps != 0:
                own = _Identity(material, prior, best.pictures[place], label, int(best.rng.keys[place]))
                (self._kedmi if isinstance(prior, KedMIPrior) else self._plgmi)(own)
            everything = prior.state_dict()
            states.append({name: everything[name].detach().clone() for name in self.changed(prior)})
        return states

    def _training(self, own: _Identity) -> GanTraining:
        prior = own.prior
        assert isinstance(prior, KedMIPrior | PLGMIPrior)  # as ``can_tune`` says
        return GanTraining(
            prior.generator,
            prior.discriminator,
            lr=prior.lr if self.lr is None else self.lr,
            betas=prior.betas,
            ema=prior.ema,
            device=own.material.runtime.device,
            numerics=own.material.runtime.numerics,
        )

    def _batches(self, own: _Identity, public: int, batch: int, purpose: str) -> Callable[[int], Tensor]:
        """From the number of a batch to its rows among the public images and the pictures behind them."""
        device, mine = own.pictures.device, len(own.pictures)
        if self.share is None:
            return Shuffled(public + mine, batch, seed=own.seed, purpose=purpose, device=device).rows
        drawn = round(self.share * batch)
        shuffled = Shuffled(public, batch - drawn, seed=own.seed, purpose=purpose, device=device)

        def rows(number: int) -> Tensor:
            draws = seeding.generator(own.seed, "tuning", purpose, number)
            again = seeding.integers(draws, public, public + mine, drawn, device=device)
            return torch.cat((shuffled.rows(number), again))

        return rows

    def _kedmi(self, own: _Identity) -> None:
        """As ``KedMIPrior.fit``; the target says what it sees in the pictures."""
        prior, material = own.prior, own.material
        assert isinstance(prior, KedMIPrior)
        device, batch = own.pictures.device, self._batch(prior)
        public = _public(material)
        known = soft_labels(material.victim, public, material.work / _SOFT_LABELS, material.runtime)
        with torch.no_grad():
            theirs = material.victim(own.pictures).logits.softmax(1)
        answers = torch.cat((known.to(device), theirs))
        images = _Images(public.to(device), own.pictures)
        passes = [
            self._batches(own, len(public), batch, name) for name in ("labelled", "unlabelled", "unlabelled2")
        ]
        gan = self._training(own)

        def step(number: int, previous: Tensor) -> Tensor:
            labelled, unlabelled, unlabelled2 = (rows(number) for rows in passes)
            draws = seeding.generator(own.seed, "tuning", "step", number)
            latents = seeding.normal(draws, 2, batch, prior.latent_dim, device=device)
            real = images.rows(torch.cat([labelled, unlabelled]))
            losses = kedmi_gan.discriminator_step(gan, real, answers[labelled], latents[0], group=prior.group)
            of_generator = previous[2]
            if (number + 1) % prior.critic_steps == 0:
                of_generator = kedmi_gan.generator_step(
                    gan,
                    images.rows(unlabelled2),
                    latents[1],
                    entropy_weight=prior.entropy_weight,
                    group=prior.group,
                )
            return torch.cat((losses, of_generator[None]))

        shown = sample_latents(prior.latent_dim, own.seed, device)
        train(
            gan,
            step,
            steps=self._steps(len(public) + len(own.pictures), batch, 1),
            names=("supervised_loss", "unsupervised_loss", "generator_loss"),
            samples=lambda: prior.generate(shown),
            remedy=_REMEDY,
            title=f"tuning the GAN, identity {own.label}",
            work=own.folder,
            runtime=material.runtime,
        )
        gan.finish(prior.latent_dim, own.seed)

    def _plgmi(self, own: _Identity) -> None:
        """As ``PLGMIPrior.fit``; the pictures are labelled with the identity."""
        prior, material = own.prior, own.material
        assert isinstance(prior, PLGMIPrior)
        device, batch, classes = own.pictures.device, self._batch(prior), prior.num_classes
        if prior.published_files:
            raise ConfigError(
                "attack.prior.pretrained has no public images that the target chose for each class, which "
                "PLG-MI's training goes on with; train the prior here"
            )
        chosen = _public(material)[prior.selection.cpu().flatten()].to(device)
        theirs = torch.arange(classes, device=device).repeat_interleave(prior.per_class)
        labels = torch.cat((theirs, torch.full((len(own.pictures),), own.label, device=device)))
        images = _Images(chosen, own.pictures)
        rows_of = self._batches(own, len(chosen), batch, "epoch")
        gan, count = self._training(own), prior.discriminator_steps + 1
        asked = 0 if self.share is None else round(self.share * batch)

        def identity(images: Tensor, labels: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
            seen = prior.view(images, numbers)
            for resize in prior.image_to_target:
                seen = resize(seen)
            logits = material.victim(seen).logits
            return prior.identity_loss(logits, labels), hits(logits.detach(), labels)

        def step(number: int, previous: Tensor) -> Tensor:
            draws = seeding.generator(own.seed, "tuning", "step", number)
            latents = seeding.normal(draws, count, batch, prior.latent_dim, device=device)
            wanted = seeding.integers(draws, 0, classes, count, batch, device=device)
            wanted[:, batch - asked :] = own.label
            numbers = seeding.uniform(draws, batch, NUMBERS, device=device)
            of_generator = cgan.generator_step(
                gan, latents[0], wanted[0], numbers, identity, prior.identity_weight
            )
            losses = []
            for turn in range(1, count):
                rows = rows_of(number * prior.discriminator_steps + turn - 1)
                real = images.rows(rows, seeding.uniform(draws, batch, 3, *images.size, device=device) / 256)
                losses.append(cgan.discriminator_step(gan, real, labels[rows], latents[turn], wanted[turn]))
            return torch.cat((torch.stack(losses).mean(0, keepdim=True), of_generator))

        shown = sample_latents(prior.latent_dim, own.seed, device)
        people = torch.arange(SAMPLES, device=device) % classes
        train(
            gan,
            step,
            steps=self._steps(len(labels), batch, prior.discriminator_steps),
            names=("discriminator_loss", "generator_loss", "identity_loss", "taken_for_label"),
            samples=lambda: prior.generate(shown, people).clamp(0, 1),
            remedy=_REMEDY,
            title=f"tuning the GAN, identity {own.label}",
            work=own.folder,
            runtime=material.runtime,
        )
        gan.finish(prior.latent_dim, own.seed, classes)


@dataclass(frozen=True)
class _Identity:
    """One identity's prior in training, and the pictures that pass for this person."""

    material: Material
    prior: Prior
    pictures: Tensor  # [m, 3, s, s]
    label: int
    seed: int

    @property
    def folder(self) -> Path:
        """Where its training saves its state."""
        return self.material.folder([self.label])


@dataclass(frozen=True)
class _Images:
    """Public images of 8 bits, then pictures that are floats."""

    public: Tensor
    pictures: Tensor

    @property
    def size(self) -> torch.Size:
        return self.pictures.shape[-2:]

    def rows(self, rows: Tensor, noise: Tensor | None = None) -> Tensor:
        """Float images [n, 3, h, w]; ``noise`` makes those of 8 bits continuous."""
        is_public = (rows < len(self.public))[:, None, None, None]
        public = to_float(self.public[rows.clamp_max(len(self.public) - 1)])
        if noise is not None:
            public = public + noise
        pictures = self.pictures[(rows - len(self.public)).clamp_min(0)]
        return torch.where(is_public, public, pictures)


def _public(material: Material) -> Tensor:
    assert material.public is not None  # as ``reads_public`` says
    return material.prior.training_images(material.public)
