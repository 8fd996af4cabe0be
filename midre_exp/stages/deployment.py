"""What the deployed target answers in place of its probabilities: defenses that act when it is asked, and not
on its training, made ready on held-out private images and measured on others.

The network is that of the same training without them. Who only sees scores or labels is answered so, and the
accuracy that the owner pays is the one behind the answer; who holds the weights goes past it.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings
from midre_exp.plan.deployment import deployed_defense
from midre_exp.stages.base import Fingerprint, Job, Stage
from midre_exp.stages.classifier import Target
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    import torch
    from torch import Tensor

    from midre_exp.data.base import Dataset
    from midre_exp.defense import Defense
    from midre_exp.stages.parts import Parts
    from midre_exp.threat import Answer

#: The tensors of an artifact that the defenses asked for, where they asked for any.
_CALIBRATED = "calibrated"


class DeploymentStage(Stage):
    """Calibrate what is answered, and measure what it does to held-out private images."""

    name = "deployment"
    makers = ("midre_exp.targets.predict", "midre_exp.targets.assemble", "defenses.compose")
    highlights = {"acc": "acc behind the answer {:.1f} %"}
    is_tracked = False

    def is_part_of(self, settings: Settings) -> bool:
        return bool(deployed_defense(settings))

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("target",)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        nodes = deployed_defense(settings)
        return {"data": fingerprint("private"), "defense": nodes, "order": [*nodes]}

    def check(self, settings: Settings, parts: Parts) -> None:
        """The defense is one of the parts, and was made with them."""

    def make(self, job: Job, target: Artifact, private: Dataset) -> None:
        # planning loads this module, and no torch
        from midre_exp.defense import answers_to
        from midre_exp.targets.predict import accuracy, answers, hits_by_class, predicted_classes

        test, chosen = private.load("test"), [*deployed_defense(job.settings)]
        model = Target().load(job.settings, target, job.parts.trained)
        job.numerics.accelerate(model)
        probabilities = answers(model, test, job.runtime.device).softmax(1)
        defense, given = copy.deepcopy(job.parts.defense), every_second(test.labels)
        calibrated = defense.calibrate(
            probabilities[given], test.images[given], test.labels[given], key=target.key
        )
        measured = ~given if calibrated else given | True
        if not bool(measured.any()):
            raise ConfigError(
                f"defense={'+'.join(chosen)} is calibrated on every second test image of each private "
                "identity and measured on the others, of which there are none; use data with two test images "
                "of an identity or more"
            )
        if calibrated:
            job.work.save_tensors(_CALIBRATED, calibrated)
        defense.deploy(calibrated, key=target.key)
        before, images, labels = probabilities[measured], test.images[measured], test.labels[measured]
        answered = answers_to(defense, before, images)
        changed = predicted_classes(answered) != predicted_classes(before)
        job.work.metrics.update(
            acc=accuracy(answered, labels),
            network_acc=accuracy(before, labels),
            distortion=float((answered.double() - before.double()).abs().sum(1).mean()),
            changed_labels=100 * float(changed.double().mean()),
            test_per_identity=hits_by_class(answered, labels),
            own=own_numbers(defense, before, images),
            counts={"calibrated_on": int(given.sum()) if calibrated else 0, "answered": len(labels)},
        )
        if alarms := [*defense.answer_alarms()]:
            job.work.metrics["alarms"] = alarms

    def load(self, parts: Parts, target: Artifact, deployment: Artifact, device: torch.device) -> Answer:
        """What the target answers, for victims on the device."""
        has_any = f"{_CALIBRATED}.safetensors" in deployment.manifest["files"]
        tensors = finite_tensors(deployment, _CALIBRATED) if has_any else {}
        defense = copy.deepcopy(parts.defense)
        defense.deploy({name: value.to(device) for name, value in tensors.items()}, key=target.key)
        return defense.answer

    def memory_remedy(self, settings: Settings) -> str:
        return "end other programs there, or set runtime.device=cpu"

    def describe(self, settings: Settings) -> str:
        return f"answers of {settings['target']['name']} with {'+'.join(settings['defense'])}"


def own_numbers(defense: Defense, probabilities: Tensor, images: Tensor) -> dict[str, float]:
    """What a deployed defense measures of its answers to images uint8 [n, 3, h, w], mean over them."""
    from midre_exp.data.base import to_float  # planning loads this module, and no torch

    found: dict[str, float] = {}
    for some, shown in zip(probabilities.split(256), images.split(256), strict=True):
        for name, value in defense.measure_answers(some, to_float(shown)).items():
            found[name] = found.get(name, 0.0) + value * len(some) / len(probabilities)
    return found


def every_second(labels: Tensor) -> Tensor:
    """Which of images with ``labels`` int64 [n] are the first, third, fifth ... of their label, bool [n]:
    half of every class, however they are sorted, and one of each that has any.
    """
    import torch  # as above

    order = labels.argsort(stable=True)
    place = torch.arange(len(labels)) - torch.searchsorted(labels[order], labels[order])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[order] = place % 2 == 0
    return chosen
