"""What LOKT (Nguyen et al., NeurIPS 2023) prepares against a target besides its prior: networks that learn
the target's labels of the prior's images.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp import seeding
from midre_exp.data.base import ImageSet
from midre_exp.data.loader import Shuffled
from midre_exp.data.transforms.view import NUMBERS, RandomView
from midre_exp.errors import ConfigError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, NonNegative, Share
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import Generator, Surrogates
from midre_exp.surrogates.lomma import LOG_EVERY, step_means
from midre_exp.targets.base import Classifier
from midre_exp.threat import AnyVictim, LabelVictim
from midre_exp.weights import checkpoint
from midre_exp.weights.checkpointer import Checkpointer

_QUERY = 256  # generated images per query of the victim
_LABELS, _CHECKPOINT = "labels.pt", "networks.pt"


@dataclass(kw_only=True, eq=False, repr=False)
class LoktSurrogates(Surrogates):
    """Networks trained together, each on its own loss, on images that the prior draws of kept latents and
    classes, and the target's labels of these: (1 - view_weight) CE(image) + view_weight CE(view(image)).

    Their mean logits stand in for the target.
    """

    num_classes: int  # of the target
    #: Networks by name, each a class of midre_exp.targets and its options, for ``num_classes`` to be added;
    #: None: not this one.
    networks: Mapping[str, partial[Classifier] | None]
    per_class: Count  # images that the target labels, of each class asked for (released: 2 x 250)
    image_to_target: Sequence[Callable[[Tensor], Tensor]]  # named steps before the target, as in the attack
    view: RandomView
    view_weight: Share  # (released: 0.5)
    steps: Count  # (released: 200 times 30,000 images)
    batch_size: Count  # (released: 256)
    lr: LearningRate  # of SGD, to 0 along a cosine (released: 0.1)
    momentum: BelowOne  # of SGD (released: 0.9)
    weight_decay: NonNegative  # of SGD (released: 5e-4)

    uses_prior = True

    def __post_init__(self) -> None:
        """Make the untrained networks. Raises ConfigError for impossible numbers and without a network."""
        part = "attack.surrogates"
        require_counts(part, per_class=self.per_class, steps=self.steps, batch_size=self.batch_size)
        require_numbers(part, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)
        makers = {name: make for name, make in self.networks.items() if make is not None}
        if not makers:
            raise ConfigError(f"{part}.networks names none; name one, or set attack.surrogates=null")
        self.students = nn.ModuleDict(
            {name: make(num_classes=self.num_classes) for name, make in makers.items()}
        )

    def forward(self, images: Tensor) -> Tensor:
        """The mean logits [n, k] of images float [n, 3, h, w] as the target gets them."""
        logits = [student(images).logits for student in self.students.values()]
        return torch.stack(logits).mean(0)

    def fit(
        self,
        public: ImageSet | None,
        victim: AnyVictim,
        *,
        prior: Generator | None = None,
        seed: int,
        work: Path,
        runtime: Runtime,
    ) -> dict[str, float]:
        """Let the victim label ``per_class`` images of every class, each once, and learn the labels. Returns
        the last loss of each network, percent of the images that the victim takes for the class asked for
        (``taken_for_label``), and the ``queries``.

        Raises ConfigError for a victim that shows more than labels, DivergedError when training diverges.
        """
        if not isinstance(victim, LabelVictim) or prior is None:
            raise ConfigError(
                "LOKT's surrogates learn the target's labels of images of a conditional prior; use them with "
                "attack lokt"
            )
        device = runtime.device
        self.to(device)
        classes = torch.arange(self.num_classes, device=device).repeat(self.per_class)
        draws = seeding.generator(seed, "lokt", "latents")
        latents = seeding.normal(draws, len(classes), prior.latent_dim, device=device)

        @torch.no_grad()
        def drawn(rows: Tensor | slice) -> Tensor:
            images = prior.generate(latents[rows], classes[rows])
            for resize in self.image_to_target:
                images = resize(images)
            return images

        saved = checkpoint.load(work / _LABELS)
        if saved is None:
            ask = in_batches(
                lambda part: victim.labels(drawn(part)), len(classes), _QUERY, what="images", victim=victim
            )
            saved = {"labels": torch.cat([*ask]).cpu()}
            checkpoint.save(work / _LABELS, saved)
        labels = saved["labels"].to(device)
        numbers = self._learn(drawn, labels, seed, work / _CHECKPOINT, runtime)
        taken = 100 * float((labels == classes).float().mean())
        return {**numbers, "taken_for_label": taken, "queries": len(classes)}

    def _learn(
        self, drawn: Callable[[Tensor], Tensor], labels: Tensor, seed: int, file: Path, runtime: Runtime
    ) -> dict[str, float]:
        """All networks at once, each on the same batches; they do not influence each other."""
        device, students = runtime.device, dict(self.students.items())
        batches = Shuffled(len(labels), self.batch_size, seed=seed, purpose="lokt", device=device)
        sgd = torch.optim.SGD(
            self.students.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        rates = torch.cos(torch.arange(self.steps, dtype=torch.float64) * torch.pi / self.steps)
        by_step = (self.lr * (1 + rates) / 2).tolist()
        checkpoints = Checkpointer(file, runtime.checkpoint_seconds, runtime.clock)
        saved = checkpoints.load()
        start, recent = 0, torch.zeros(LOG_EVERY, len(students), device=device)
        if saved is not None:
            start, recent = saved["step"], saved["recent"].to(device)
            self.students.load_state_dict(saved["students"])
            sgd.load_state_dict(saved["sgd"])
        self.students.train()
        runtime.numerics.reorder(self.students)
        answer = [runtime.numerics.call(student) for student in students.values()]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), checkpoints:
            losses = recent[0]

            def values() -> dict[str, float]:
                return {"loss": float(losses.mean())}

            for step in runtime.bar(range(start, self.steps), "learning labels", self.steps, start, values):
                torch.manual_seed(seeding.derive(seed, "lokt", "step", step))  # of dropout
                sgd.param_groups[0]["lr"] = by_step[step]
                rows = batches.rows(step)
                numbers = seeding.uniform(
                    seeding.generator(seed, "lokt", "view", step), len(rows), NUMBERS, device=device
                )
                plain, wanted = drawn(rows), labels[rows]
                viewed = self.view(plain, numbers)
                losses = torch.stack(
                    [
                        surrogate_loss(ask(plain).logits, ask(viewed).logits, wanted, self.view_weight)
                        for ask in answer
                    ]
                )
                sgd.zero_grad()
                losses.sum().backward()
                sgd.step()
                recent[step % LOG_EVERY] = losses.detach()
                done = step + 1
                if done % LOG_EVERY == 0:
                    runtime.tracker.log(step_means("label_loss", students, recent, done), done)
                if done < self.steps and checkpoints.due():
                    step_means(
                        "label_loss", students, recent, done
                    )  # what has diverged is not continued from
                    state = {"students": self.students.state_dict(), "sgd": sgd.state_dict()}
                    checkpoints.save({**state, "step": done, "recent": recent})
        self.eval()
        return step_means("label_loss", students, recent, self.steps)


def surrogate_loss(plain: Tensor, viewed: Tensor, labels: Tensor, view_weight: float) -> Tensor:
    """(1 - w) CE(plain) + w CE(viewed) of logits [n, k] and the target's labels int64 [n], mean over the
    batch.
    """
    own, other = F.cross_entropy(plain, labels), F.cross_entropy(viewed, labels)
    return (1 - view_weight) * own + view_weight * other
