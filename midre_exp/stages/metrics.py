"""What the evaluator says of the reconstructions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midre_exp import metrics
from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, build, trusted_packages, without
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage
from midre_exp.stages.classifier import Evaluator
from midre_exp.stages.features import FeaturesStage
from midre_exp.stages.judging import floats_of, judging, measured, ready
from midre_exp.stages.preflight import make_once, size_after
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.requirements import file_needs, library_needs
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.stages.parts import Parts


class MetricsStage(Stage):
    """Evaluate the reconstructions; a metric that cannot be computed is kept by name with its reason."""

    name = "metrics"
    version = 3
    makers = ("midre_exp.metrics.evaluation", "midre_exp.targets.assemble", "defenses.compose")
    highlights = {"att_acc1": "attack accuracy {:.1f} %"}
    is_tracked = False  # the record of the finished run tells the tracker of these numbers

    def is_part_of(self, settings: Settings) -> bool:
        return settings["attack"]["shard"] is None

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        judged = judging(settings)
        shown = {"image_to_evaluator": judged.steps, **({"pictures": "floats"} if judged.floats else {})}
        return {
            "data": fingerprint("evaluation"),
            "metrics": {**without(settings["metrics"], "pictures"), "measure": measured(settings), **shown},
        }

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        rendered = ("prior",) if judging(settings).rendered else ()
        return ("attack", "evaluator", "features", *rendered)

    def check(self, settings: Settings, parts: Parts) -> None:
        """Weights of networks that metrics look through may be missing: the record then says so."""
        trusted, judged = trusted_packages(settings), judging(settings)
        if judged.rendered and not parts.attack.latents_suffice:
            raise ConfigError(
                f"attack {settings['attack']['name']} is to be judged by floats, which its latents alone do "
                "not give again; use attack.keep_floats=true, or metrics.pictures=eight_bit"
            )
        kind = "midre_exp.targets.predict.Step"
        steps = [build(step, kind=kind, trusted=trusted) for step in judged.steps]
        seen = size_after(steps, int(settings["resolution"]))
        if seen != settings["evaluator"]["resolution"]:
            Evaluator().check_size(settings, seen, "metrics.image_to_evaluator", parts.undefended)
        for metric in measured(settings).values():
            if metric is not None:
                make_once(partial(build, metric, kind="midre_exp.metrics.Metric", trusted=trusted))

    def make(
        self,
        job: Job,
        attack: Artifact,
        evaluator: Artifact,
        evaluation: Dataset,
        features: Artifact | None = None,
        prior: Artifact | None = None,
    ) -> None:
        reconstructions = finite_tensors(attack, "reconstructions")
        judged = judging(job.settings)
        model, train = Evaluator().judge(job, evaluator), evaluation.load("train")
        floats = None
        if judged.floats:
            generator = None
            if prior is not None:
                generator = ready(job, PriorStage().load(job.settings, prior, train.num_classes))
            floats = floats_of(job, reconstructions, generator)
        numbers, missing, predicted = metrics.evaluate_stored(
            {
                **job.settings["metrics"],
                "image_to_evaluator": judged.steps,
                "measure": measured(job.settings),
            },
            reconstructions,
            model,
            train,
            device=job.runtime.device,
            numerics=job.numerics,
            trusted=job.trusted,
            known=None if features is None else FeaturesStage().load(job.settings, features),
            floats=floats,
        )
        if missing:
            job.runtime.say(f"metrics not measured: {', '.join(missing)}; the record says why")
        counted = reconstructions.get("selected")
        job.work.save_tensors("judgement", {"predicted": predicted})
        job.work.metrics.update(
            numbers,
            missing=missing,
            per_identity={"att_acc1": metrics.hits_by_identity(reconstructions, predicted)},
            counts={"counted": len(predicted) if counted is None else int(counted.sum())},
            judged={
                "pictures": "floats" if judged.floats else "eight_bit",
                "image_to_evaluator": [str(step["_target_"]).rpartition(".")[2] for step in judged.steps],
            },
        )

    def memory_remedy(self, settings: Settings) -> str:
        return "end other programs there, or set runtime.device=cpu"

    def describe(self, settings: Settings) -> str:
        target = f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
        return f"of {settings['attack']['name']} on {target}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        """Weights of networks that metrics look through: without them the run goes on."""
        for name, metric in measured(settings).items():
            weights = (metric or {}).get("weights", ...)
            if weights is None:
                key = _weights_key(metric)
                text = f"{name} will be reported as not measured; set {key} to measure it"
                yield Requirement(False, f"no {name}", text)
            elif weights == "imagenet":
                inception = {"_target_": "midre_exp.targets.InceptionV3"}
                node = {**inception, "auxiliary": False, "transform_input": False}
                yield from library_needs(node, (), remember)
            elif weights == "vggface2":
                yield from _hub_needs(name, metrics.VGGFACE2, "facenet-pytorch", "face_weights")
            elif weights == "pytorch_fid":
                yield from _hub_needs(name, metrics.PYTORCH_FID, "pytorch-fid", "fid_weights")
            elif weights is not ...:
                yield from file_needs(weights, f"metrics.measure.{name}.weights", blocks=False)


def _weights_key(metric: Mapping[str, Any]) -> str:
    """The key of a config that chooses the weights of a metric of ours."""
    if str(metric["_target_"]).endswith(".FaceDistance"):
        return "face_weights"
    return "fid_weights" if metric.get("program") in ("ppa", "lomma") else "inception_weights"


def _hub_needs(name: str, file: str, publisher: str, key: str) -> Iterator[Requirement]:
    import torch  # planning loads this module

    path = Path(torch.hub.get_dir()) / "checkpoints" / file
    if not path.exists():
        yield Requirement(
            False,
            f"no {name}",
            f"{name} will be reported as not measured: {path} does not exist; put the release file of "
            f"{publisher} there or set {key} to its path",
        )
