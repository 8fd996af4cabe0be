"""What an attack prepares against one target besides its prior: models or statistics made from public images,
or from pictures of the prior, and the victim's answers.

A stage of its own, so that attacks which prepare the same thing (LOMMA+GMI and LOMMA+KedMI) share it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, nn

from midre_exp.data.base import ImageSet
from midre_exp.plan.config import build, without
from midre_exp.runtime import Runtime
from midre_exp.seeding import derive
from midre_exp.targets.dropout import draw_on_the_cpu
from midre_exp.threat import AnyVictim

S = TypeVar("S", bound="Surrogates")


class Generator(Protocol):
    """What surrogates that learn from pictures ask of a prior (``midre_exp.priors.Prior``)."""

    @property
    def latent_dim(self) -> int: ...

    def generate(self, latents: Tensor, labels: Tensor | None = None) -> Tensor: ...


class Surrogates(nn.Module):
    """Base of all surrogates, built by ``_target_`` from the ``surrogates`` node of an attack; its state dict
    is the artifact. Like a prior it is a module whose options are dataclass fields.
    """

    def __new__(cls: type[S], *args: object, **options: object) -> S:
        """An empty module, which the ``__init__`` of a dataclass does not make and its fields may need."""
        surrogates: S = super().__new__(cls)
        nn.Module.__init__(surrogates)
        return surrogates

    #: Whether they are made of pictures of the attack's prior instead of public images: ``fit`` is then given
    #: the trained prior, frozen and on the device, and no public images.
    uses_prior: ClassVar[bool] = False

    @abstractmethod
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
        """Prepare in place on ``runtime.device`` and return final numbers, among them ``queries``, how many
        images the victim classified for it. Continues from the checkpoints in ``work`` with the same result
        as an unbroken run.
        """

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up a state dict; overridden where shapes are known only after ``fit`` (feature statistics)."""
        self.load_state_dict(dict(tensors))


def initial_surrogates(
    node: Mapping[str, Any], num_classes: int, trusted: tuple[str, ...] = ()
) -> Surrogates:
    """The unprepared surrogates of a config node for a target of ``num_classes`` classes, initialised from
    the node's own ``seed``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(node["seed"], "surrogates", "init"))
        surrogates: Surrogates = build(
            without(node, "seed", "name"), num_classes=num_classes, kind=Surrogates, trusted=trusted
        )
    draw_on_the_cpu(surrogates)
    return surrogates
