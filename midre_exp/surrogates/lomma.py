"""What LOMMA (Nguyen et al. 2023) prepares against a target on public images: students distilled from it,
statistics of its features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import ImageSet, to_float
from midre_exp.data.loader import Shuffled
from midre_exp.errors import CheckpointError, ConfigError, DivergedError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, NonNegative, Positive, Width
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import Generator, Surrogates
from midre_exp.surrogates.student import Student
from midre_exp.threat import AnyVictim, WhiteBoxVictim
from midre_exp.weights import checkpoint
from midre_exp.weights.checkpointer import Checkpointer
from midre_exp.weights.finite import require_finite
from midre_exp.weights.state_dict import load_backbone, load_checkpoint, read_state_dict, require_usable

LOG_EVERY = 100  #: steps between reports: the only moments the host waits for the device
_QUERY = 256  # public images per query of the victim
_ANSWERS, _CHECKPOINT = "answers.pt", "students.pt"


def distillation_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """KL(softmax(t / tau) || softmax(s / tau)) / tau^2, mean over the batch, of logits [n, k].

    The released code divides by tau^2 where distillation usually multiplies; at its tau = 1 both agree.
    """
    student = (student_logits / temperature).log_softmax(1)
    teacher = (teacher_logits / temperature).log_softmax(1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) / temperature**2


@dataclass(kw_only=True, eq=False, repr=False)
class LommaSurrogates(Surrogates):
    """Students distilled from the target, one network per name (none allowed), and mean and standard
    deviation [d] of its penultimate features (Nguyen et al., CVPR 2023).
    """

    num_classes: int  # of the target
    students: Sequence[str]  # names of EfficientNets: b0, b1, b2
    width: Width  # channel multiplier over each published one
    depth: Width  # the same for layers per stage
    stem: str  # imagenet: stride 2 | small: stride 1, for 32 px images
    weights: str | Mapping[str, str] | None  # the students' start: None: random | imagenet | files by name
    epochs: Count  # passes over the public images
    steps: Count | None  # instead of epochs if not None
    batch_size: Count  # public images per step; the incomplete last batch of an epoch is left out
    lr: LearningRate  # of SGD
    momentum: BelowOne  # of SGD
    weight_decay: NonNegative  # of SGD
    lr_epochs: Count  # epochs after which lr is multiplied by gamma, again and again
    gamma: Positive  # factor of lr
    temperature: Positive  # of the distillation loss
    statistics_images: Count  # public images that give the statistics
    #: Published files: of all students or none by name, and p_reg, the statistics; None: made here.
    pretrained: Mapping[str, str | None]

    feature_mean: Tensor = field(init=False)
    feature_std: Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Make the untrained students. Raises ConfigError for impossible numbers, unknown names and
        incomplete paths.
        """
        part = "attack.surrogates"
        require_counts(
            part,
            epochs=self.epochs,
            steps=self.steps,
            batch_size=self.batch_size,
            lr_epochs=self.lr_epochs,
        )
        if type(self.statistics_images) is not int or self.statistics_images < 2:
            raise ConfigError(f"{part}.statistics_images={self.statistics_images} must be at least 2")
        if self.temperature <= 0:
            raise ConfigError(f"{part}.temperature={self.temperature} must be positive; 1.0 is official")
        require_numbers(
            part,
            lr=self.lr,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            gamma=self.gamma,
        )
        files = {name: path for name, path in self.published_files.items() if name != "p_reg"}
        for key, given in (("weights", self.weights), ("pretrained", files)):
            if isinstance(given, Mapping) and given and set(given) != set(self.students):
                raise ConfigError(
                    f"{part}.{key} names {', '.join(given)}, but the students are "
                    f"{', '.join(self.students) or 'none'}; give a file for each of them"
                )
        self.networks = nn.ModuleDict(
            {
                name: Student(
                    name=name,
                    num_classes=self.num_classes,
                    width=self.width,
                    depth=self.depth,
                    stem=self.stem,
                )
                for name in self.students
            }
        )
        self.register_buffer("feature_mean", torch.empty(0))
        self.register_buffer("feature_std", torch.empty(0))

    @property
    def published_files(self) -> dict[str, str]:
        """The given paths of published files by name."""
        return {name: path for name, path in self.pretrained.items() if path is not None}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state dict; the statistics have the target's shape."""
        for name in ("feature_mean", "feature_std"):
            setattr(self, name, torch.empty_like(tensors[name]))
        super().restore(tensors)

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
        """Distil the students and take the statistics, or load published ones. Returns each student's last
        losses and the ``queries``.

        The victim is asked at most once per public image. Raises ConfigError for a victim that is not
        white-box and for fewer images than a batch, DivergedError when training diverges, CheckpointError for
        files that do not fit or cannot be downloaded.
        """
        if not isinstance(victim, WhiteBoxVictim):
            raise ConfigError("LOMMA reads the target's features; use it with a white-box attack")
        if public is None:
            raise ConfigError("LOMMA's surrogates are made of public images; hand them in")
        self.to(runtime.device)
        files = self.published_files
        published = set(files) - {"p_reg"}
        train = bool(self.students) and not published
        if train and self.batch_size > len(public):
            raise ConfigError(
                f"attack.surrogates.batch_size={self.batch_size} exceeds the {len(public)} public images "
                "there are"
            )
        for name in published:
            load_checkpoint(self.networks[name], files[name])
        logits = self._query(public.images, victim, train, seed, work / _ANSWERS, runtime)
        if "p_reg" in files:
            self._load_statistics(files["p_reg"])
        numbers: dict[str, float] = {
            "queries": len(public) if train else min(self.statistics_images, len(public))
        }
        if train:
            numbers.update(self._distil(public.images, logits, seed, work / _CHECKPOINT, runtime))
        self.eval()
        return numbers

    @torch.no_grad()
    def _query(
        self,
        images: Tensor,
        victim: WhiteBoxVictim,
        train: bool,
        seed: int,
        file: Path,
        runtime: Runtime,
    ) -> Tensor:
        """Set the feature statistics and return the logits [n, k] of all images if students need them; asked
        for once, then kept.
        """
        saved = checkpoint.load(file)
        if saved is None:
            order = torch.randperm(len(images), generator=seeding.generator(seed, "lomma", "statistics"))
            chosen = order[: self.statistics_images]
            rows = order if train else chosen  # either way the chosen ones come first
            logits, features = list[Tensor](), list[Tensor]()

            def ask(part: slice) -> tuple[Tensor, Tensor]:
                output = victim(to_float(images[rows[part]].to(runtime.device)))
                return output.logits.cpu(), output.features[: max(0, len(chosen) - part.start)].cpu()

            with runtime.shown("querying the target", len(rows)) as shown:
                for told, known in in_batches(ask, len(rows), _QUERY, what="public images", victim=victim):
                    logits.append(told)
                    features.append(known)
                    shown.update(len(told))
            statistics = torch.cat(features)
            answers = torch.cat(logits)
            saved = {
                "logits": answers[order.argsort()] if train else answers[:0],
                "mean": statistics.mean(0),
                "std": statistics.std(0),
            }
            victim.check_answers()
            require_finite(saved, "the target's answers to public images", "give a healthy target")
            checkpoint.save(file, saved)
        self.feature_mean = saved["mean"].to(runtime.device)
        self.feature_std = saved["std"].to(runtime.device)
        answered: Tensor = saved["logits"]
        return answered

    def _load_statistics(self, path: str) -> None:
        """Published statistics. Their ``fea_logvar`` is a standard deviation, whatever its name says."""
        found = read_state_dict(path)
        if set(found) != {"fea_mean", "fea_logvar"}:
            raise CheckpointError(
                f"{path} has {', '.join(found)} instead of fea_mean and fea_logvar; give LOMMA's p_reg file"
            )
        require_usable(path, {key: value.float() for key, value in found.items()})
        for key, name in (("fea_mean", "feature_mean"), ("fea_logvar", "feature_std")):
            ours = getattr(self, name)
            if found[key].shape != ours.shape:
                raise CheckpointError(
                    f"{path} has statistics {list(found[key].shape)}, but the target's features are "
                    f"{list(ours.shape)}; "
                    "give the p_reg file of this architecture"
                )
            setattr(self, name, found[key].to(ours))

    def _distil(
        self, images: Tensor, teacher: Tensor, seed: int, file: Path, runtime: Runtime
    ) -> dict[str, float]:
        """All students at once, each on the same batches; they do not influence each other."""
        device = runtime.device
        images, teacher = images.to(device), teacher.to(device)
        batches = Shuffled(len(images), self.batch_size, seed=seed, purpose="lomma", device=device)
        steps = self.steps or self.epochs * batches.per_epoch
        students = {name: cast(Student, student) for name, student in self.networks.items()}
        sgd = torch.optim.SGD(
            self.networks.parameters(), lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay
        )
        checkpoints = Checkpointer(file, runtime.checkpoint_seconds, runtime.clock)
        saved = checkpoints.load()
        if saved is None:
            start, recent = 0, torch.zeros(LOG_EVERY, len(students), device=device)
            self._initialise(students)
        else:
            start, recent = saved["step"], saved["recent"].to(device)
            self.networks.load_state_dict(saved["students"])
            sgd.load_state_dict(saved["sgd"])
        self.networks.train()
        runtime.numerics.reorder(self.networks)
        answer = [runtime.numerics.call(student) for student in students.values()]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), checkpoints:
            losses = recent[0]

            def values() -> dict[str, float]:
                return {"loss": float(losses.mean())}

            for step in runtime.bar(range(start, steps), "distilling students", steps, start, values):
                torch.manual_seed(seeding.derive(seed, "lomma", "step", step))  # of stochastic depth
                sgd.param_groups[0]["lr"] = self.lr * self.gamma ** (
                    step // batches.per_epoch // self.lr_epochs
                )
                rows = batches.rows(step)
                shown = to_float(images[rows])
                losses = torch.stack(
                    [
                        distillation_loss(student(shown).logits, teacher[rows], self.temperature)
                        for student in answer
                    ]
                )
                sgd.zero_grad()
                losses.sum().backward()
                sgd.step()
                recent[step % LOG_EVERY] = losses.detach()
                done = step + 1
                if done % LOG_EVERY == 0:
                    runtime.tracker.log(step_means("distillation", students, recent, done), done)
                if done < steps and checkpoints.due():
                    step_means(
                        "distillation", students, recent, done
                    )  # what has diverged is not continued from
                    state = {"students": self.networks.state_dict(), "sgd": sgd.state_dict()}
                    checkpoints.save({**state, "step": done, "recent": recent})
        return step_means("distillation", students, recent, steps)

    def _initialise(self, students: Mapping[str, Student]) -> None:
        for name, student in students.items():
            source = self.weights[name] if isinstance(self.weights, Mapping) else self.weights
            if source is not None:
                load_backbone(student, source)


def step_means(name: str, networks: Iterable[str], recent: Tensor, done: int) -> dict[str, float]:
    """Means over the last steps, ``recent`` [LOG_EVERY, n], as ``<name>_<network>``. Raises DivergedError
    when they are not finite.
    """
    values = recent[: min(done, LOG_EVERY)].mean(0).tolist()
    if not all(map(math.isfinite, values)):
        raise DivergedError(f"a student diverged before step {done}", "lower attack.surrogates.lr")
    return {f"{name}_{network}": value for network, value in zip(networks, values, strict=True)}
