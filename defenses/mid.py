"""MID: a variational information bottleneck in place of the classifier's head, and a penalty on what passes
it (Wang et al. 2021).

The noise of the bottleneck stays on after training, so accuracy and the attacker's gradients are random, as
in the released code.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses.base import Batch, Classify, Defense, Informed, TrainingProgress
from defenses.parts.options import check_choice, check_flag
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import NonNegative
from midre_exp.seeding import generator, moved, normal
from midre_exp.targets.base import Classifier, Output

#: What the bottleneck passes on outside training: a draw, or the mean of all draws.
EVAL_NOISE = ("sample", "mean")
#: Subtracted before the softplus, so that training starts almost without noise (released code).
OFFSET = 5.0


def bottleneck_std(raw: Tensor) -> Tensor:
    """Standard deviation of the bottleneck, softplus(raw - 5); any shape."""
    return F.softplus(raw - OFFSET)


def log_bottleneck_std(raw: Tensor) -> Tensor:
    """Its logarithm, finite with finite gradient for every finite ``raw``: below -30 softplus(x) is e^x to
    the last bit.
    """
    x = raw - OFFSET
    low = x < -30
    return torch.where(low, x, F.softplus(torch.where(low, 0, x)).log())


def bottleneck_kl(mu: Tensor, raw: Tensor) -> Tensor:
    """KL(N(mu, std^2) || N(0, 1)) summed over the dimensions: [n] >= 0 from ``mu`` and ``raw`` [n, k]."""
    return -(0.5 + log_bottleneck_std(raw) - (mu**2 + bottleneck_std(raw) ** 2) / 2).sum(1)


class Bottleneck(nn.Module):
    """A head that adds noise: features [n, d] to logits [n, k] by way of half as many, noisy, dimensions.

    In training the noise comes from torch's global generator, as dropout's does: the engine seeds it from the
    run's seed at the start of every epoch, so a resumed training draws what an unbroken one does. Outside
    training it comes from a generator of the head's own with a fixed seed, which ``rewind`` sets back; it is
    no part of the state dict.
    """

    def __init__(self, features: int, num_classes: int, *, eval_noise: str):
        super().__init__()
        self.statistics = nn.Linear(features, 2 * (features // 2))
        self.classifier = nn.Linear(features // 2, num_classes)
        self.eval_noise = eval_noise
        self.noise: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        """Logits [n, k] of features [n, d]."""
        z, raw = self.moments(features)
        if self.training:
            z = z + bottleneck_std(raw) * normal(None, *z.shape, device=z.device).to(z)
        elif self.eval_noise == "sample":
            if self.noise is None:
                self.noise = generator(0, "mid", "noise")
            noise = moved(torch.randn(z.shape, dtype=z.dtype, generator=self.noise), z.device)
            z = z + bottleneck_std(raw) * noise
        logits: Tensor = self.classifier(z)
        return logits

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """``mu`` and ``raw`` [n, d // 2] of features [n, d], at least in single precision."""
        statistics: Tensor = self.statistics(features)
        mu, raw = statistics.to(torch.promote_types(statistics.dtype, torch.float32)).chunk(2, 1)
        return mu, raw

    def rewind(self) -> None:
        """Let the noise outside training start from its beginning."""
        self.noise = None


@dataclass(kw_only=True, eq=False)
class MID(Defense):
    """Mutual information regularisation: CE + beta KL(N(mu(x), std(x)^2) || N(0, 1)), logits from a draw.

    Wang et al. 2021, "Improving Robustness to Model Inversion Attacks via Mutual Information Regularization".
    """

    exclusive = frozenset({"head"})
    couples_images = True

    beta: NonNegative  # weight of the divergence, >= 0; 0 leaves only the noise
    eval_noise: str  # sample | mean: what the bottleneck passes on outside training
    drop_feature_norm: bool  # leave out the model's own normalisation of the features (VGG16 has one)
    head: Bottleneck | None = field(init=False, default=None)  # of the model in training

    def __post_init__(self) -> None:
        if not isinstance(self.beta, (int, float)) or not 0 <= self.beta < math.inf:
            raise ConfigError(
                f"defense.mid.beta={self.beta} must be a number from 0 on; 0 leaves only the noise"
            )
        check_choice("mid.eval_noise", self.eval_noise, EVAL_NOISE)
        check_flag("mid.drop_feature_norm", self.drop_feature_norm)

    @property
    def label(self) -> str:
        return f"MID {self.beta:g}"

    def replace_head(self, model: Classifier) -> None:
        """Put the bottleneck where the linear head was. Raises ConfigError for a model with another head or a
        single feature.
        """
        head = model.head
        if not isinstance(head, nn.Linear) or head.in_features < 2:
            raise ConfigError(
                "defense.mid replaces a linear layer on at least two features, and the head of "
                f"{type(model).__name__} "
                f"is {head}; leave mid out or choose another target"
            )
        if self.drop_feature_norm and model.feature_norm:
            model.set_submodule(model.feature_norm, nn.Identity())
        model.head = Bottleneck(head.in_features, head.out_features, eval_noise=self.eval_noise)
        self.head = _bottleneck(model)

    def extra_losses(
        self,
        output: Output,
        batch: Batch,
        progress: TrainingProgress,
        *,
        classify: Classify,
        generator: torch.Generator,
    ) -> Mapping[str, Tensor]:
        """Beta times the divergence, mean over the batch."""
        if self.head is None:
            raise RuntimeError("MID makes its bottleneck in replace_head, which was not called")
        return {"kl": self.beta * bottleneck_kl(*self.head.moments(output.features)).mean()}

    def on_epoch(self, model: Classifier, progress: TrainingProgress) -> None:
        """Give every epoch's validation the same noise, whether training was interrupted or not."""
        self.head = _bottleneck(model)  # of the model in training, should more than one have been made
        self.head.rewind()

    def on_inference(self, model: Classifier) -> None:
        """Start the noise anew, so that the model behaves alike right after training and read from a file."""
        _bottleneck(model).rewind()

    def informed(self, model: Classifier) -> Informed:
        if self.eval_noise == "mean":
            return Informed(reason="the bottleneck passes on its mean, so the attack is the plain one")
        return Informed(
            target=(mean_of_noise,),
            reason="who holds the weights knows the mean of the noise, and follows its gradient",
        )


def mean_of_noise(model: Classifier) -> None:
    """Let the bottleneck pass on the mean of its draws."""
    _bottleneck(model).eval_noise = "mean"


def _bottleneck(model: Classifier) -> Bottleneck:
    if not isinstance(model.head, Bottleneck):
        raise RuntimeError(f"the head of {type(model).__name__} is no bottleneck of MID")
    return model.head
