"""What the networks of metrics see in the private images: once for all attacks that are compared with them.

The evaluator and Inception look at the private images of the attacked identities whatever the attack, defense
and seed, so every run with the same evaluator takes this from the store and shows them reconstructions alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from midre_exp import metrics
from midre_exp.metrics.extractors import extractors, of_clouds
from midre_exp.plan.config import Settings
from midre_exp.stages.base import Fingerprint, Job, Stage
from midre_exp.stages.classifier import Evaluator
from midre_exp.stages.preflight import size_after
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.metrics.private import PrivateFeatures
    from midre_exp.stages.parts import Parts


class FeaturesStage(Stage):
    """Show the private images to the networks that metrics compare through."""

    name = "features"
    makers = ("midre_exp.metrics.private", "midre_exp.targets.assemble", "defenses.compose")
    is_intermediate = True
    is_tracked = False

    def is_part_of(self, settings: Settings) -> bool:
        return settings["attack"]["shard"] is None and bool(extractors(settings["metrics"]["measure"]))

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        measure = settings["metrics"]["measure"]
        looked_through = extractors(measure)
        resized = any(each.kind == "inception" for each in looked_through)
        return {
            "data": fingerprint("evaluation"),
            "identities": settings["attack"]["identities"],
            "extractors": [each._asdict() for each in looked_through],
            "clouds": [each._asdict() for each in of_clouds(measure)],
            # Inception sees private images at the size of the reconstructions
            **({"pictures": _pictures(settings)} if resized else {}),
        }

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("evaluator",)

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the evaluator and the metrics."""

    def make(self, job: Job, evaluation: Dataset, evaluator: Artifact) -> None:
        train, measure = evaluation.load("train"), job.settings["metrics"]["measure"]
        rows = (train.labels < job.settings["attack"]["identities"]).nonzero().squeeze(1)
        steps = (
            job.parts.attack.image_to_target if job.parts.attack.picture is None else job.parts.attack.picture
        )
        made = int(job.settings["attack"]["prior"].get("image_size", job.settings["resolution"]))
        seen, missing = metrics.private_features(
            measure,
            Evaluator().judge(job, evaluator),
            train.images,
            rows,
            pixels=size_after(steps, made),
            runtime=job.runtime,
        )
        tensors = {"rows": seen.rows}
        for number, extractor in enumerate(extractors(measure)):
            if extractor in seen.of:
                tensors[f"features_{number}"] = seen.of[extractor]
            if extractor in seen.clouds:
                tensors[f"mean_{number}"], tensors[f"root_{number}"] = seen.clouds[extractor]
        job.work.save_tensors("features", tensors)
        job.work.metrics.update(pixels=seen.pixels, missing=missing, counts={"private": len(rows)})

    def load(self, settings: Settings, artifact: Artifact) -> PrivateFeatures:
        """For the metrics of a run."""
        from midre_exp.metrics.fid import Cloud  # planning loads this module, and no torch

        tensors, known = artifact.tensors("features"), extractors(settings["metrics"]["measure"])
        numbered = dict(enumerate(known))
        return metrics.PrivateFeatures(
            tensors["rows"],
            int(artifact.metrics["pixels"]),
            {each: tensors[f"features_{n}"] for n, each in numbered.items() if f"features_{n}" in tensors},
            {
                each: Cloud(tensors[f"mean_{n}"], tensors[f"root_{n}"])
                for n, each in numbered.items()
                if f"mean_{n}" in tensors
            },
        )

    def describe(self, settings: Settings) -> str:
        kinds = dict.fromkeys(each.kind for each in extractors(settings["metrics"]["measure"]))
        seen = [str(settings["evaluator"]["name"]) if kind == "evaluator" else kind for kind in kinds]
        return f"private images as {' and '.join(seen)} see them"


def _pictures(settings: Settings) -> object:
    """What tells the size of the pictures that an attack keeps: a number where the last of its steps is one
    of ours, which makes squares of its ``size``, else all of them and the size that they begin with.
    """
    attack = settings["attack"]
    steps = attack.get("image_to_target") if attack.get("picture") is None else attack["picture"]
    made = attack["prior"].get("image_size", settings["resolution"])
    if not steps:
        return made
    last = steps[-1]
    ours = str(last["_target_"]).startswith("midre_exp.data.transforms.")
    return last["size"] if ours and "size" in last else {"steps": steps, "image_size": made}
