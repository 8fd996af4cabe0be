"""What the attacked target is like, whatever attacks it (conf/diagnostics): ``diagnostics`` of the target
alone, ``alignment`` of its gradients with the prior of the attack. Both are added to targets that are there.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from midre_exp.plan.config import Settings, build, trusted_packages
from midre_exp.stages.base import Fingerprint, Job, Stage
from midre_exp.stages.classifier import DEFENSE_STATE, Target
from midre_exp.stages.preflight import make_once
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.stored import finite_tensors
from midre_exp.stages.victim import known_of
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.stages.parts import Parts
    from midre_exp.targets.base import Classifier

_KIND = "midre_exp.diagnostics.Diagnostic"


class DiagnosticsStage(Stage):
    """Measure the target: its robustness, its calibration, what its features and losses tell."""

    name = "diagnostics"
    in_run_key = False
    is_tracked = False
    makers = ("midre_exp.diagnostics.base", "midre_exp.targets.assemble", "defenses.compose")
    highlights = {"summary": "{}"}

    def is_part_of(self, settings: Settings) -> bool:
        return is_diagnosed(settings) and bool(measures(settings))

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("target",)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("private"), "measure": measures(settings)}

    def check(self, settings: Settings, parts: Parts) -> None:
        trusted = trusted_packages(settings)
        for node in measures(settings).values():
            make_once(partial(build, node, kind=_KIND, trusted=trusted))

    def make(self, job: Job, target: Artifact, private: Dataset) -> None:
        # planning loads this module, and no torch
        from midre_exp.diagnostics.base import Subject, diagnose
        from midre_exp.diagnostics.robustness import disagreements

        model = diagnosed_target(job, target)
        subject = Subject(
            model=model,
            steady=lambda: known_of(job.parts.trained, model).network(model),
            train=private.load("train"),
            test=private.load("test"),
            device=job.runtime.device,
        )
        measure = {
            name: build(node, kind=_KIND, trusted=job.trusted)
            for name, node in measures(job.settings).items()
        }
        found = diagnose(subject, measure)
        job.work.metrics.update(
            told=found.told, numbers=found.numbers, missing=found.missing, summary=_summary(found.numbers)
        )
        if found.missing:
            job.runtime.say(f"diagnostics not measured: {', '.join(found.missing)}; the record says why")
        if alarms := [*found.alarms, *disagreements(found.numbers)]:
            job.work.metrics["alarms"] = alarms

    def memory_remedy(self, settings: Settings) -> str:
        return "end other programs there, or set runtime.device=cpu"

    def describe(self, settings: Settings) -> str:
        return f"{settings['diagnostics']['name']} of {_named(settings)}"


class AlignmentStage(Stage):
    """Ask how far the target's gradients lie along what the attacker's prior can draw."""

    name = "alignment"
    in_run_key = False
    is_tracked = False
    makers = (
        *("midre_exp.diagnostics.alignment", "midre_exp.priors.base"),
        *("midre_exp.targets.assemble", "defenses.compose"),
    )
    highlights = {"summary": "{}"}

    def is_part_of(self, settings: Settings) -> bool:
        return is_diagnosed(settings) and settings["diagnostics"].get("alignment") is not None

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("target", "prior")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {
            "alignment": settings["diagnostics"]["alignment"],
            "image_to_target": settings["attack"].get("image_to_target"),
        }

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the target and the prior."""

    def make(self, job: Job, target: Artifact, prior: Artifact) -> None:
        from midre_exp.diagnostics.alignment import align  # planning loads this module, and no torch
        from midre_exp.diagnostics.intervals import flat

        classes = int(target.metrics["counts"]["private_identities"])
        generator = PriorStage().load(job.settings, prior, classes).to(job.runtime.device)
        node = job.settings["diagnostics"]["alignment"]
        told = align(
            diagnosed_target(job, target),
            generator,
            job.parts.attack.image_to_target,
            images=int(node["images"]),
            classes=classes,
            loss=node["loss"],
            seed=int(node["seed"]),
        )
        told["prior"] = str(job.settings["attack"]["prior"]["name"])
        job.work.metrics.update(
            told={"alignment": told},
            numbers={**flat("alignment", told["ratio"]), "alignment_chance": told["chance"]},
            missing={},
            summary=f"alignment {told['ratio']['value']:.3f} (chance {told['chance']:.3f})",
        )

    def memory_remedy(self, settings: Settings) -> str:
        return "lower diagnostics.alignment.images, or set diagnostics.alignment=null"

    def describe(self, settings: Settings) -> str:
        return f"{settings['attack']['prior']['name']} and {_named(settings)}"


class TrapStage(Stage):
    """Ask whether the reconstructions of a run are the traps of its defense. Only of defenses with an option
    ``triggers``, which say how an image shows one (``Defense.triggered``).
    """

    name = "trap"
    in_run_key = False
    is_tracked = False
    makers = ("midre_exp.diagnostics.trap", "midre_exp.targets.assemble", "defenses.compose")
    highlights = {"summary": "{}"}

    def is_part_of(self, settings: Settings) -> bool:
        trained = settings["target"]["checkpoint"] is None
        asked = is_diagnosed(settings) and settings["diagnostics"].get("trap", False)
        return bool(asked) and trained and any("triggers" in node for node in settings["defense"].values())

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("target", "attack")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("private")}

    def check(self, settings: Settings, parts: Parts) -> None:
        """What can be wrong is told by the target and the attack."""

    def make(self, job: Job, target: Artifact, attack: Artifact, private: Dataset) -> None:
        # planning loads this module, and no torch
        from midre_exp.diagnostics.trap import trapped
        from midre_exp.metrics.evaluation import only_selected

        found = finite_tensors(attack, "reconstructions")
        found = only_selected(found) if "selected" in found else found
        has_any = f"{DEFENSE_STATE}.safetensors" in target.manifest["files"]
        state = finite_tensors(target, DEFENSE_STATE) if has_any else {}
        device = job.runtime.device
        shown = job.parts.trained.triggered({name: value.to(device) for name, value in state.items()})
        size, seen = found["images"].shape[-1], int(job.settings["resolution"])
        reason = None
        if shown is None:
            reason = "the defense left no triggers beside its target"
        elif not len(found["labels"]):
            reason = "the attack selected no reconstruction"
        elif size != seen:
            reason = f"reconstructions are kept at {size} px, and the target gets {seen} px"
        if shown is None or reason is not None:
            job.work.metrics.update(told={}, numbers={}, missing={"trap": str(reason)})
            return
        told, numbers = trapped(
            diagnosed_target(job, target),
            shown,
            private.load("train"),
            private.load("test"),
            found["images"],
            device,
        )
        cosines = (told[name]["cosine"]["value"] for name in ("reconstructions", "clean"))
        job.work.metrics.update(
            told={"trap": told},
            numbers=numbers,
            missing={},
            summary="signature cosine {:.2f} (clean images {:.2f})".format(*cosines),
        )

    def memory_remedy(self, settings: Settings) -> str:
        return "end other programs there, or set runtime.device=cpu"

    def describe(self, settings: Settings) -> str:
        return f"traps of {_named(settings)} in {settings['attack']['name']}"


def is_diagnosed(settings: Settings) -> bool:
    """Whether a run asks what its target is like: not a part of an attack, nor a config from before there
    were diagnostics.
    """
    return settings.get("diagnostics") is not None and settings["attack"].get("shard") is None


def diagnosed_target(job: Job, target: Artifact) -> Classifier:
    """The target in the form that is attacked, frozen on the run's device, in single precision whatever the
    run's attacks compute in: changes smaller than a grey level are below what half of it can tell.
    """
    model = Target().load(job.settings, target, job.parts.trained).to(job.runtime.device)
    return model.eval().requires_grad_(False)


def measures(settings: Settings) -> dict[str, Any]:
    """The nodes of the target's own diagnostics, by name."""
    return {name: node for name, node in settings["diagnostics"]["measure"].items() if node is not None}


def _summary(numbers: dict[str, float]) -> str:
    """The chief numbers in a line."""
    shown = {
        "robust_area": "robust area {:.1f} %",
        "ece": "ECE {:.1f} %",
        "mia_auc": "membership AUC {:.1f} %",
    }
    return ", ".join(text.format(numbers[name]) for name, text in shown.items() if name in numbers)


def _named(settings: Settings) -> str:
    return f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
