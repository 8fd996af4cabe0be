"""What a student learns of the private people from the reconstructions of a run, beside one that learns from
as many real photographs: training each takes about as long as an evaluator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from midre_exp import targets
from midre_exp.plan.config import Settings, build, trusted_packages, without
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage
from midre_exp.stages.classifier import WEIGHTS
from midre_exp.stages.diagnostics import is_diagnosed
from midre_exp.stages.preflight import make_once, size_after
from midre_exp.stages.requirements import data_needs
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset, ImageSet
    from midre_exp.diagnostics.extraction import Lessons
    from midre_exp.stages.parts import Parts

_STEP = "midre_exp.targets.predict.Step"


class StudentStage(Stage):
    """What both students have in common."""

    in_run_key = False
    is_tracked = False
    makers = ("midre_exp.targets.training.train", "midre_exp.diagnostics.extraction", "defenses.compose")
    highlights = {"summary": "{}"}

    def is_part_of(self, settings: Settings) -> bool:
        return is_diagnosed(settings) and settings["diagnostics"].get("extraction") is not None

    def check(self, settings: Settings, parts: Parts) -> None:
        """One student without memory, with its recipe."""
        trusted, classes = trusted_packages(settings), settings["attack"]["identities"]
        node = student_node(settings)
        make_once(lambda: targets.assemble.assemble(node, classes, parts.undefended, seed=0, trusted=trusted))
        targets.checked_recipe(parts.undefended, node["recipe"], place="diagnostics.extraction.")
        targets.learning_rates(node["recipe"], trusted=trusted)
        steps = [build(one, kind=_STEP, trusted=trusted) for one in settings["metrics"]["image_to_evaluator"]]
        size_after(steps, int(settings["resolution"]))

    def memory_remedy(self, settings: Settings) -> str:
        return "lower diagnostics.extraction.recipe.batch_size, or set diagnostics.extraction=null"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        yield from data_needs(settings, "evaluation", remember)


class ExtractionStage(StudentStage):
    """Train a student on the reconstructions that count and test it on real photographs."""

    name = "extraction"

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("attack", "evaluator_pretraining")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {
            "data": fingerprint("evaluation"),
            "image_to_evaluator": settings["metrics"]["image_to_evaluator"],
            **_student(settings),
        }

    def make(
        self, job: Job, attack: Artifact, evaluation: Dataset, evaluator_pretraining: Artifact | None = None
    ) -> None:
        # planning loads this module, and no torch
        from midre_exp.data.base import ImageSet
        from midre_exp.diagnostics.extraction import as_the_student_sees, lessons, of_identities
        from midre_exp.metrics.base import Unavailable
        from midre_exp.metrics.evaluation import only_selected

        found = finite_tensors(attack, "reconstructions")
        found = only_selected(found) if "selected" in found else found
        identities = int(job.settings["attack"]["identities"])
        real = evaluation.load("train")
        nodes = job.settings["metrics"]["image_to_evaluator"]
        steps = tuple(build(one, kind=_STEP, trusted=job.trusted) for one in nodes)
        shown = as_the_student_sees(found["images"], steps)
        taught = ImageSet(shown, found["labels"], real.classes[:identities])
        try:
            lesson = lessons(taught, of_identities(evaluation.load("test"), identities))
        except Unavailable as reason:
            job.work.metrics.update(told={}, numbers={}, missing={"extraction": str(reason)})
            return
        _teach(job, lesson, of_identities(real, identities), evaluator_pretraining, "extraction", "")

    def describe(self, settings: Settings) -> str:
        target = f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
        return f"student {settings['evaluator']['name']} of {settings['attack']['name']} on {target}"


class CeilingStage(StudentStage):
    """The same student, trained on as many real photographs of each identity as an attack leaves
    reconstructions: what a perfect inversion would come to. One for all arms.
    """

    name = "extraction_ceiling"

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("evaluator_pretraining",)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {
            "data": fingerprint("evaluation"),
            "identities": settings["attack"]["identities"],
            "per_class": kept_of(settings),
            **_student(settings),
        }

    def make(self, job: Job, evaluation: Dataset, evaluator_pretraining: Artifact | None = None) -> None:
        from midre_exp.diagnostics.extraction import Lessons, first_of_each, of_identities  # as above

        identities = int(job.settings["attack"]["identities"])
        train, test = (of_identities(evaluation.load(part), identities) for part in ("train", "test"))
        lesson = Lessons(first_of_each(train, kept_of(job.settings)), test)
        _teach(job, lesson, train, evaluator_pretraining, "extraction_ceiling", "_ceiling")

    def describe(self, settings: Settings) -> str:
        return f"student {settings['evaluator']['name']} of {kept_of(settings)} photographs each"


def _teach(
    job: Job,
    lesson: Lessons,
    train: ImageSet,
    start: Artifact | None,
    name: str,
    end: str,
) -> None:
    """Train the student of ``lesson`` and keep what it knows."""
    from midre_exp.diagnostics.extraction import examined, fitting  # as above
    from midre_exp.diagnostics.intervals import flat

    node = student_node(job.settings)
    node["recipe"] = fitting(node["recipe"], len(lesson.train))
    trained = targets.train_classifier(
        node,
        lesson,
        job.parts.undefended,
        seed=int(job.settings["diagnostics"]["extraction"]["seed"]),
        work=job.work.path,
        runtime=job.runtime,
        title=f"training a student {node['name']}",
        trusted=job.trusted,
        pretrained=None if start is None else start.path / WEIGHTS,
    )
    told = {"student": str(node["name"]), **examined(trained.model, lesson, train, job.runtime.device)}
    numbers = {
        **flat(f"knowledge_train{end}", told["train"]),
        **flat(f"knowledge_test{end}", told["test"]),
    }
    job.work.metrics.update(
        told={name: told},
        numbers=numbers,
        missing={},
        summary=f"student {told['test']['value']:.1f} % of real test images",
    )


def _student(settings: Settings) -> dict[str, Any]:
    """What of the settings makes a student; ``weights: public`` stand in the key of their stage."""
    evaluator = settings["evaluator"]
    return {
        "student": {name: evaluator[name] for name in ("model", "weights")},
        "extraction": settings["diagnostics"]["extraction"],
    }


def student_node(settings: Settings) -> dict[str, Any]:
    """The evaluator's network from its own start, never from a file that knows the private people, with the
    student's recipe.
    """
    recipe: Mapping[str, Any] = settings["diagnostics"]["extraction"]["recipe"]
    evaluator = without(settings["evaluator"], "floor", "seed", "resolution")
    weights = evaluator["weights"] if evaluator["checkpoint"] is None else None
    return {**evaluator, "checkpoint": None, "weights": weights, "recipe": dict(recipe)}


def kept_of(settings: Settings) -> int:
    """Reconstructions that an attack leaves of each identity."""
    attack = settings["attack"]
    return int(attack.get("kept") or attack["restarts"])
