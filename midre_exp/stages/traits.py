"""Which known traits of the private people the reconstructions show: a reader of traits, trained on public
faces, and what it reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, without
from midre_exp.plan.keys import node_of
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.requirements import data_needs, dataset_of
from midre_exp.stages.stored import finite_tensors
from midre_exp.stages.verification import (
    check_pixels,
    check_steps,
    counted_of,
    course_of,
    is_asked,
    pixels_of,
    steps_of,
)
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from torch import Tensor

    from midre_exp.data.base import Dataset, KnownTraits
    from midre_exp.leakage.network import FaceNetwork
    from midre_exp.leakage.trait_reader import Layout
    from midre_exp.stages.parts import Parts


class TraitReaderStage(Stage):
    """Train a reader of traits on people who are neither private nor the attacker's, and measure it on
    others.
    """

    name = "trait_reader"
    in_run_key = False
    makers = ("midre_exp.leakage.trait_reader", "midre_exp.leakage.traits", "midre_exp.numerics")
    highlights = {"readable": "{} traits readable"}

    def is_part_of(self, settings: Settings) -> bool:
        return is_asked(settings, "traits")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("traits"), "reader": without(settings["traits"], "name")}

    def check(self, settings: Settings, parts: Parts) -> None:
        require_known_traits(settings, parts.private)
        check_pixels(settings, "traits")

    def make(self, job: Job, pool: Dataset) -> None:
        # planning loads this module, and no torch
        import torch

        from midre_exp.leakage import trait_reader, traits
        from midre_exp.leakage.network import Pictures, answers
        from midre_exp.weights.finite import require_finite

        node, photographs = job.settings["traits"], pool.load("train")
        known = _known(job.settings, pool, "train")
        people = photographs.num_classes
        # the last ones, whoever comes before them, so that more people to train on change nobody's place
        held_out = max(2, round(node["held_out"] * people))
        apart = photographs.labels >= people - held_out
        rows, others = apart.logical_not().nonzero().squeeze(1), apart.nonzero().squeeze(1)
        network = trait_reader.train(
            Pictures([photographs.images], rows),
            known.of_rows(rows),
            pixels=pixels_of(node, job.settings),
            course=course_of(node),
            work=job.work.path,
            runtime=job.runtime,
        )
        require_finite(network.state_dict(), "the reader of traits", "lower traits.lr")
        layout, device = trait_reader.Layout.of(known), job.runtime.device
        labels = photographs.labels[others] - (people - held_out)
        told = answers(network, Pictures([photographs.images], others), device)
        # one photograph of each: as good as a reading of a single picture is
        first = torch.searchsorted(labels, torch.arange(held_out))
        read = trait_reader.readings(told[first], layout, labels[first], held_out)
        measured = traits.each_trait(read, known.of_rows(others[first]))
        job.work.save_tensors("weights", network.state_dict())
        job.work.save_json("held_out", {name: reading._asdict() for name, reading in measured.items()})
        readable = [
            name for name, reading in measured.items() if traits.is_readable(reading, name in known.numbers)
        ]
        job.work.metrics.update(
            readable=len(readable),
            counts={
                "trait_reader_identities": people - held_out,
                "trait_reader_train": len(rows),
                "held_out_identities": held_out,
            },
        )

    def load(self, settings: Settings, artifact: Artifact, layout: Layout) -> FaceNetwork:
        """Frozen and in eval mode on the CPU."""
        from midre_exp.leakage.network import FaceNetwork  # as above

        network = FaceNetwork(
            pixels=pixels_of(settings["traits"], settings), outputs=layout.outputs, normed=False
        )
        network.load_state_dict(finite_tensors(artifact))
        return network.eval().requires_grad_(False)

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "traits.batch_size")

    def describe(self, settings: Settings) -> str:
        return f"reader {settings['traits']['name']} on public identities"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        require_known_traits(settings, dataset_of(settings, "private", remember))
        yield from data_needs(settings, "traits", remember)


class TraitsStage(Stage):
    """Read the traits off the reconstructions and compare them with the truth."""

    name = "traits"
    in_run_key = False
    makers = ("midre_exp.leakage.traits", "midre_exp.leakage.trait_reader", "midre_exp.numerics")
    highlights = {"recovered": "{} traits recovered"}
    is_tracked = False

    def is_part_of(self, settings: Settings) -> bool:
        return is_asked(settings, "traits")

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("attack", "trait_reader", "metrics", "open_set")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {
            "data": fingerprint("evaluation"),
            "image_to_evaluator": settings["metrics"]["image_to_evaluator"],
        }

    def check(self, settings: Settings, parts: Parts) -> None:
        require_known_traits(settings, parts.private)
        check_steps(settings)

    def make(
        self,
        job: Job,
        attack: Artifact,
        trait_reader: Artifact,
        metrics: Artifact,
        open_set: Artifact | None,
        evaluation: Dataset,
    ) -> None:
        # planning loads this module, and no torch
        import torch

        from midre_exp.leakage import trait_reader as reader
        from midre_exp.leakage import traits
        from midre_exp.leakage.network import answers

        known = _known(job.settings, evaluation, "test")
        layout, device = reader.Layout.of(known), job.runtime.device
        network = TraitReaderStage().load(job.settings, trait_reader, layout)
        job.numerics.accelerate(network)
        counted, real = counted_of(attack), evaluation.load("test")
        who, place = counted["labels"].unique(return_inverse=True)
        told = answers(network, counted["images"], device, steps_of(job))
        read = reader.readings(told, layout, place, len(who))
        shown = torch.isin(real.labels, who).nonzero().squeeze(1)
        their = torch.searchsorted(who, real.labels[shown])
        seen = reader.readings(answers(network, real.images[shown], device), layout, their, len(who))
        truth = reader.by_person(known.of_rows(shown), their, len(who))
        held_out = {
            name: traits.Reading(**reading) for name, reading in trait_reader.json("held_out").items()
        }
        found = traits.report(read, seen, truth, held_out, _hits(metrics, open_set))
        job.work.save_tensors(
            "readings",
            {
                "identities": who,
                **{f"number.{name}": values for name, values in read.numbers.items()},
                **{f"kind.{name}": classes for name, classes in read.kinds.items()},
            },
        )
        job.work.metrics.update(found)

    def describe(self, settings: Settings) -> str:
        target = f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
        return f"traits that {settings['attack']['name']} shows of {target}"


def _hits(metrics: Artifact, open_set: Artifact | None) -> dict[str, Tensor]:
    """Percent of each identity's reconstructions that the judges take for it, by measure."""
    import torch  # planning loads this module

    measures = dict(metrics.metrics["per_identity"])
    if open_set is not None:
        measures.update(open_set.metrics["per_identity"])
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in measures.items()}


def _known(settings: Settings, dataset: Dataset, part: Any) -> KnownTraits:
    known = dataset.known_traits(part)
    if known is None:
        require_known_traits(settings, dataset)
    assert known is not None
    return known


def require_known_traits(settings: Settings, private: Dataset) -> None:
    """Raise ConfigError for data of whose people nobody knows the traits, or that have none to train on."""
    if not private.knows_traits:
        raise ConfigError(
            f"traits={settings['traits']['name']} compares with true traits, which data="
            f"{settings['data']['name']} does not know; use data=synthfaces or synthfaces_v2, or traits=null"
        )
    node_of(settings["data"], "traits")
