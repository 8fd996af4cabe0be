"""SMILE's surrogate: a network that answers like the target, learned from few scores of pictures.

Of a few thousand pictures of random people most are taken for the same few identities, so the target's
answers have a long tail. Three classifiers on the features of one network, which shall differ from each
other, learn them together (Li et al., CVPR 2025, Sec. 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attacks.base import ItemRNG, apply
from attacks.losses import log_scores
from attacks.parts.checks import one_of
from attacks.parts.initial_selection import InitialSelection, style_prior
from midre_exp import seeding
from midre_exp.data.base import ImageSet
from midre_exp.data.loader import Shuffled
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.memory.batches import in_batches
from midre_exp.plan.ranges import BelowOne, Count, LearningRate, Natural, NonNegative, Positive
from midre_exp.plan.validate import require_counts, require_numbers
from midre_exp.priors.style_prior import StylePrior
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import Generator, Surrogates
from midre_exp.targets.base import Classifier
from midre_exp.threat import AnyVictim, ScoreVictim
from midre_exp.weights import checkpoint
from midre_exp.weights.checkpointer import Checkpointer
from midre_exp.weights.finite import require_finite
from midre_exp.weights.state_dict import load_backbone

Weighting = Literal["released", "per_sample"]

LOG_EVERY = 100  #: steps between reports: the only moments the host waits for the device
_CLAMP = 20.0  #: of an expert's logits over the temperature, in the term of diversity (released code)
_ANSWERS, _CHECKPOINT = "answers.pt", "experts.pt"


def class_weights(answers: Tensor, *, top: int, beta: float) -> Tensor:
    """(1 - beta) / (1 - beta^(n_c + 1)) of every class, [k] in (0, 1]: 1 of one that is never among the
    ``top`` best of an answer, less the more often it is, n_c times. ``answers`` [n, k]: scores or
    their logarithms.
    """
    classes = answers.shape[1]
    named = answers.topk(min(top, classes), dim=1).indices
    counts = torch.zeros_like(answers).scatter_(1, named, 1.0).sum(0)
    return (1 - beta) / (1 - beta ** (counts + 1))


def divergence(wanted: Tensor, found: Tensor) -> Tensor:
    """KL(softmax(wanted) || softmax(found)) of logits [..., n, k], by row: [..., n] >= 0."""
    return F.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), reduction="none", log_target=True).sum(-1)


def long_tailed_loss(
    experts: Tensor,
    answers: Tensor,
    weights: Tensor,
    *,
    temperature: float,
    label_weight: float,
    diversity_weight: float,
    weighting: Weighting,
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the experts descend, and its three terms unweighted, of a batch.

        W (sum_e KL(q_t || o_e,t) + label_weight sum_e CE(o_e, arg max q)) + diversity_weight sum_e 1 / D_e

    ``experts``: their logits o_e [e, n, k]; ``answers``: the target's log-probabilities q [n, k]; index t:
    divided by ``temperature``. D_e = KL(softmax(clamp(o_e,t) / temperature) || softmax(o_t)) of the mean o of
    the experts; its first side is divided twice, as in the released code. KL, CE and D are means over the
    batch. ``weights`` [n], of each sample by the class that it is taken for: "released": W is their sum, so
    that they weigh whole batches; "per_sample": each weighs its own sample.
    """
    labels = answers.argmax(1)
    distilled = divergence(answers / temperature, experts / temperature).sum(0)  # [n]
    named = torch.stack([F.cross_entropy(expert, labels, reduction="none") for expert in experts]).sum(0)
    own = (experts / temperature).clamp(-_CLAMP, _CLAMP) / temperature
    apart = divergence(own, (experts.mean(0) / temperature).expand_as(own)).mean(1)  # [e]
    terms = {"distillation": distilled.mean(), "labels": named.mean(), "diversity": (1 / apart).sum()}
    each = distilled + label_weight * named
    fitted = each.mean() * weights.sum() if weighting == "released" else (weights * each).sum()
    return fitted + diversity_weight * terms["diversity"], terms


class Experts(nn.Module):
    """Several classifiers on the same features [n, d]: each a layer to ``bottleneck`` numbers, one batch norm
    for all, a layer to the classes. Returns logits [e, n, k].
    """

    def __init__(self, features: int, bottleneck: int, num_classes: int, count: int):
        super().__init__()
        self.bottlenecks = nn.ModuleList(nn.Linear(features, bottleneck, bias=False) for _ in range(count))
        self.norm = nn.BatchNorm1d(bottleneck, eps=0.001)
        self.heads = nn.ModuleList(nn.Linear(bottleneck, num_classes) for _ in range(count))

    def forward(self, features: Tensor) -> Tensor:
        """Logits [e, n, k] of features [n, d]."""
        pairs = zip(self.bottlenecks, self.heads, strict=True)
        return torch.stack([head(self.norm(bottleneck(features))) for bottleneck, head in pairs])


@dataclass(kw_only=True, eq=False, repr=False)
class LongTailedSurrogate(Surrogates):
    """Experts that stand in for the target: their mean logits [n, k] of images float [n, 3, h, w] in [0, 1]
    as the generator draws them.

    Kept besides: ``codes`` [size, w_dim], the pictures of which the target was shown, not truncated, and
    ``answers`` [size, k], its log-probabilities.
    """

    num_classes: int  # of the target
    search: InitialSelection  # which pictures the target is shown (released: 2,500, psi 0.7 in 8 layers)
    image_to_target: Sequence[Callable[[Tensor], Tensor]]  # named steps before the target, as in the attack
    image_to_surrogate: Sequence[Callable[[Tensor], Tensor]]  # and before the surrogate
    network: Classifier  # whose features the experts see
    weights: str | None  # file of ``network``'s; None: random
    #: The layer of ``network`` in whose place the experts stand; they see what comes into it.
    replaces: str
    train_network: bool  # or the experts alone (released)
    experts: Count  # (released: 3)
    bottleneck: Count  # (released: 512)
    epochs: Count  # over the pictures (released: 200)
    #: Of them in training mode, the rest with the statistics of batch norms as they are then (released: 1,
    #: because the first look at test images ends it).
    norm_epochs: Natural
    batch_size: Count  # (released: 128)
    lr: LearningRate  # of Adam (released: 1e-3)
    temperature: Positive  # (released: 0.5)
    label_weight: NonNegative  # (released: 0.15)
    diversity_weight: NonNegative  # (released: 10)
    top: Count  # best classes of an answer that count as named by it (released: 10)
    beta: BelowOne  # of ``class_weights`` (released: 0.9)
    weighting: Weighting  # "released" or "per_sample", see ``long_tailed_loss``

    codes: Tensor = field(init=False)
    answers: Tensor = field(init=False)

    uses_prior = True

    def __post_init__(self) -> None:
        """Make the untrained experts. Raises ConfigError for impossible numbers and a layer that is none."""
        part = "attack.surrogates"
        require_counts(
            part,
            experts=self.experts,
            bottleneck=self.bottleneck,
            epochs=self.epochs,
            batch_size=self.batch_size,
            top=self.top,
        )
        require_numbers(
            part,
            lr=self.lr,
            temperature=self.temperature,
            label_weight=self.label_weight,
            diversity_weight=self.diversity_weight,
            beta=self.beta,
        )
        one_of(f"{part}.weighting", self.weighting, Weighting)
        layer = dict(self.network.named_modules()).get(self.replaces)
        if not isinstance(layer, nn.Linear):
            linear = [name for name, at in self.network.named_modules() if isinstance(at, nn.Linear)]
            raise ConfigError(
                f"{part}.replaces={self.replaces} is no linear layer of {type(self.network).__name__}; it "
                f"has {', '.join(linear)}"
            )
        self.classifiers = Experts(layer.in_features, self.bottleneck, self.num_classes, self.experts)
        self.register_buffer("codes", torch.empty(0))
        self.register_buffer("answers", torch.empty(0))

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state dict; codes and answers have the shapes of the prior and the target."""
        for name in ("codes", "answers"):
            setattr(self, name, torch.empty_like(tensors[name]))
        super().restore(tensors)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [n, k] of images float [n, 3, h, w] as the generator draws them: the mean of the experts."""
        mean: Tensor = self.classifiers(self.features(apply(self.image_to_surrogate, images))).mean(0)
        return mean

    def features(self, images: Tensor) -> Tensor:
        """What comes into the layer that the experts replace, [n, d] of images of the network's size."""
        found: list[Tensor] = []
        layer = self.network.get_submodule(self.replaces)
        hook = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))
        try:
            self.network(images)
        finally:
            hook.remove()
        return found[0]

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
        """Show the victim ``search.size`` pictures, each once (twice with ``search.flip``), and learn its
        answers. Returns the last terms of the loss, how often the surrogate names the same class as the
        victim on these pictures (percent), and the ``queries``.

        Raises ConfigError for a victim that gives no scores or gives more than these, and for a prior without
        codes, DivergedError when training diverges, CheckpointError for weights that do not fit.
        """
        if not isinstance(victim, ScoreVictim) or prior is None:
            raise ConfigError(
                "the long-tailed surrogate learns the target's scores of pictures of a prior; use it with "
                "attack smile"
            )
        style = style_prior(prior)
        self.to(runtime.device)
        if self.weights is not None:
            load_backbone(self.network, self.weights, fresh_head=True)
        drawn = ItemRNG(seed, "smile", items=torch.zeros(1, dtype=torch.long)).to(runtime.device)
        self.codes = self.search.codes(style, drawn)
        saved = checkpoint.load(work / _ANSWERS)
        if saved is None:
            asked = partial(self._ask, victim)
            answers = torch.cat(self._of_pictures(style, runtime, asked, victim))
            victim.check_answers()
            saved = {"answers": log_scores(answers).cpu()}
            require_finite(saved, "the target's answers to pictures", "give a healthy target")
            checkpoint.save(work / _ANSWERS, saved)
        self.answers = saved["answers"].to(runtime.device)
        seen = torch.cat(self._of_pictures(style, runtime, self._kept))
        numbers = self._learn(seen, seed, work / _CHECKPOINT, runtime)
        queries = self.search.size * (2 if self.search.flip else 1)
        return {**numbers, "agreement": self._agreement(seen), "queries": queries}

    def _ask(self, victim: ScoreVictim, pictures: Tensor) -> Tensor:
        """The victim's scores [n, k] of pictures; with ``search.flip`` their mean with the mirrored ones'."""
        return self.search.ask(victim, apply(self.image_to_target, pictures))

    def _of_pictures(
        self,
        prior: StylePrior,
        runtime: Runtime,
        look: Callable[[Tensor], Tensor],
        victim: ScoreVictim | None = None,
    ) -> list[Tensor]:
        """What ``look`` makes of the pictures of all codes, truncated and clipped, some at a time."""

        @torch.no_grad()
        def at(part: slice) -> Tensor:
            return look(self.search.render(prior, self.codes[part]))

        at_once = min(self.search.batch, runtime.chunk)
        return [*in_batches(at, len(self.codes), at_once, what="pictures", victim=victim)]

    def _kept(self, pictures: Tensor) -> Tensor:
        """What is kept of pictures: images for the network or, if it does not learn, its features."""
        images = apply(self.image_to_surrogate, pictures)
        return images if self.train_network else self.eval().features(images)

    def _classify(self, kept: Tensor) -> Tensor:
        """The logits [e, n, k] of what ``_kept`` gave."""
        logits: Tensor = self.classifiers(self.features(kept) if self.train_network else kept)
        return logits

    def _learn(self, seen: Tensor, seed: int, file: Path, runtime: Runtime) -> dict[str, float]:
        """Train the experts, and the network with ``train_network``. Returns the terms of the last loss."""
        device = runtime.device
        batches = Shuffled(len(seen), self.batch_size, seed=seed, purpose="smile", device=device)
        steps = self.epochs * batches.per_epoch
        learner: nn.Module = self if self.train_network else self.classifiers
        adam = torch.optim.Adam([p for p in learner.parameters() if p.requires_grad], lr=self.lr)
        by_class = class_weights(self.answers, top=self.top, beta=self.beta)
        weights = by_class[self.answers.argmax(1)]
        checkpoints = Checkpointer(file, runtime.checkpoint_seconds, runtime.clock)
        saved = checkpoints.load()
        start, newest = 0, torch.zeros(len(_TERMS), device=device)
        if saved is not None:
            start, newest = saved["step"], saved["newest"].to(device)
            learner.load_state_dict(saved["learner"])
            adam.load_state_dict(saved["adam"])
        classify = runtime.numerics.call(self._classify)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), checkpoints:

            def values() -> dict[str, float]:
                return {"loss": float(newest[0])}

            for step in runtime.bar(range(start, steps), "learning scores", steps, start, values):
                torch.manual_seed(seeding.derive(seed, "smile", "step", step))  # of dropout
                learner.train(step < self.norm_epochs * batches.per_epoch)
                rows = batches.rows(step)
                loss, terms = long_tailed_loss(
                    classify(seen[rows]),
                    self.answers[rows],
                    weights[rows],
                    temperature=self.temperature,
                    label_weight=self.label_weight,
                    diversity_weight=self.diversity_weight,
                    weighting=self.weighting,
                )
                adam.zero_grad()
                loss.backward()
                adam.step()
                newest = torch.stack((loss, *terms.values())).detach()
                done = step + 1
                if done % LOG_EVERY == 0:
                    runtime.tracker.log(_told(newest, done), done)
                if done < steps and checkpoints.due():
                    _told(newest, done)  # what has diverged is not continued from
                    kept = {"learner": learner.state_dict(), "adam": adam.state_dict()}
                    checkpoints.save({**kept, "step": done, "newest": newest})
        self.eval()
        return _told(newest, steps)

    @torch.no_grad()
    def _agreement(self, seen: Tensor) -> float:
        """Percent of the pictures of which the surrogate names the same class as the target."""
        parts = [self._classify(seen[i : i + self.batch_size]) for i in range(0, len(seen), self.batch_size)]
        named = torch.cat([part.mean(0).argmax(1) for part in parts])
        return 100 * float((named == self.answers.argmax(1)).float().mean())


_TERMS = ("loss", "distillation", "labels", "diversity")


def _told(newest: Tensor, done: int) -> dict[str, float]:
    """The terms of a step. Raises DivergedError when they are not finite."""
    values = newest.tolist()
    if not all(map(math.isfinite, values)):
        raise DivergedError(f"the surrogate diverged before step {done}", "lower attack.surrogates.lr")
    return dict(zip(_TERMS, values, strict=True))
