"""What one judge says of stored reconstructions, item by item, and of pictures that show nobody in
particular: the negative controls of its numbers. The attack is never repeated.

Controls are pictures that the prior draws at random, as many as there are reconstructions and in their
places, and the reconstructions themselves, scored as pictures of another person. A prior that draws classes
is asked for that other person's: a picture made of somebody is no control for him.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from midre_exp import metrics
from midre_exp.plan.config import Settings, build, trusted_packages
from midre_exp.stages.base import Fingerprint, Job, Stage
from midre_exp.stages.classifier import Evaluator
from midre_exp.stages.judging import floats_of, judging, ready, rendered_at_once
from midre_exp.stages.preflight import size_after
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from torch import Tensor

    from midre_exp.metrics.judge import Judge
    from midre_exp.priors.base import Prior
    from midre_exp.stages.parts import Parts

_STEP = "midre_exp.targets.predict.Step"


class VerdictsStage(Stage):
    """Of the evaluator, whose look at the reconstructions ``metrics`` has kept."""

    name = "verdicts"
    makers = (
        *("midre_exp.metrics.evaluation", "midre_exp.metrics.jury", "midre_exp.priors.base"),
        *("midre_exp.targets.assemble", "defenses.compose"),
    )
    is_tracked = False
    in_run_key = False

    def is_part_of(self, settings: Settings) -> bool:
        return settings["attack"]["shard"] is None

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        judged = judging(settings)
        return {"image_to_evaluator": judged.steps, "pictures": "floats" if judged.floats else "eight_bit"}

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("attack", "evaluator", "prior", "metrics")

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the evaluator, the prior and the metrics."""

    def make(
        self,
        job: Job,
        attack: Artifact,
        evaluator: Artifact,
        prior: Artifact,
        metrics: Artifact | None = None,
    ) -> None:
        # planning loads this module, and no torch
        import torch

        from midre_exp.metrics import jury
        from midre_exp.metrics.judge import Judge

        reconstructions = finite_tensors(attack, "reconstructions")
        classes = int(evaluator.metrics["counts"]["private_identities"])
        generator = ready(job, PriorStage().load(job.settings, prior, classes))
        judged = judging(job.settings)
        steps = tuple(build(step, kind=_STEP, trusted=job.trusted) for step in judged.steps)
        judge = Judge(Evaluator().judge(job, evaluator), steps, job.runtime.device, job.numerics)
        labels = reconstructions["labels"]
        everyone = torch.ones_like(labels, dtype=torch.bool)
        counted = reconstructions.get("selected", everyone).bool()
        if metrics is None:
            predicted = self._look(job, reconstructions, judge, generator)
        else:
            predicted = metrics.tensors("judgement")["predicted"]
        known = ~reconstructions.get("failed", ~everyone).bool()
        hits = ((predicted == labels) & known)[counted]
        job.work.save_tensors("verdicts", {"predicted": predicted, "hits": hits, "labels": labels[counted]})
        controls: dict[str, Any] = {"chance": 100 / classes, "pictures": len(hits)}
        if len(hits):
            own = labels[counted]
            other = jury.other_identity(own)
            if other is not None:
                as_other = (predicted[counted] == other) & known[counted]
                controls["other_identity"] = jury.share_of(as_other, own)
            drawn = (own + 1) % classes if other is None else other
            del reconstructions
            seen = _random_pictures(job, judge, generator, drawn, floats=judged.floats)
            controls["prior"] = jury.share_of(seen == own, own)
            job.work.metrics["per_identity"] = {"att_acc1": jury.by_identity(hits, own)}
        job.work.metrics["controls"] = controls

    def _look(self, job: Job, reconstructions: Mapping[str, Tensor], judge: Judge, prior: Prior) -> Tensor:
        """The class that the judge sees in each; its accuracies become numbers of the stage."""
        from midre_exp.data.base import ImageSet  # planning loads this module, and no torch

        judged, images = judging(job.settings), reconstructions["images"]
        floats = (
            floats_of(job, reconstructions, prior if judged.rendered else None) if judged.floats else None
        )
        numbers, missing, predicted = metrics.evaluate_stored(
            {"image_to_evaluator": judged.steps, "measure": _accuracies(job.settings)},
            reconstructions,
            judge.network,
            ImageSet(images[:0], reconstructions["labels"][:0], ()),
            device=job.runtime.device,
            numerics=job.numerics,
            trusted=job.trusted,
            floats=floats,
        )
        job.work.metrics.update(numbers, missing=missing)
        return predicted

    def memory_remedy(self, settings: Settings) -> str:
        return "end other programs there, or set runtime.device=cpu"

    def describe(self, settings: Settings) -> str:
        return f"of {settings['evaluator']['name']} on {settings['attack']['name']}"


class FurtherVerdicts(VerdictsStage):
    """Of a further judge, who looks for himself."""

    highlights = {"att_acc1": "attack accuracy {:.1f} %"}

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {**super().inputs(settings, fingerprint), "measure": _accuracies(settings)}

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("attack", "evaluator", "prior")

    def check(self, settings: Settings, parts: Parts) -> None:
        """Whether pictures come to the judge at a size that goes through it."""
        trusted = trusted_packages(settings)
        steps = [build(step, kind=_STEP, trusted=trusted) for step in judging(settings).steps]
        seen = size_after(steps, int(settings["resolution"]))
        if seen != settings["evaluator"]["resolution"]:
            Evaluator().check_size(settings, seen, "metrics.image_to_evaluator", parts.undefended)


def _accuracies(settings: Settings) -> dict[str, Any]:
    """The attack accuracies that the evaluator is asked for."""
    measure = settings["metrics"]["measure"]
    return {
        name: node
        for name, node in measure.items()
        if node is not None and str(node["_target_"]) == "midre_exp.metrics.AttackAccuracy"
    }


def _random_pictures(job: Job, judge: Judge, prior: Prior, drawn: Tensor, *, floats: bool) -> Tensor:
    """The class that the judge sees in each of as many pictures of random latents, which go the way of the
    attack's own; of a prior that draws classes they are of ``drawn`` int64 [n].
    """
    import torch  # planning loads this module

    from midre_exp.memory.batches import in_batches
    from midre_exp.seeding import generator, normal
    from midre_exp.targets.predict import predicted_classes

    attack, device = job.parts.attack, job.runtime.device
    latents = normal(generator(0, "random pictures"), len(drawn), prior.latent_dim)

    @torch.no_grad()
    def look(part: slice) -> Tensor:
        images = prior.generate(latents[part].to(device), drawn[part].to(device))
        pictures = attack.pictures(images).float()
        return predicted_classes(judge.look(pictures if floats else attack.in_eight_bits(pictures))[0])

    at_once = rendered_at_once(job.settings)
    return torch.cat([*in_batches(look, len(drawn), at_once, what="random pictures")])
