"""What an attack prepares against the target besides its prior (LOMMA's students and feature statistics). A
stage of its own, so that attacks which prepare the same share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from midre_exp import surrogates
from midre_exp.plan.config import Settings, trusted_packages
from midre_exp.plan.deployment import asks_answers
from midre_exp.plan.keys import uses_prior
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.judging import ready
from midre_exp.stages.preflight import check_files, make_once
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.requirements import data_needs, named_needs
from midre_exp.stages.stored import finite_tensors
from midre_exp.stages.victim import VICTIM, load_victim
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    import torch

    from midre_exp.data.base import Dataset
    from midre_exp.stages.parts import Parts
    from midre_exp.surrogates.base import Surrogates


class SurrogatesStage(Stage):
    """Prepare them from public images and the target's answers."""

    name = "surrogates"
    makers = ("midre_exp.surrogates.base", *VICTIM)

    def is_part_of(self, settings: Settings) -> bool:
        return bool(settings["attack"].get("surrogates"))

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        data = None if of_prior(settings) else fingerprint("public")
        return {"data": data, "surrogates": settings["attack"]["surrogates"]}

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        answers = ("deployment",) if asks_answers(settings) else ()
        return ("target", *answers, *(("prior",) if of_prior(settings) else ()))

    def check(self, settings: Settings, parts: Parts) -> None:
        node, classes = settings["attack"]["surrogates"], settings["attack"]["identities"]
        check_files("attack.surrogates", node)
        make_once(partial(surrogates.initial_surrogates, node, classes, trusted_packages(settings)))

    def make(
        self,
        job: Job,
        public: Dataset,
        target: Artifact,
        deployment: Artifact | None = None,
        prior: Artifact | None = None,
    ) -> None:
        """Of pictures of the ``prior`` where the class says so, else of public images."""
        from midre_exp.data.duplicates import public_duplicates  # planning loads this module, and no torch
        from midre_exp.weights.finite import require_finite  # planning loads this module, and no torch

        node, victim = job.settings["attack"]["surrogates"], load_victim(job, target, deployment)
        made = surrogates.initial_surrogates(node, victim.num_classes, job.trusted)
        images, generator, alarms = None, None, list[str]()
        if prior is None:
            alarms = public_duplicates(job.parts.private, public, job.store.root)
            images = public.load("public")
        else:
            generator = ready(job, PriorStage().load(job.settings, prior, victim.num_classes))
        numbers = made.fit(
            images, victim, prior=generator, seed=node["seed"], work=job.work.path, runtime=job.runtime
        )
        victim.check_answers()
        require_finite(made.state_dict(), "the surrogates", "lower attack.surrogates.lr")
        job.work.save_tensors("weights", made.state_dict())
        job.work.metrics.update(numbers, counts={"public": 0 if images is None else len(images)})
        if alarms:
            job.work.metrics["alarms"] = alarms

    def load(
        self, settings: Settings, artifact: Artifact, num_classes: int, device: torch.device
    ) -> Surrogates:
        """Frozen and in eval mode on the device."""
        node = settings["attack"]["surrogates"]
        made = surrogates.initial_surrogates(node, num_classes, trusted_packages(settings))
        made.restore(finite_tensors(artifact))
        return made.to(device).eval().requires_grad_(False)

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "attack.surrogates.batch_size")

    def describe(self, settings: Settings) -> str:
        name = settings["attack"]["surrogates"]["name"]
        return f"{name} for {settings['target']['name']} with {'+'.join(settings['defense'])}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        if not of_prior(settings):
            yield from data_needs(settings, "public", remember)
        yield from named_needs(settings, "attack.surrogates")


def of_prior(settings: Settings) -> bool:
    """Whether what a run prepares is made of pictures of its prior."""
    return uses_prior(settings["attack"]["surrogates"], trusted_packages(settings))
