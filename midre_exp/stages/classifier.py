"""The two classifiers of a run: the target, trained on the private images under the defense, and the
evaluator, trained on the same identities without one. Each may start from what ``pretraining`` made.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from midre_exp import __version__, targets
from midre_exp.cards.named import card_of_file
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.numerics import make_numerics
from midre_exp.plan.config import Settings, build, trusted_packages, without
from midre_exp.plan.deployment import trained_defense
from midre_exp.plan.keys import PUBLIC, is_pretrained_here, learns_from_others
from midre_exp.plan.vary import seed_of
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.preflight import check_files, make_once
from midre_exp.stages.requirements import data_needs, file_needs, library_needs, named_needs
from midre_exp.stages.stored import finite_tensors
from midre_exp.stages.trained_with import check_trained_with, is_unknown
from midre_exp.store.artifact import Artifact

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset
    from midre_exp.defense import Defense
    from midre_exp.metrics.judge import Judge
    from midre_exp.stages.parts import Parts
    from midre_exp.targets.base import Classifier


#: The file of an artifact that holds the network.
WEIGHTS = "weights.safetensors"
#: The name in it of what a defense trained of its own, which nothing of a run reads: for diagnosis.
DEFENSE_STATE = "defense_state"
#: Points of percent by which the accuracy of a published classifier may differ from its card before its
#: numbers are doubted: rounding, another decoder of JPEGs, and that official loaders leave out the last
#: incomplete batch of test images come to a tenth of it.
ACCURACY_TOLERANCE = 0.5


class ClassifierStage(Stage):
    """Train a classifier of the identities of a data set, or load a published one (``checkpoint``)."""

    #: The key of its node in the settings.
    role: ClassVar[str]
    #: The key of its recipe, for remedies.
    recipe: ClassVar[str]
    #: How its counts are called.
    counted: ClassVar[str] = "private"
    highlights = {"acc": "acc {:.1f} %"}
    makers = ("midre_exp.targets.training.train", "midre_exp.targets.training.published", "defenses.compose")

    def node(self, settings: Settings) -> Settings:
        """Its network, recipe and start, a node of conf/target."""
        node: Settings = settings[self.role]
        return node

    def pixels(self, settings: Settings) -> int:
        """The size of its images; an evaluator has one of its own."""
        return int(settings[self.role].get("resolution", settings["resolution"]))

    def load(self, settings: Settings, artifact: Artifact, defense: Defense) -> Classifier:
        """The trained classifier in the form that is attacked, in eval mode on the CPU."""
        classes = int(artifact.metrics["counts"][f"{self.counted}_identities"])
        trusted = trusted_packages(settings)
        model = targets.assemble.assemble(self.node(settings), classes, defense, seed=0, trusted=trusted)
        model.load_state_dict(finite_tensors(artifact))
        defense.on_inference(model)
        return model.eval()

    def untrained(self, settings: Settings, defense: Defense) -> Classifier:
        """The network in the form that is attacked, without weights that mean anything."""
        node, classes = self.node(settings), settings["attack"]["identities"]
        trusted = trusted_packages(settings)
        model = targets.assemble.assemble(node, classes, defense, seed=0, trusted=trusted)
        defense.on_inference(model)
        return model.eval()

    def _make(
        self,
        job: Job,
        dataset: Dataset,
        defense: Defense,
        seed: int,
        start: Artifact | None = None,
        others: Dataset | None = None,
    ) -> None:
        """``start``: the same network, trained on public identities (``weights: public``); ``others``: other
        people, for the defense.
        """
        # planning loads this module, and no torch
        from midre_exp.data.duplicates import other_duplicates, pretraining_duplicates, private_duplicates

        node = self.node(job.settings)
        self._note_start(job.settings)
        train = dataset.load("train")
        alarms = private_duplicates(dataset, job.store.root) + dataset.alarms("private")
        if start is not None:
            pool = job.parts.pretraining if self.role == "target" else job.parts.evaluator_pretraining
            alarms += pretraining_duplicates(dataset, pool, job.store.root) if pool is not None else []
        if others is not None:
            alarms += other_duplicates([dataset, job.parts.public], others, job.store.root)
        trains = partial(
            targets.train_classifier,
            pretrained=None if start is None else start.path / WEIGHTS,
            others=others,
        )
        loads = partial(targets.published_classifier, role=self.role)
        make = trains if node["checkpoint"] is None else loads
        try:
            model, numbers, history, predicted, by_class, state, defended = make(
                node,
                dataset,
                defense,
                seed=seed,
                work=job.work.path,
                runtime=job.runtime,
                title=f"training {node['name']}",
                trusted=job.trusted,
            )
        except DivergedError as error:
            raise DivergedError(error.sentence, self._remedy(job.settings)) from error
        described = self._describes(job, train.num_classes)
        job.work.save_tensors("weights", model.state_dict(), described)
        if state:
            job.work.save_tensors(DEFENSE_STATE, state, described)
        job.work.save_json("history", history)
        # here and not in the record, which may be published: who is behind each label
        job.work.save_json("classes", {"names": list(train.classes)})
        test = dataset.load("test")
        chance = targets.chance.Chance.of(test.labels, test.num_classes)
        if chance.explains(numbers["acc"]):
            alarms.append(chance.sentence(f"{self.name} {node['name']}", numbers["acc"]))
        if predicted is not None:
            key = "data.order" if "order" in job.settings["data"]["private"] else None
            told = targets.likely_order(predicted, test.labels, test.classes, key)
            if told is not None:
                alarms.append(f"{self.name} {node['name']} ({node['checkpoint']}): {told}")
        alarms += self._beside_published(job.settings, numbers["acc"])
        if alarms:
            job.work.metrics["alarms"] = alarms
        if defended:
            job.work.metrics["defended"] = dict(defended)
        counts = {"identities": train.num_classes, "train": len(train), "test": len(test)}
        if left_out := dataset.left_out("private"):
            counts["left_out"] = left_out
        job.work.metrics.update(
            numbers,
            test_per_identity=by_class,
            chance=100 * chance.share,
            counts={f"{self.counted}_{name}": count for name, count in counts.items()},
        )

    def _note_start(self, settings: Settings) -> None:
        """Let the manifest say which published file it starts from; what a library brings notes itself."""
        from midre_exp.weights.published import note_weights  # planning loads this module, and no torch

        node = self.node(settings)
        path = node["checkpoint"] or node["weights"]
        if path in (None, "imagenet", PUBLIC):
            return
        card = card_of_file(path, settings["paths"]["weights"])
        if card is not None:
            note_weights(card.source or card.name, weights=card.title, source=card.publisher, path=Path(path))

    def _beside_published(self, settings: Settings, accuracy: float) -> list[str]:
        """A sentence where a published classifier does not do here what it does at its publishers'."""
        node = self.node(settings)
        if node["checkpoint"] is None:
            return []
        card = card_of_file(node["checkpoint"], settings["paths"]["weights"])
        published = None if card is None or card.gives is None else card.gives.get("acc")
        if card is None or published is None or abs(accuracy - published) <= ACCURACY_TOLERANCE:
            return []
        return [
            f"{self.name} {node['name']} ({card.name}) recognises {accuracy:.2f} % of the test images and "
            f"{published:.2f} % as published: other images, another split or crop, or another file"
        ]

    def _describes(self, job: Job, classes: int) -> dict[str, str]:
        """What the file of weights says of itself, wherever it is taken."""
        settings, node = job.settings, self.node(job.settings)
        defense = trained_defense(settings) if self.name == "target" else {}
        unknown = self.name == "target" and node["checkpoint"] and is_unknown(settings)
        said = {
            "code": __version__,
            "stage": self.name,
            "version": self.version,
            "key": job.planned.key,
            "target": node["name"],
            "classes": classes,
            **({} if unknown else {"defense": defense}),
        }
        # one entry, because the format keeps no order of several and equal artifacts are equal files
        return {"midre_exp": json.dumps(said, sort_keys=True)}

    def _remedy(self, settings: Settings) -> str:
        """What helps a training that diverged."""
        remedy = f"lower {self.recipe}.optimizer.lr"
        if settings["numerics"]["precision"] == "bf16":
            remedy += ", set numerics=strict"
        strengths = [f"defense.{name}" for name in trained_defense(settings) if name != "nodef"]
        if self.name == "target" and strengths:
            remedy += f", or lower the strength of {' and '.join(strengths)}"
        return remedy

    def check_size(self, settings: Settings, pixels: int, key: str, undefended: Defense) -> None:
        """Raise ConfigError when images of ``pixels``, which the config has as ``key``, do not go through."""
        import torch  # planning loads this module

        name, node = self.role, self.node(settings)
        trusted = trusted_packages(settings)
        try:
            with torch.device("meta"):  # sizes alone
                _classify_nothing(node, pixels, undefended, trusted)
        except Exception:  # perhaps of an operation that needs memory: for real, then, with the last word
            try:
                _classify_nothing(node, pixels, undefended, trusted)
            except (RuntimeError, ValueError, AssertionError) as error:
                reason = str(error).strip().split("\n")[0]
                made_for = node["model"].get("image_size", pixels)
                size = "" if made_for == pixels else f"set {name}.model.image_size={pixels}, or "
                raise ConfigError(
                    f"{name} {node['name']} cannot take images of {pixels} px ({reason}); {size}choose "
                    f"another {key} or another {name}"
                ) from error

    def memory_remedy(self, settings: Settings) -> str:
        return f"{lower(settings, f'{self.recipe}.batch_size')}, or set runtime.image_placement=mapped"

    def _check_training(self, settings: Settings, defense: Defense) -> None:
        """Make network and recipe once. Raises UserError for what cannot be made."""
        node, trusted = self.node(settings), trusted_packages(settings)
        classes = settings["attack"]["identities"]

        def make() -> None:
            defense.trainable(targets.assemble.assemble(node, classes, defense, seed=0, trusted=trusted))

        make_once(make)
        if node["checkpoint"] is None:
            place = self.recipe.removesuffix("recipe")
            recipe = targets.checked_recipe(defense, node["recipe"], place=place)
            _augment_nothing(recipe["augment"], self.pixels(settings), trusted)
            targets.learning_rates(recipe, trusted=trusted)

    def _needs_weights(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        node = self.node(settings)
        yield from named_needs(settings, self.role)
        if node["checkpoint"] is not None:
            yield from file_needs(node["checkpoint"], f"{self.role}.checkpoint")
        elif node["weights"] == "imagenet":
            yield from library_needs(node["model"], trusted_packages(settings), remember)
        elif node["weights"] not in (None, PUBLIC):
            yield from file_needs(node["weights"], f"{self.role}.weights")


class Target(ClassifierStage):
    """The attacked classifier."""

    name = role = "target"
    recipe = "target.recipe"

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("pretraining",)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {
            "data": fingerprint("private"),
            "target": _own(settings["target"]),
            "defense": trained_defense(settings),
            "seed": seed_of(settings, "training"),
            **({"others": fingerprint("others")} if learns_from_others(settings) else {}),
        }

    def check(self, settings: Settings, parts: Parts) -> None:
        """The first to be made tells its own mistakes: of a target that is, only the size of images is looked
        at, and whether there are as many identities as are to be attacked.
        """
        check_trained_with(settings)
        wanted, identities = settings["attack"]["identities"], parts.private.num_identities()
        if identities is not None and wanted > identities:
            raise ConfigError(
                f"attack.identities={wanted} exceeds the {identities} private identities of the data; use "
                f"attack.identities={identities} or fewer"
            )
        self.check_size(settings, self.pixels(settings), "resolution", parts.undefended)
        if is_pretrained_here(settings["target"]):
            self._check_training(settings, parts.trained)
        if settings["target"]["checkpoint"] is None:
            numerics, devices = make_numerics(settings["numerics"]), settings["runtime"]["devices"]
            parts.trained.check_execution(numerics=numerics, devices=devices)
        if parts.others is not None and not (parts.others.has_own_pools or settings["data"].get("others")):
            raise ConfigError(
                f"data={settings['data']['name']} has no people who are neither private nor the attacker's, "
                "and the defense needs some; give other pictures, +data.others={root: FOLDER}, or choose "
                "another defense"
            )

    def make(self, job: Job, private: Dataset, defense: Defense, pretraining: Artifact | None = None) -> None:
        seed, others = seed_of(job.settings, "training"), job.parts.others
        self._make(job, private, defense, seed, pretraining, others)

    def describe(self, settings: Settings) -> str:
        return f"{settings['target']['name']} with {'+'.join(trained_defense(settings))}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        yield from data_needs(settings, "private", remember)
        if learns_from_others(settings):
            yield from data_needs(settings, "others", remember)
        yield from self._needs_weights(settings, remember)


class Evaluator(ClassifierStage):
    """The independent classifier that judges reconstructions. It has a seed of its own, so that one serves
    all seeds of a sweep.
    """

    name = role = "evaluator"
    recipe = "evaluator.recipe"

    def is_part_of(self, settings: Settings) -> bool:
        return settings["attack"]["shard"] is None or judges_phases(settings)

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        return ("evaluator_pretraining",)

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        return {"data": fingerprint("evaluation"), "evaluator": _own(settings["evaluator"])}

    def check(self, settings: Settings, parts: Parts) -> None:
        check_files("evaluator", without(settings["evaluator"], "model", "recipe", "pretraining"))
        self._check_training(settings, parts.undefended)
        self.check_size(settings, self.pixels(settings), "evaluator.resolution", parts.undefended)

    def accept(self, settings: Settings, artifact: Artifact) -> None:
        """Raise ConfigError for an evaluator below ``evaluator.floor``, whose word means nothing."""
        floor, name, numbers = settings["evaluator"]["floor"], settings["evaluator"]["name"], artifact.metrics
        counts = numbers["counts"]
        remedy = (
            "train it better (evaluator.recipe, more images) or set evaluator.floor=0 to measure all the same"
        )
        if floor == "chance":
            share = numbers.get("chance", 100 / counts["private_identities"]) / 100  # older ones lack it
            chance = targets.chance.Chance(counts["private_test"], share)
            if chance.explains(numbers["acc"]):
                few = " (so few images could never show more)" if chance.explains(100) else ""
                told = chance.sentence(f"evaluator {name}", numbers["acc"])
                raise ConfigError(f"{told}{few}, so it does not judge; {remedy}")
        elif floor is not None and numbers["acc"] < floor:
            raise ConfigError(
                f"evaluator {name} recognises {numbers['acc']:.1f} % of its test images, less than "
                f"evaluator.floor={floor}, so it does not judge; {remedy}"
            )

    def judge(self, job: Job, artifact: Artifact) -> Classifier:
        """The evaluator as it looks at images of any kind, on the CPU, under the run's numerics."""
        judge = self.load(job.settings, artifact, job.parts.undefended)
        job.numerics.accelerate(judge)
        return judge

    def asked(self, job: Job, artifact: Artifact) -> Judge:
        """The same with what lies between a kept image and it."""
        from midre_exp.metrics.judge import Judge  # planning loads this module, and no torch

        nodes = job.settings["metrics"]["image_to_evaluator"]
        kind = "midre_exp.targets.predict.Step"
        steps = tuple(build(node, kind=kind, trusted=job.trusted) for node in nodes)
        return Judge(self.judge(job, artifact), steps, job.runtime.device, job.numerics)

    def make(
        self,
        job: Job,
        evaluation: Dataset,
        undefended: Defense,
        evaluator_pretraining: Artifact | None = None,
    ) -> None:
        self._make(job, evaluation, undefended, job.settings["evaluator"]["seed"], evaluator_pretraining)

    def describe(self, settings: Settings) -> str:
        return str(settings["evaluator"]["name"])

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        yield from data_needs(settings, "evaluation", remember)
        yield from self._needs_weights(settings, remember)


def judges_phases(settings: Settings) -> bool:
    """Whether the evaluator is shown images during the attack, of which nothing but its word is kept."""
    return bool(settings["attack"].get("judge_stages", False))


def _own(node: Settings) -> dict[str, Any]:
    """A node of conf/target without what does not shape the network: what defenses may take from it, which
    then stands in their own nodes, how it is pre-trained, which is another stage's, and what is demanded of
    an evaluator.
    """
    of_files = ("checkpoint_entry", "checkpoint_prefix", "trained_with")
    unused = of_files if node["checkpoint"] is None else ()
    return without(node, "defense_defaults", "pretraining", "floor", *unused)


def _classify_nothing(node: Settings, pixels: int, defense: Defense, trusted: tuple[str, ...]) -> None:
    """One black image through the network of a node."""
    import torch  # planning loads this module

    model = targets.assemble.assemble(node, 2, defense, seed=0, trusted=trusted).eval()
    with torch.no_grad():
        model(torch.zeros(1, 3, pixels, pixels))


def _augment_nothing(augment: Sequence[Settings], pixels: int, trusted: tuple[str, ...]) -> None:
    """One black image through the random transforms of a recipe, which tell what they cannot do."""
    import torch  # planning loads this module

    images, generator = torch.zeros(1, 3, pixels, pixels), torch.Generator()
    for node in augment:
        images = build(node, kind="midre_exp.data.transforms.Augmentation", trusted=trusted)(
            images, generator
        )
