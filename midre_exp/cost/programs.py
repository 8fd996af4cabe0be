"""What every stage of a run calls: its own program, run on tensors without content, a few rounds of every
loop, counted as often as they would be done.

Nothing is described twice. The networks, losses, optimisers and defenses are those of the run, at their sizes
and batches, and ``runtime.bar``, through which every long loop goes, says how often a step is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from midre_exp import priors, stages, surrogates, targets
from midre_exp.attack import Attack, AttackResult, apply, build_attack, to_uint8
from midre_exp.cost.count import Counter
from midre_exp.cost.counted import Counted, Phase
from midre_exp.cost.sampling import FEW, SampledLoop, SampledRuntime, without_content
from midre_exp.cost.sizes import Sizes, result_bytes
from midre_exp.data.base import ImageSet, to_float
from midre_exp.defense import Defense, compose_defenses
from midre_exp.diagnostics import Diagnostic
from midre_exp.diagnostics.alignment import jacobian
from midre_exp.diagnostics.extraction import fitting
from midre_exp.leakage.network import FaceNetwork, pixels_seen
from midre_exp.leakage.verification import Cosines, cosface
from midre_exp.metrics.extractors import extractors
from midre_exp.metrics.judge import Judge
from midre_exp.plan.config import Settings, build, trusted_packages
from midre_exp.plan.deployment import holds_network, trained_defense
from midre_exp.plan.keys import is_pretrained, learns_from_others, uses_target
from midre_exp.plan.rounds import rounds_of
from midre_exp.priors.base import Prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.seeding import ItemRNG
from midre_exp.stages.candidates import Search, candidate_bytes
from midre_exp.stages.classifier import ClassifierStage, judges_phases
from midre_exp.stages.diagnostics import measures
from midre_exp.stages.extraction import kept_of, student_node
from midre_exp.stages.judging import judging
from midre_exp.stages.pretraining import Pretraining
from midre_exp.stages.shadows import shadows_of
from midre_exp.stages.tuned_prior import tuned_bytes
from midre_exp.stages.victim import answering_parts, informed_network
from midre_exp.surrogates.base import Surrogates
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import Step
from midre_exp.targets.training.batch import Shuffled
from midre_exp.targets.training.module import ClassifierModule
from midre_exp.threat import AnyVictim, Victim, WhiteBoxVictim
from midre_exp.tuning.base import Best, Material, build_tuning

#: Estimates per identity of BREP-MI, which ends by its patience: that, and half as much until then.
_BEYOND_PATIENCE = 1.5
_ROOM = 16e9  #: bytes: a chunk that is counted takes no more, so that it is one that a device can hold
LARGEST_CHUNK = 512  #: where the config leaves it to the machine
_BATCH = 256  #: images that a trained classifier is shown at once
#: Options of a prior that say in which of its steps something more is done.
_RHYTHMS = ("critic_steps", "gp_every", "r1_every", "path_every")
#: Bytes of weights and checkpoints for each parameter: float32, kept once and, while it trains, three times.
_KEPT_PER_PARAMETER = 16
#: About as many outputs as a reader of traits has: numbers, and classes of kinds.
_TRAIT_OUTPUTS = 75


def count_stage(name: str, settings: Settings, sizes: Sizes) -> Counted:
    """What a stage of a run costs. Raises what its program raises on tensors without content."""
    programs: dict[str, Callable[[_Run], Counted]] = {
        "pretraining": lambda run: run.classifier(stages.pretraining, run.images.pretraining),
        "target": lambda run: run.classifier(stages.target, run.images.train),
        "deployment": _Run.deployment,
        "evaluator_pretraining": lambda run: run.classifier(
            stages.evaluator_pretraining, run.images.evaluator_pretraining
        ),
        "evaluator": lambda run: run.classifier(stages.evaluator, run.images.evaluation),
        "prior": _Run.prior,
        "surrogates": _Run.surrogates,
        "tuned_prior": _Run.tuned_prior,
        "attack": _Run.attack,
        "features": _Run.features,
        "candidates": _Run.candidates,
        "metrics": _Run.metrics,
        "verifier": _Run.verifier,
        "open_set": _Run.open_set,
        "trait_reader": _Run.trait_reader,
        "traits": _Run.traits,
        "verdicts": _Run.verdicts,
        "diagnostics": _Run.diagnostics,
        "lira": _Run.lira,
        "alignment": _Run.alignment,
        "trap": _Run.trap,
        "extraction": _Run.student,
        "extraction_ceiling": _Run.student,
        "jury": lambda _: Counted(()),  # a few numbers of each reconstruction
    }
    counter, images = Counter(), _Images.of(settings, sizes)
    with without_content(counter), torch.random.fork_rng(devices=[]), counter:
        return programs[name](_Run(settings, sizes, images, counter))


@dataclass(frozen=True)
class _Images:
    """The images of a run. They lie on disk or in main memory and count as no memory of a device."""

    train: ImageSet
    evaluation: ImageSet
    public: ImageSet
    pretraining: ImageSet
    evaluator_pretraining: ImageSet

    @classmethod
    def of(cls, settings: Settings, sizes: Sizes) -> _Images:
        prior = settings["attack"]["prior"]
        own, judged = int(settings["resolution"]), int(settings["evaluator"]["resolution"])
        public = int(prior.get("image_size", own))
        return cls(
            _images(sizes.train, own, sizes.classes),
            _images(sizes.train, judged, sizes.classes),
            _images(sizes.public, public, sizes.classes),
            _images(sizes.pretraining_train, own, sizes.pretraining_classes),
            _images(sizes.pretraining_train, judged, sizes.pretraining_classes),
        )


def _images(count: int, pixels: int, classes: int) -> ImageSet:
    images = torch.empty(count, 3, pixels, pixels, dtype=torch.uint8, device="meta")
    labels = torch.empty(count, dtype=torch.int64, device="meta")
    return ImageSet(images, labels, tuple(map(str, range(classes))))


def _small(images: ImageSet, count: int | None = None, pixels: int = 8) -> ImageSet:
    """As many images with a content, or ``count``, of few pixels, and labels: as many of each class."""
    count = len(images) if count is None else count
    labels = torch.arange(count) % images.num_classes
    content = torch.zeros((), dtype=torch.uint8).expand(count, 3, pixels, pixels)
    return ImageSet(content, labels, images.classes)


@dataclass(frozen=True)
class _Run:
    """One run, and the counter that watches it."""

    settings: Settings
    sizes: Sizes
    images: _Images
    counter: Counter

    def runtime(self, few: int = FEW, rhythms: tuple[int, ...] = ()) -> SampledRuntime:
        return SampledRuntime(
            counter=self.counter,
            few=few,
            rhythms=rhythms,
            chunk=_chunk(self.settings),
            image_placement="mapped",
            quiet=True,
        )

    @property
    def trusted(self) -> tuple[str, ...]:
        return tuple(trusted_packages(self.settings))

    def defense(self) -> Defense:
        """What of it shapes the network."""
        return compose_defenses(trained_defense(self.settings), self.trusted)

    def known_defense(self) -> Defense:
        """What of the defense an attacker meets who knows it."""
        held = holds_network(self.settings)
        return self.defense() if held else compose_defenses(self.settings["defense"], self.trusted)

    def classifier(self, stage: ClassifierStage, images: ImageSet) -> Counted:
        """Training under the defense, a look at the test images after every epoch and at the end."""
        node, sizes = stage.node(self.settings), self.sizes
        tested = sizes.pretraining_test if isinstance(stage, Pretraining) else sizes.test
        defense = self.defense() if stage.name == "target" else compose_defenses({})
        recipe = targets.checked_recipe(defense, node["recipe"])
        model = targets.assemble.assemble(node, images.num_classes, defense, seed=0, trusted=self.trusted)
        trains = node["checkpoint"] is None
        if trains:
            self._training(model, defense, recipe, images)
        batch = int(recipe["batch_size"]) if trains else _BATCH
        looks = defense.trained_epochs(int(recipe["epochs"])) + 1 if trains else 1
        self._shown(model, stage.pixels(self.settings), looks * tested, batch, "validation")
        return Counted(tuple(self.counter.phases), _KEPT_PER_PARAMETER * _parameters(model))

    def _training(
        self, model: Classifier, defense: Defense, recipe: Mapping[str, Any], images: ImageSet
    ) -> None:
        module = ClassifierModule(model, defense, recipe, seed=0, trusted=self.trusted)
        module.train()
        with _disable_current_modes():  # whom images show, and which make up a batch, is known
            if learns_from_others(self.settings):
                defense.on_other_people(_small(self.images.pretraining), seed=0)
            train = defense.on_dataset(_small(images), seed=0)
            size, drop_last = int(recipe["batch_size"]), bool(recipe["drop_last"])
            own = defense.sampler(train.labels, batch_size=size, drop_last=drop_last, seed=0)
            sampler = own or Shuffled(len(train), batch_size=size, drop_last=drop_last, seed=0)
            epochs = defense.trained_epochs(int(recipe["epochs"]))
            batches = [len(rows) for rows in sampler.batches(epochs // 2)]
            if learns_from_others(self.settings):
                others = replace(_small(self.images.pretraining), images=self.images.pretraining.images)
                defense.on_other_people(others, seed=0)
        train = _images(len(train), images.images.shape[-1], images.num_classes)
        optimizer = module.configure_optimizers()
        for group in optimizer.param_groups:
            if "foreach" in group:
                group["foreach"] = not group.get("fused")  # as on a GPU
        when = epochs // 2
        trainer = SimpleNamespace(world_size=1, global_rank=0, current_epoch=when, optimizers=[optimizer])
        module._trainer = cast(Any, trainer)
        module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
        module.make_defense_state()
        if module.defense_state is not None:  # it may be as large as an image is
            with _disable_current_modes():
                few = max(size, 2 * images.num_classes)
                defense.on_dataset(_small(images, few, images.images.shape[-1]), seed=0)
            module.make_defense_state()
        module.batches = cast(Any, SimpleNamespace(epoch=when))
        module.on_train_epoch_start()
        with self.counter.phase("training"), self.counter.repeated(epochs):
            for count in self.runtime().bar(batches, "training"):
                optimizer.zero_grad()
                rows = torch.empty(count, dtype=torch.int64)
                batch = train.images[rows], train.labels[rows], rows
                module.training_step(batch, 0).backward()
                optimizer.step()
        optimizer.zero_grad()

    def _shown(self, model: torch.nn.Module, pixels: int, images: float, batch: int, phase: str) -> None:
        """Images through a trained network."""
        model.eval()
        batch = int(min(batch, max(images, 1)))
        with self.counter.phase(phase), torch.no_grad(), self.counter.repeated(images / batch):
            model(to_float(torch.empty(batch, 3, pixels, pixels, dtype=torch.uint8)))

    def deployment(self) -> Counted:
        """Test images through the target; what is answered instead is a few numbers of each."""
        pixels = int(self.settings["resolution"])
        self._shown(self.model(), pixels, self.sizes.test, _BATCH, "validation")
        return Counted(tuple(self.counter.phases))

    def model(self) -> Classifier:
        """The target, trained, in the form that is attacked."""
        defense, node = self.defense(), self.settings["target"]
        model = targets.assemble.assemble(node, self.sizes.classes, defense, seed=0, trusted=self.trusted)
        defense.on_inference(model)
        return model.eval()

    def victim(self) -> AnyVictim:
        """The trained target as the attack sees it."""
        threat = build_attack(self.settings["attack"], self.trusted).threat
        return Victim.of(self.model(), self.sizes.classes, threat)

    def untrained_prior(self) -> Prior:
        """Of the sizes that the config says; published files are not opened."""
        node = dict(self.settings["attack"]["prior"])
        if isinstance(node.get("pretrained"), str):
            node["pretrained"] = None
        return priors.initial_prior(node, self.trusted, num_classes=self.sizes.classes)

    def prior(self) -> Counted:
        """Its training; none of a published one."""
        node = self.settings["attack"]["prior"]
        if is_pretrained(node):
            return Counted(())
        victim = self.victim() if uses_target(node, self.trusted) else None
        prior = self.untrained_prior()
        rhythms = tuple(int(node.get(name) or 1) for name in _RHYTHMS)
        runtime = self.runtime(rhythms=rhythms)
        with self.counter.phase("training"):
            prior.fit(self.images.public, victim, seed=0, work=Path(), runtime=runtime)
        return Counted(tuple(self.counter.phases), _KEPT_PER_PARAMETER * _parameters(prior))

    def surrogates(self) -> Counted:
        """Questions to the target and the training of what learns its answers."""
        made = self.prepared()
        return Counted(tuple(self.counter.phases), _KEPT_PER_PARAMETER * _parameters(made))

    def tuned_prior(self) -> Counted:
        """The choice of the best reconstructions, and the tuning of as many priors as are tuned together."""
        node, attack = self.settings["attack"], build_attack(self.settings["attack"], self.trusted)
        tuning, victim, prior = (
            build_tuning(node["tuning"], self.trusted),
            self.victim(),
            self.untrained_prior(),
        )
        prior.freeze()
        runtime, labels = self.runtime(), torch.zeros(attack.restarts, dtype=torch.long)

        def loop(path: Path, title: str) -> SampledLoop:
            return SampledLoop(path, title, runtime, victim)

        material = Material(prior, cast(WhiteBoxVictim, victim), self.images.public, 0, Path(), runtime, loop)
        taken = tuning.taken(attack.restarts)
        at_once = min(tuning.at_once(material, taken), attack.identities)
        with self.counter.phase("choice"), self.counter.repeated(attack.identities), torch.no_grad():
            shared = ItemRNG(0, "attack", items=torch.zeros(1, dtype=torch.long))
            seen = apply(attack.image_to_target, self._drawn(prior, labels))
            tuning.scores(material.victim, seen, labels, shared)
        with self.counter.phase("questions"):
            tuning.ask_before(material)
        with self.counter.phase("tuning"), self.counter.repeated(attack.identities / at_once):
            pictures = self._drawn(prior, labels[:taken]).detach().expand(at_once, -1, -1, -1, -1)
            rng = ItemRNG(0, "tuning", items=torch.arange(at_once))
            tuning.tune(material, Best(pictures, torch.zeros(at_once, dtype=torch.long), rng, None))
        phases = tuple(phase for phase in self.counter.phases if phase.operators)
        return Counted(phases, tuned_bytes(self.settings))

    def _drawn(self, prior: Prior, labels: Tensor) -> Tensor:
        """Pictures of a prior."""
        latents = torch.zeros(len(labels), prior.latent_dim)
        return prior.generate(prior.codes(latents) if isinstance(prior, StylePrior) else latents, labels)

    def prepared(self) -> Surrogates:
        """Surrogates after their training, which is a phase; weights of others are not fetched."""
        node = {**self.settings["attack"]["surrogates"]}
        if "weights" in node:
            node["weights"] = None
        made = surrogates.initial_surrogates(node, self.sizes.classes, self.trusted)
        prior = self.untrained_prior().eval().requires_grad_(False) if made.uses_prior else None
        public = None if made.uses_prior else self.images.public
        with self.counter.phase("training"):
            made.fit(public, self.victim(), prior=prior, seed=0, work=Path(), runtime=self.runtime())
        return made

    def attack(self) -> Counted:
        """Starts, optimisation, selection. Of the optimisation a chunk is counted, and one group beside it
        tells what of the memory grows with the chunk.
        """
        attack = build_attack(self.settings["attack"], self.trusted)
        known, answering = self.known_defense(), answering_parts(self.settings)
        network = informed_network(attack, known, self.model(), answering)
        victim, prior = Victim.of(network, self.sizes.classes, attack.threat), self.untrained_prior()
        victim = attack.asking(victim)
        prior.eval().requires_grad_(False)
        if self.settings["attack"].get("surrogates"):
            attack.surrogates = self.prepared().eval().requires_grad_(False)
            self.counter.phases.pop()  # another stage's
        items = torch.arange(attack.identities).repeat_interleave(attack.restarts)
        shared = ItemRNG(0, "attack", items=torch.zeros(1, dtype=torch.long))
        group = min(attack.group_size, len(items))
        attacked = _Attacked(attack, victim, prior, items, shared)
        if stages.candidates.is_part_of(self.settings):  # rendered before
            pixels = int(self.settings["resolution"])
            search = cast(Search, getattr(attack, "search"))  # noqa: B009  of those that have one
            search.pictures = self.counter.outside(torch.empty(search.size, 3, pixels, pixels))
        each = attack.identities if rounds_of(self.settings["attack"]) > 1 else 1  # with a prior of its own
        with self.counter.phase("start"), self.counter.repeated(each):
            attack.prepare(prior, shared_rng=shared, runtime=self.runtime(1))
            start = attack.initialise(
                victim, prior, items[:group], shared_rng=shared, runtime=self.runtime(1)
            )
        first = self.counter.phases.pop()
        held = self.counter.held
        small, _ = self._inverted(attacked, start, group)
        at_once = _counted_chunk(small.fixed - held, group, min(_chunk(self.settings), len(items)))
        large, found = self._inverted(attacked, start, at_once)
        per_item = max(0.0, large.fixed - small.fixed) / (at_once - group) if at_once > group else 0.0
        large = replace(
            large,
            fixed=large.fixed - per_item * at_once,
            per_item=per_item,
            group=group,
            items=len(items),
            counted=at_once,
        )
        with self.counter.phase("selection"):
            attack.select(
                victim,
                prior,
                items,
                _alike(found.latents, len(items)),
                {name: _alike(value, len(items)) for name, value in found.details.items()},
                shared_rng=shared,
                runtime=self.runtime(1),
            )
        phases = [first, large, self.counter.phases.pop()]
        if judges_phases(self.settings):
            asked = (1 + _is_rebuilt(self._judge())) * len(self.settings["attack"]["stages"])
            pixels = int(self.settings["evaluator"]["resolution"])
            self._shown(self._judge(), pixels, asked * len(items), _BATCH, "judgement in passing")
            phases.append(self.counter.phases.pop())
        disk = result_bytes(self.settings)
        return Counted(tuple(phase for phase in phases if phase.operators), disk)

    def _inverted(
        self, attacked: _Attacked, start: Tensor | None, at_once: int
    ) -> tuple[Phase, AttackResult]:
        """The optimisation of a chunk of ``at_once`` items and its images, counted for all items."""
        attack, victim, prior = attacked.attack, attacked.victim, attacked.prior
        runtime, labels = self.runtime(1), attacked.items[:at_once]
        columns = labels, torch.zeros_like(labels)
        loop = SampledLoop(
            Path("state"),
            "steps",
            runtime,
            victim,
            start=None if start is None else _alike(start, at_once).clone(),
            shared_rng=attacked.shared_rng,
        )
        loop.endless = _estimates(attack)
        times = len(attacked.items) / at_once
        with self.counter.phase("optimisation"), self.counter.repeated(times):
            rng = ItemRNG(0, "attack", items=columns)
            found = attack.invert(victim, prior, labels, rng, loop)
            if isinstance(found, Tensor):
                found = AttackResult(found, torch.zeros_like(labels))
            with torch.no_grad():
                images = prior.generate(found.latents, labels) if found.images is None else found.images
                exact = apply(attack.image_to_target, images)
                more = attack.examine(victim, exact, labels, shared_rng=attacked.shared_rng, runtime=runtime)
                victim.confidence(to_float(to_uint8(exact)), labels)
        return self.counter.phases.pop(), replace(found, details={**found.details, **more})

    def candidates(self) -> Counted:
        """The pictures among which the attack looks for its starts."""
        attack = build_attack(self.settings["attack"], self.trusted)
        search = cast(Search, getattr(attack, "search"))  # noqa: B009  of those that have one
        prior = self.untrained_prior()
        prior.eval().requires_grad_(False)
        shared = ItemRNG(0, "attack", items=torch.zeros(1, dtype=torch.long))
        render = search.renderer(prior, shared, attack.image_to_target)
        at_once = min(search.batch, search.size)
        with self.counter.phase("rendering"), self.counter.repeated(search.size / at_once):
            render(slice(0, at_once))
        return Counted(tuple(self.counter.phases), candidate_bytes(self.settings))

    def _judge(self) -> Classifier:
        """The evaluator."""
        node, undefended = self.settings["evaluator"], compose_defenses({})
        return targets.assemble.assemble(node, self.sizes.classes, undefended, seed=0, trusted=self.trusted)

    def features(self) -> Counted:
        """The evaluator's view of private images, and Inception's where a metric asks."""
        judge, private = self.settings["evaluator"], self._attacked_images()
        model = self._judge()
        found = extractors(self.settings["metrics"]["measure"])
        if any(one.kind == "evaluator" for one in found):
            self._shown(model, int(judge["resolution"]), private, _BATCH, "judgement")
        if networks := [one for one in found if one.kind == "inception"]:
            inception = build(_INCEPTION, num_classes=1000, kind=Classifier)
            self._shown(inception, 299, len(networks) * private, _BATCH, "Inception features")
        return Counted(tuple(self.counter.phases))

    def _attacked_images(self) -> float:
        """How many private images the attacked identities have."""
        attacked = int(self.settings["attack"]["identities"])
        return self.sizes.train * min(1.0, attacked / self.sizes.classes)

    def metrics(self) -> Counted:
        """The evaluator's view of reconstructions, and Inception's where a metric asks."""
        node, attack = self.settings["metrics"], build_attack(self.settings["attack"], self.trusted)
        items = attack.identities * attack.restarts
        kept = getattr(attack, "kept", attack.restarts) * attack.identities
        model, pixels = self._judge(), self._seen_pixels()
        if judging(self.settings).rendered:
            self._rendered_again(attack, items)
        self._shown(model, pixels, items, _BATCH, "judgement")
        networks = [one for one in extractors(node["measure"]) if one.kind == "inception"]
        if networks:
            inception = build(_INCEPTION, num_classes=1000, kind=Classifier)
            self._shown(inception, 299, len(networks) * kept, _BATCH, "Inception features")
        names = [str(each["_target_"]).rpartition(".")[2] for each in node["measure"].values() if each]
        if "StretchedKnnDistance" in names:
            self._shown(model, pixels, kept, _BATCH, "judgement of stretched images")
        if "RebuiltEvaluator" in names and _is_rebuilt(model):
            self._shown(model, pixels, kept + self._attacked_images(), _BATCH, "judgement by the rebuilt one")
        return Counted(tuple(self.counter.phases))

    def verifier(self) -> Counted:
        """Training on most of the people, and a look at the photographs of the others."""
        node, sizes = self.settings["open_set"], self.sizes
        people = max(1, round(sizes.verification_classes * (1 - node["held_out"])))
        cosines = Cosines(self._face_network("open_set"), int(node["dimension"]), people)

        def loss(images: Tensor) -> Tensor:
            labels = torch.empty(len(images), dtype=torch.int64)
            return cosface(cosines(images), labels, margin=node["margin"], scale=node["scale"])

        self._learnt(cosines, node, sizes.verification_images * (1 - node["held_out"]), loss)
        pixels = int(self.settings["evaluator"]["resolution"])
        held_out = 2 * sizes.verification_images * node["held_out"]  # and their mirror images
        self._shown(cosines.network, pixels, held_out, _BATCH, "validation")
        return Counted(tuple(self.counter.phases), _KEPT_PER_PARAMETER * _parameters(cosines))

    def open_set(self) -> Counted:
        """Reconstructions and private test images, each with its mirror image."""
        self._judged_by("open_set", 2)
        return Counted(tuple(self.counter.phases))

    def trait_reader(self) -> Counted:
        """Training on most of the people, and a look at the photographs of the others."""
        node, network = self.settings["traits"], self._face_network("traits")
        photographs = self.sizes.trait_images
        self._learnt(
            network,
            node,
            photographs * (1 - node["held_out"]),
            lambda images: network(images).square().mean(),
        )
        pixels = int(self.settings["evaluator"]["resolution"])
        self._shown(network, pixels, photographs * node["held_out"], _BATCH, "validation")
        return Counted(tuple(self.counter.phases), _KEPT_PER_PARAMETER * _parameters(network))

    def traits(self) -> Counted:
        """Reconstructions and private test images."""
        self._judged_by("traits", 1)
        return Counted(tuple(self.counter.phases))

    def diagnostics(self) -> Counted:
        """The target's answers and gradients that its diagnostics ask for."""
        model, pixels = self.model(), int(self.settings["resolution"])
        model.requires_grad_(False)
        for name, node in measures(self.settings).items():
            diagnostic: Diagnostic = build(
                node, kind="midre_exp.diagnostics.Diagnostic", trusted=self.trusted
            )
            work = diagnostic.work(self.sizes.train, self.sizes.test)
            if work.looks:
                self._shown(model, pixels, work.looks, _BATCH, name)
            if work.gradients:
                batch = int(min(_BATCH, work.gradients))
                images = torch.empty(batch, 3, pixels, pixels, requires_grad=True)
                times = self.counter.repeated(work.gradients / batch)
                with self.counter.phase(f"{name} (gradients)"), times:
                    torch.autograd.grad(model(images).logits.sum(), images)
        return Counted(tuple(self.counter.phases))

    def alignment(self) -> Counted:
        """What each latent dimension of the prior changes about its random pictures."""
        prior, images = self.untrained_prior(), int(self.settings["diagnostics"]["alignment"]["images"])
        prior.eval().requires_grad_(False)
        attack = build_attack(self.settings["attack"], self.trusted)
        label = torch.zeros(1, dtype=torch.long)

        def picture(latents: Tensor) -> Tensor:
            return apply(attack.image_to_target, prior.generate(latents, label))

        times = self.counter.repeated(images * prior.latent_dim)
        with self.counter.phase("tangents"), times:
            jacobian(picture, torch.zeros(1, prior.latent_dim), columns=1)
        return Counted(tuple(self.counter.phases))

    def lira(self) -> Counted:
        """All private images, shown to the target and to each of its shadows."""
        models, images = 1 + len(shadows_of(self.settings)), self.sizes.train + self.sizes.test
        self._shown(self.model(), int(self.settings["resolution"]), models * images, _BATCH, "answers")
        return Counted(tuple(self.counter.phases))

    def trap(self) -> Counted:
        """Private images with triggers and without, and the reconstructions."""
        attack = build_attack(self.settings["attack"], self.trusted)
        images = 2 * (self.sizes.train + self.sizes.test) + attack.identities * kept_of(self.settings)
        self._shown(self.model(), int(self.settings["resolution"]), images, _BATCH, "answers")
        return Counted(tuple(self.counter.phases))

    def student(self) -> Counted:
        """Training on as many images as an attack leaves, and a look at the real ones."""
        node, settings = student_node(self.settings), self.settings
        identities, pixels = int(settings["attack"]["identities"]), int(settings["evaluator"]["resolution"])
        shown = _images(identities * kept_of(settings), pixels, identities)
        undefended = compose_defenses({})
        model = targets.assemble.assemble(
            {**node, "weights": None}, identities, undefended, seed=0, trusted=self.trusted
        )
        recipe = fitting(node["recipe"], len(shown))
        self._training(model, undefended, recipe, shown)
        share = min(1.0, identities / self.sizes.classes)
        looks = self.sizes.train + (int(recipe["epochs"]) + 1) * self.sizes.test
        self._shown(model, pixels, share * looks, _BATCH, "validation")
        return Counted(tuple(self.counter.phases), _KEPT_PER_PARAMETER * _parameters(model))

    def _face_network(self, group: str) -> FaceNetwork:
        """The network of a verifier or of a reader of traits."""
        node, shown = self.settings[group], int(self.settings["evaluator"]["resolution"])
        outputs = int(node.get("dimension", _TRAIT_OUTPUTS))
        return FaceNetwork(pixels=pixels_seen(node["pixels"], shown), outputs=outputs, normed=True)

    def _learnt(
        self,
        network: torch.nn.Module,
        node: Mapping[str, Any],
        images: float,
        loss: Callable[[Tensor], Tensor],
    ) -> None:
        """The training of such a network."""
        network.train()
        adam = torch.optim.AdamW(network.parameters(), lr=node["lr"])
        batch, pixels = int(node["batch_size"]), int(self.settings["evaluator"]["resolution"])
        shown = torch.empty(batch, 3, pixels, pixels, dtype=torch.uint8)
        with self.counter.phase("training"), self.counter.repeated(int(node["epochs"]) * images / batch):
            adam.zero_grad()
            torch.autograd.backward(loss(to_float(shown)))
            adam.step()
        adam.zero_grad()

    def _judged_by(self, group: str, times: int) -> None:
        """Reconstructions that count and private test images, ``times`` through such a network."""
        attack = build_attack(self.settings["attack"], self.trusted)
        kept = getattr(attack, "kept", attack.restarts) * attack.identities
        pixels = int(self.settings["evaluator"]["resolution"])
        self._shown(self._face_network(group), pixels, times * (kept + self.sizes.test), _BATCH, "judgement")

    def _seen_pixels(self) -> int:
        """The size at which pictures come before the evaluator."""
        steps = [build(step, kind=Step, trusted=self.trusted) for step in judging(self.settings).steps]
        size = torch.empty(1, 3, int(self.settings["resolution"]), int(self.settings["resolution"]))
        for step in steps:
            size = step(size)
        return max(int(size.shape[-1]), int(self.settings["evaluator"]["resolution"]))

    def verdicts(self) -> Counted:
        """Random pictures of the prior, drawn and judged, and the reconstructions, of whose judgement the
        evaluator is spared: a further judge's is counted.
        """
        attack = build_attack(self.settings["attack"], self.trusted)
        kept = getattr(attack, "kept", attack.restarts) * attack.identities
        self._rendered_again(attack, kept)
        self._shown(self._judge(), self._seen_pixels(), 2 * kept, _BATCH, "judgement")
        return Counted(tuple(self.counter.phases))

    def _rendered_again(self, attack: Attack[AnyVictim], items: int) -> None:
        """So many pictures rendered from latents, to be judged."""
        prior = self.untrained_prior()
        prior.eval().requires_grad_(False)
        at_once, made = min(items, 8), prior.latent_dim
        latents, labels = torch.zeros(at_once, made), torch.zeros(at_once, dtype=torch.long)
        if isinstance(prior, StylePrior):
            latents = prior.codes(latents)
        with self.counter.phase("rendering"), self.counter.repeated(items / at_once), torch.no_grad():
            attack.pictures(attack.generated(prior, latents, labels))


@dataclass(frozen=True)
class _Attacked:
    """What all chunks of an attack have in common."""

    attack: Attack[AnyVictim]
    victim: AnyVictim
    prior: Prior
    items: Tensor  # int64 [n], the identity of each
    shared_rng: ItemRNG


def _is_rebuilt(judge: Classifier) -> bool:
    """Whether official programs rebuild an evaluator as another (``Judge.rebuilt``)."""
    return Judge(judge).rebuilt() is not None


_INCEPTION = {"_target_": "midre_exp.targets.InceptionV3", "auxiliary": False, "transform_input": False}


def _counted_chunk(taken: float, group: int, most: int) -> int:
    """How many items are counted at once, where a group takes ``taken`` bytes: at least two groups."""
    groups = max(2, int(_ROOM / max(taken, 1.0)))
    return max(group, min(groups * group, most // group * group))


def _estimates(attack: Attack[AnyVictim]) -> int:
    """Rounds of BREP-MI's walk, which ends by its patience or its budget."""
    patience = getattr(attack, "patience", 1)
    rounds = int(_BEYOND_PATIENCE * patience)
    budget = getattr(attack, "max_queries", None)
    return rounds if budget is None else max(1, min(rounds, budget // (getattr(attack, "points", 0) + 1)))


def _alike(rows: Tensor, count: int) -> Tensor:
    """``count`` rows like the first."""
    return rows[:1].expand(count, *rows.shape[1:])


def _chunk(settings: Settings) -> int:
    """The chunk that the config allows."""
    chunk = settings["runtime"]["chunk"]
    return int(chunk) if isinstance(chunk, int) else LARGEST_CHUNK


def _parameters(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
