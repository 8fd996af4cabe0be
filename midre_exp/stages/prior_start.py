"""The start of a prior that is trained against a target (``attack.prior.start_steps``): the same GAN for one
class, from public images alone, so that one serves every target, defense and seed of a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from midre_exp import priors
from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, Trusted, trusted_packages, without
from midre_exp.plan.keys import is_pretrained
from midre_exp.stages.base import Fingerprint, Job, Stage, lower
from midre_exp.stages.preflight import make_once
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.priors.base import Prior
    from midre_exp.priors.gan_prior import StartedPrior
    from midre_exp.stages.parts import Parts

#: Of a prior's node, what concerns its training against the target alone.
_LATER = ("steps", "epochs")


def with_start(prior: Prior) -> StartedPrior:
    """The prior, which must be one that can have a start."""
    from midre_exp.priors.gan_prior import StartedPrior  # planning loads this module, and no torch

    if not isinstance(prior, StartedPrior):
        raise ConfigError(f"{type(prior).__name__} has no start; use attack.prior.start_steps=null")
    return prior


def one_class(node: Mapping[str, Any], trusted: Trusted) -> StartedPrior:
    """The untrained prior of a node for a single class. Raises ConfigError for a prior without a start."""
    return with_start(priors.initial_prior(node, trusted, num_classes=1))


class PriorStartStage(Stage):
    """Train the start, if the prior asks for one."""

    name = "prior_start"
    makers = ("midre_exp.priors.base",)

    def is_part_of(self, settings: Settings) -> bool:
        node = settings["attack"]["prior"]
        return bool(node.get("start_steps")) and not is_pretrained(node)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("public"), "prior": without(settings["attack"]["prior"], *_LATER)}

    def check(self, settings: Settings, parts: Parts) -> None:
        node = settings["attack"]["prior"]
        make_once(partial(one_class, node, trusted_packages(settings)))

    def make(self, job: Job, public: Dataset) -> None:
        node = job.settings["attack"]["prior"]
        images = public.load("public")
        start = one_class(node, job.trusted)
        numbers = start.fit_start(images, seed=node["seed"], work=job.work.path, runtime=job.runtime)
        priors.check_images(start.to(job.runtime.device).eval(), pretrained=False)
        job.work.save_tensors("weights", start.state_dict())
        job.work.metrics.update(numbers, counts={"public": len(images)})

    def begin(self, prior: Prior, artifact: Artifact) -> None:
        """Let an untrained prior begin from the start."""
        with_start(prior).start_from(finite_tensors(artifact))

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "attack.prior.batch_size")

    def describe(self, settings: Settings) -> str:
        return f"start of {settings['attack']['prior']['name']}"
