"""Open-set verification: a verifier that was never shown a private picture, and what it says of the
reconstructions. Those in the store are judged without their attack being repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, build, without
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.preflight import size_after
from midre_exp.stages.requirements import data_needs
from midre_exp.stages.stored import finite_tensors
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from torch import Tensor

    from midre_exp.data.base import Dataset
    from midre_exp.leakage.network import FaceNetwork, Step
    from midre_exp.leakage.training import Course
    from midre_exp.leakage.verification import People, Templates
    from midre_exp.stages.parts import Parts

#: Of people held out: their templates, their other photographs and whose these are.
_HELD_OUT = ("templates", "probes", "labels")
#: What of ``open_set`` says how its verdicts are read, and not what the verifier is.
_READ = ("name", "far", "most_eer")


class VerifierStage(Stage):
    """Train a verifier on people who are not private, and measure it on others of them."""

    name = "verifier"
    in_run_key = False
    makers = ("midre_exp.leakage.verification", "midre_exp.leakage.open_set", "midre_exp.numerics")
    highlights = {"eer": "equal error rate {:.1f} %"}

    def is_part_of(self, settings: Settings) -> bool:
        return is_asked(settings, "open_set")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("verification"), "verifier": without(settings["open_set"], *_READ)}

    def check(self, settings: Settings, parts: Parts) -> None:
        check_pixels(settings, "open_set")

    def make(self, job: Job, pool: Dataset) -> None:
        # planning loads this module, and no torch
        from midre_exp.data.duplicates import pretraining_duplicates
        from midre_exp.leakage import open_set, verification
        from midre_exp.weights.finite import require_finite

        node = job.settings["open_set"]
        trained, held_out = verification.shared_out(
            [pool.load("train"), pool.load("test")], held_out=node["held_out"], seed=node["seed"]
        )
        network, loss = verification.train(
            trained,
            pixels=pixels_of(node, job.settings),
            dimension=node["dimension"],
            margin=node["margin"],
            scale=node["scale"],
            course=course_of(node),
            work=job.work.path,
            runtime=job.runtime,
        )
        require_finite(network.state_dict(), "the verifier", "lower open_set.lr")
        known = verification.templates_of(
            verification.embed(network, held_out.images, job.runtime.device),
            held_out.labels,
            len(held_out.who),
            node["template"],
        )
        job.work.save_tensors("weights", network.state_dict())
        job.work.save_tensors("held_out", dict(zip(_HELD_OUT, known, strict=True)))
        quality = open_set.Gallery(known).quality(node["far"], _alike(pool, held_out))
        job.work.metrics.update(
            quality,
            loss=loss,
            own_pool=pool.has_own_pools,
            counts={
                "verifier_identities": len(trained.who),
                "verifier_train": len(trained.images),
                "held_out_identities": len(held_out.who),
                "held_out": len(held_out.images),
            },
        )
        if alarms := pretraining_duplicates(job.parts.evaluation, pool, job.store.root):
            job.work.metrics["alarms"] = alarms

    def load(self, settings: Settings, artifact: Artifact) -> FaceNetwork:
        """Frozen and in eval mode on the CPU."""
        from midre_exp.leakage.network import FaceNetwork  # as above

        node = settings["open_set"]
        network = FaceNetwork(pixels=pixels_of(node, settings), outputs=int(node["dimension"]), normed=True)
        network.load_state_dict(finite_tensors(artifact))
        return network.eval().requires_grad_(False)

    def held_out(self, artifact: Artifact) -> Templates:
        """The people that were held out."""
        from midre_exp.leakage.verification import Templates  # as above

        tensors = finite_tensors(artifact, "held_out")
        return Templates(*(tensors[name] for name in _HELD_OUT))

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "open_set.batch_size")

    def describe(self, settings: Settings) -> str:
        return f"{settings['open_set']['name']} on public identities"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        yield from data_needs(settings, "verification", remember)


class OpenSetStage(Stage):
    """Verify the reconstructions: against templates of the private people, among decoys."""

    name = "open_set"
    version = 2  # 2: the threshold is that of photographs alone
    in_run_key = False
    makers = ("midre_exp.leakage.open_set", "midre_exp.numerics")
    highlights = {"first": "first among decoys {:.1f} %"}
    is_tracked = False

    def is_part_of(self, settings: Settings) -> bool:
        return is_asked(settings, "open_set")

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("attack", "verifier")

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {
            "data": fingerprint("evaluation"),
            "far": settings["open_set"]["far"],
            "image_to_evaluator": settings["metrics"]["image_to_evaluator"],
        }

    def check(self, settings: Settings, parts: Parts) -> None:
        check_steps(settings)

    def make(self, job: Job, attack: Artifact, verifier: Artifact, evaluation: Dataset) -> None:
        from midre_exp.leakage import open_set, verification  # planning loads this module, and no torch

        node, device = job.settings["open_set"], job.runtime.device
        network = VerifierStage().load(job.settings, verifier)
        job.numerics.accelerate(network)
        counted = counted_of(attack)
        private = evaluation.load("test")
        people = verification.templates_of(
            verification.embed(network, private.images, device),
            private.labels,
            private.num_classes,
            node["template"],
        )
        found = open_set.verdicts(
            verification.embed(network, counted["images"], device, steps_of(job)),
            counted["labels"],
            people,
            open_set.Gallery(VerifierStage().held_out(verifier)),
            node["far"],
            counted.get("failed"),
        )
        job.work.save_tensors("verdicts", found.tensors)
        job.work.metrics.update(
            found.numbers,
            first=found.numbers["rank"]["first"],
            missing=found.missing,
            per_identity=found.per_identity,
        )
        if verifier.metrics["eer"] > node["most_eer"]:
            job.work.metrics["alarms"] = [
                f"open_set: the verifier's equal error rate on held-out people is "
                f"{verifier.metrics['eer']:.1f} %, more than open_set.most_eer={node['most_eer']:g}, so its "
                "verdicts may not be read"
            ]

    def describe(self, settings: Settings) -> str:
        target = f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
        return f"{settings['open_set']['name']} of {settings['attack']['name']} on {target}"


def is_asked(settings: Settings, group: str) -> bool:
    """Whether a run has the judges of a group: not a part of an attack, nor a config from before there was
    one.
    """
    return settings.get(group) is not None and settings["attack"]["shard"] is None


def pixels_of(node: Settings, settings: Settings) -> int:
    """The size at which a network of ``leakage`` looks at images that are as the evaluator gets them."""
    from midre_exp.leakage.network import pixels_seen  # planning loads this module, and no torch

    return pixels_seen(node["pixels"], int(settings["evaluator"]["resolution"]))


def check_pixels(settings: Settings, group: str) -> None:
    """Raise ConfigError for a size that such a network does not come down from to its last map."""
    pixels = settings[group]["pixels"]
    if pixels is not None and (pixels < 8 or pixels & (pixels - 1)):
        raise ConfigError(f"{group}.pixels={pixels} is no power of two from 8; use 32, 64 or null")


def course_of(node: Settings) -> Course:
    """How such a network is trained."""
    from midre_exp.leakage.training import Course  # as above

    return Course(
        epochs=node["epochs"],
        batch_size=node["batch_size"],
        lr=node["lr"],
        weight_decay=node["weight_decay"],
        seed=node["seed"],
    )


def check_steps(settings: Settings) -> None:
    """Raise ConfigError as the steps between a reconstruction and the evaluator do."""
    kind = "midre_exp.targets.predict.Step"
    nodes = settings["metrics"]["image_to_evaluator"]
    trusted = tuple(settings["runtime"]["trusted_packages"])
    size_after([build(step, kind=kind, trusted=trusted) for step in nodes], int(settings["resolution"]))


def steps_of(job: Job) -> tuple[Step, ...]:
    """Those steps: what judges a reconstruction sees it as the evaluator does, beside private images of the
    evaluator's size.
    """
    kind = "midre_exp.targets.predict.Step"
    nodes = job.settings["metrics"]["image_to_evaluator"]
    return tuple(build(step, kind=kind, trusted=job.trusted) for step in nodes)


def counted_of(attack: Artifact) -> dict[str, Tensor]:
    """The reconstructions that count: what the attack selected, if it selects."""
    from midre_exp.metrics.evaluation import only_selected  # planning loads this module, and no torch

    found = finite_tensors(attack, "reconstructions")
    return only_selected(found) if "selected" in found else found


def _alike(pool: Dataset, held_out: People) -> Tensor | None:
    """Which people held out share the kinds that hair and skin are of, where that is known."""
    import torch  # as above

    from midre_exp.leakage.open_set import alike

    known = pool.known_traits("train")
    if known is None:
        return None
    labels = pool.load("train").labels
    rows = torch.stack([(labels == person).nonzero()[0, 0] for person in held_out.who])
    looks: tuple[str, ...] = ("sex", "skin", "hair")
    kinds = {name: known.kinds[name][1][rows] for name in looks if name in known.kinds}
    return alike(kinds, len(held_out.who))
