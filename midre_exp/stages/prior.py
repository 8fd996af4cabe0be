"""The attacker's generator: trained on public images, for some attacks against the target, or loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from midre_exp import priors
from midre_exp.plan.config import Settings, trusted_packages, without
from midre_exp.plan.deployment import asks_answers
from midre_exp.plan.keys import is_pretrained, reads_public, uses_target
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.preflight import check_arguments, check_files, make_once
from midre_exp.stages.requirements import data_needs, file_needs, named_needs
from midre_exp.stages.stored import finite_tensors
from midre_exp.stages.victim import VICTIM, load_victim
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.priors.base import Prior
    from midre_exp.stages.parts import Parts

#: Pixels from which training a StyleGAN2 takes several GPUs for days.
LARGE = 512


class PriorStage(Stage):
    """Train the prior, or load its published weights."""

    name = "prior"
    makers = ("midre_exp.priors.base", *VICTIM)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        attack = settings["attack"]
        return {
            "data": fingerprint("public") if reads_public(attack, trusted_packages(settings)) else None,
            "prior": attack["prior"],
        }

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        if not uses_target(settings["attack"]["prior"], trusted_packages(settings)):
            return ()
        return ("target", *(("deployment",) if asks_answers(settings) else ()))

    def check(self, settings: Settings, parts: Parts) -> None:
        node, trusted = settings["attack"]["prior"], trusted_packages(settings)
        classes = settings["attack"]["identities"]
        check_files("attack.prior", node)
        if isinstance(node.get("pretrained"), str):  # hundreds of megabytes, which would be read here
            own = {"num_classes": classes} if uses_target(node, trusted) else {}
            check_arguments(without(node, "seed", "name"), own, "midre_exp.priors.Prior", trusted)
        else:
            make_once(partial(priors.initial_prior, node, trusted, num_classes=classes))

    def make(
        self, job: Job, public: Dataset, target: Artifact | None, deployment: Artifact | None = None
    ) -> None:
        """Only a prior that declares it sees the ``target``."""
        node = job.settings["attack"]["prior"]
        images, alarms = None, list[str]()
        if not is_pretrained(node):
            # planning loads this module, and no torch
            from midre_exp.data.duplicates import public_duplicates

            images = public.load("public")
            alarms = public_duplicates(job.parts.private, public, job.store.root) + public.alarms("public")
        victim = None if target is None else load_victim(job, target, deployment)
        prior = priors.initial_prior(
            node, job.trusted, num_classes=None if victim is None else victim.num_classes
        )
        numbers = prior.fit(images, victim, seed=node["seed"], work=job.work.path, runtime=job.runtime)
        if victim is not None:
            victim.check_answers()
        priors.check_images(prior.to(job.runtime.device).eval(), pretrained=is_pretrained(node))
        job.work.save_tensors("weights", prior.state_dict())
        counts = {"public": 0 if images is None else len(images)}
        if alarms:
            job.work.metrics["alarms"] = alarms
        if images is not None and (left_out := public.left_out("public")):
            counts["public_left_out"] = left_out
        job.work.metrics.update(numbers, counts=counts)

    def load(self, settings: Settings, artifact: Artifact, num_classes: int) -> Prior:
        """The trained prior, for a target of ``num_classes`` classes."""
        node = settings["attack"]["prior"]
        prior = priors.initial_prior(node, trusted_packages(settings), num_classes=num_classes)
        prior.load_state_dict(finite_tensors(artifact))
        return prior

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "attack.prior.batch_size", "attack.prior.per_class")

    def describe(self, settings: Settings) -> str:
        node = settings["attack"]["prior"]
        if not uses_target(node, trusted_packages(settings)):
            return str(node["name"])
        return f"{node['name']} for {settings['target']['name']} with {'+'.join(settings['defense'])}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        node = settings["attack"]["prior"]
        if reads_public(settings["attack"], trusted_packages(settings)):
            yield from data_needs(settings, "public", remember)
        yield from named_needs(settings, "attack.prior")
        if is_pretrained(node):
            named = node["pretrained"]
            for path in named.values() if isinstance(named, Mapping) else [named]:
                if path is not None:
                    yield from file_needs(path, "attack.prior.pretrained")
        elif node["name"] == "stylegan2":
            large = int(node["image_size"]) >= LARGE
            images = int(node["steps"]) * int(node["batch_size"])
            effort = ", days of eight GPUs, and" if large else ";"
            yield Requirement(
                large,
                "StyleGAN2 weights",
                f"attack.prior.pretrained is null, so StyleGAN2 at {node['image_size']} px would be trained "
                f"from scratch on {images:,} images{effort} reads the public data; give "
                "attack.prior.pretrained=ffhq (afhqdog, the PATH of published weights), which needs "
                "neither",
            )
