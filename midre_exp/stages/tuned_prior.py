"""The prior of a later round of an attack (PPDG-MI): for every identity a copy of its own, tuned on the best
of what the round before has made of it. Made only where that round is about to be attacked with it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midre_exp import priors, tuning
from midre_exp.errors import ConfigError
from midre_exp.plan.config import Settings, trusted_packages, without
from midre_exp.plan.keys import StageKey, tunes_on_public
from midre_exp.plan.rounds import rounds_of
from midre_exp.plan.shards import SHARD, parse_shard, stored_shards
from midre_exp.plan.trust import named_class
from midre_exp.plan.vary import seed_of
from midre_exp.stages.base import Fingerprint, Job, Remember, Requirement, Stage, lower
from midre_exp.stages.prior import PriorStage
from midre_exp.stages.requirements import data_needs
from midre_exp.stages.victim import VICTIM, load_victim
from midre_exp.store.artifact import Artifact, readable
from midre_exp.store.files import write_atomic

if TYPE_CHECKING:  # torch
    from torch import Tensor

    from midre_exp.attack import Attack
    from midre_exp.data.base import Dataset
    from midre_exp.seeding import ItemRNG
    from midre_exp.stages.parts import Parts
    from midre_exp.threat import AnyVictim
    from midre_exp.tuning.base import Material, State, Tuning
    from midre_exp.tuning.own_weights import OwnWeights

#: In the file of an identity: the queries spent on each of its reconstructions until here, and its weights.
_SPENT, _WEIGHTS = "spent", "prior."
_MUCH = 10e9  # bytes of which a user is told before


class TunedPriorStage(Stage):
    """Tune a prior for each identity; a file each, finished ones survive a kill."""

    name = "tuned_prior"
    makers = (
        *("midre_exp.attack_run", "midre_exp.numerics", "midre_exp.priors.base"),
        *("midre_exp.tuning.base", "midre_exp.tuning.own_weights", *VICTIM),
    )
    is_intermediate = True
    changes_later = True
    is_tracked = False

    def is_part_of(self, settings: Settings) -> bool:
        return rounds_of(settings["attack"]) > 1

    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        attack = settings["attack"]
        public = tunes_on_public(attack, trusted_packages(settings))
        return {
            "tuning": without(attack["tuning"], "rounds", "base"),
            "image_to_target": attack["image_to_target"],
            "data": fingerprint("public") if public else None,
            "seed": seed_of(settings, "attack"),
        }

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        before = rounds_of(settings["attack"]) - 1
        earlier = (f"tuned_prior.round{before}",) if before > 1 else ()
        return ("target", "prior", f"attack.round{before}", *earlier)

    def planned(self, settings: Settings, key: StageKey) -> StageKey:
        """Of an attack that is split, its own identities."""
        shard = parse_shard(settings["attack"]["shard"])
        return key if shard is None else replace(key, key=shard.key(key.key))

    def check(self, settings: Settings, parts: Parts) -> None:
        """Whether the prior is one that it tunes, and there are as many reconstructions as it takes."""
        from midre_exp.attack import WhiteBoxAttack  # planning loads this module, and no torch

        node, trusted = settings["attack"]["tuning"], trusted_packages(settings)
        made = tuning.build_tuning(node, trusted)
        prior: Any = named_class(settings["attack"]["prior"]["_target_"], "midre_exp.priors.Prior", trusted)
        if not made.can_tune(prior):
            raise ConfigError(
                f"attack.tuning tunes {made.tunes}, and attack.prior is {prior.__name__}; choose another "
                "attack/tuning"
            )
        if not isinstance(parts.attack, WhiteBoxAttack):
            raise ConfigError(
                f"attack.tuning needs an attack that sees the target's gradients, and attack "
                f"{node['base']} does not; use attack=ppdg_ppa, ppdg_plgmi or ppdg_kedmi"
            )
        made.taken(int(settings["attack"]["restarts"]))

    def make(
        self,
        job: Job,
        target: Artifact,
        prior: Artifact,
        attack: Artifact,
        earlier: Artifact | None,
        public: Dataset,
    ) -> None:
        # planning loads this module, and no torch
        from midre_exp.memory.batches import in_batches
        from midre_exp.memory.footprint import planned
        from midre_exp.weights.finite import require_finite

        made = _Made.of(job, target, prior, attack, earlier, public)
        shard = parse_shard(job.settings["attack"]["shard"])
        everyone = range(made.attack.identities) if shard is None else shard.share(made.attack.identities)
        if shard is None:
            _take_shards(job, everyone)
        shared = made.tuning.ask_before(made.material)
        waiting = [one for one in everyone if not _is_whole(_file(job.work.path, one))]
        taken = made.tuning.taken(made.attack.restarts)
        most = min(max(1, len(waiting)), made.tuning.at_once(made.material, taken))
        if job.runtime.is_planned:
            victim = made.material.victim
            most = planned(made.first_step, most, job.runtime.device, victim=victim)
        size = made.tuning.bytes_of(made.material.prior)
        if waiting:
            job.runtime.say(
                f"{len(waiting)} priors of {readable(size)} to tune, {most} at once, on {taken} pictures each"
            )

        def tune(part: slice) -> int:
            labels = waiting[part]
            states = made.tuning.tune(made.material, made.best(labels))
            for label, state in zip(labels, states, strict=True):
                require_finite(state, f"the tuned prior of identity {label}", "lower attack.tuning.lr")
                told = {_SPENT: made.spent(label), **{f"{_WEIGHTS}{k}": v for k, v in state.items()}}
                write_atomic(_file(job.work.path, label), _as_bytes(told))
            shutil.rmtree(made.material.folder(labels), ignore_errors=True)
            return len(labels)

        with job.runtime.shown("tuned priors", len(everyone), len(everyone) - len(waiting)) as shown:
            for done in in_batches(tune, len(waiting), most, what="priors", victim=made.material.victim):
                shown.update(done)
        for one in everyone:
            job.work.adopt_file(_file(job.work.path, one).name, _file(job.work.path, one))
        of_one = made.tuning.looks * made.attack.restarts + made.tuning.asked(made.material.prior, taken)
        job.work.metrics.update(
            tuning={**made.tuning.told(), "pictures": taken},
            queries=of_one * len(everyone) + shared,
            shared_queries=shared + made.shared_before,
            counts={"tuned_priors": len(everyone)},
            bytes_each=size,
        )

    def load(self, artifact: Artifact) -> Callable[[int], State]:
        """The state of an identity's prior, read when it is asked for."""
        return lambda identity: _state(artifact, identity)

    def spent(self, artifact: Artifact, identities: range) -> Tensor:
        """The queries spent so far on each reconstruction of some identities, int64 [n]; besides those that
        all share (``shared_queries``).
        """
        import torch  # planning loads this module

        return torch.cat([artifact.tensors(f"identity-{one}")[_SPENT] for one in identities])

    def memory_remedy(self, settings: Settings) -> str:
        return lower(settings, "runtime.chunk", "attack.tuning.pictures", "attack.tuning.batch_size")

    def describe(self, settings: Settings) -> str:
        attack = settings["attack"]
        target = f"{settings['target']['name']} with {'+'.join(settings['defense'])}"
        return f"{attack['identities']} of {attack['prior']['name']} for {target}"

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        if tunes_on_public(settings["attack"], trusted_packages(settings)):
            yield from data_needs(settings, "public", remember)
        taken = tuned_bytes(settings)
        if taken > _MUCH:
            yield Requirement(
                False,
                "tuned priors",
                f"attack={settings['attack']['name']} keeps a tuned prior of each of "
                f"{settings['attack']['identities']} identities, {readable(taken)} of disk in paths.store "
                "which may be deleted when the next round is attacked (tuned_prior/); "
                "attack.identities=N attacks fewer",
            )


class _Made(NamedTuple):
    """What a tuning is carried out with, and on."""

    tuning: Tuning
    attack: Attack[AnyVictim]
    material: Material
    shared_rng: ItemRNG
    rng: ItemRNG  # one row for each identity
    found: Mapping[str, Tensor]  # of the round before
    own: OwnWeights | None  # the priors that drew it; None: the first
    shared_before: int  # queries of the round before that a shard spends and the whole attack counts once

    @classmethod
    def of(
        cls,
        job: Job,
        target: Artifact,
        prior: Artifact,
        attack: Artifact,
        earlier: Artifact | None,
        public: Dataset,
    ) -> _Made:
        # planning loads this module, and no torch
        import torch

        from midre_exp.attack_run import INITIAL_QUERIES, shared_rng
        from midre_exp.loop import Loop
        from midre_exp.seeding import ItemRNG
        from midre_exp.threat import WhiteBoxVictim
        from midre_exp.tuning.base import Material
        from midre_exp.tuning.own_weights import OwnWeights

        settings, runtime = job.settings, job.runtime
        node, number = settings["attack"]["tuning"], rounds_of(settings["attack"])
        victim = load_victim(job, target, None)  # of an attack that holds the network
        assert isinstance(victim, WhiteBoxVictim)  # as ``check`` has seen to
        generator = PriorStage().load(settings, prior, victim.num_classes).to(runtime.device)
        generator.freeze()
        seed = seed_of(settings, "attack")
        images = public.load("public") if tunes_on_public(settings["attack"], job.trusted) else None
        material = Material(
            generator,
            victim,
            images,
            seed,
            job.work.path,
            runtime,
            lambda path, title: Loop(path, title, runtime, victim),
        )
        identities = torch.arange(job.parts.attack.identities, device=runtime.device)
        return cls(
            tuning.build_tuning(node, job.trusted),
            job.parts.attack,
            material,
            shared_rng(seed, runtime),
            ItemRNG(seed, "tuning", number, items=identities),
            found := attack.tensors("part" if attack.stage == SHARD else "reconstructions"),
            None if earlier is None else OwnWeights(generator, TunedPriorStage().load(earlier)),
            int(found.get(INITIAL_QUERIES, 0)),
        )

    def best(self, labels: list[int]) -> Any:
        """What the round before has made best of some identities, drawn again, as floats."""
        import torch

        from midre_exp.tuning.base import Best

        device = self.material.runtime.device
        return Best(
            torch.stack([self._pictures(label) for label in labels]),
            torch.tensor(labels, device=device),
            self.rng[torch.tensor(labels, device=device)],
            None if self.own is None else [self.own.state_of(label) for label in labels],
        )

    def first_step(self, few: int) -> None:
        """What the dearest step takes of so many identities together; nothing of it is kept."""
        import torch

        from midre_exp.loop import Trial, TrialOver
        from midre_exp.runtime import NoTracker
        from midre_exp.tuning.base import Best

        material, taken = self.material, self.tuning.taken(self.attack.restarts)
        device, size = material.runtime.device, material.prior.image_size
        runtime = replace(material.runtime, progress=False, log_every=0.0, tracker=NoTracker(), quiet=True)
        pictures = torch.zeros(few, taken, 3, size, size, device=device)
        best = Best(pictures, torch.arange(few, device=device), self.rng[:few], None)

        def loop(path: Path, title: str) -> Trial:
            return Trial(path, title, runtime, material.victim)

        with suppress(TrialOver):
            self.tuning.tune(replace(material, loop=loop, is_trial=True), best)

    def _pictures(self, label: int) -> Tensor:
        """The best pictures [m, 3, s, s] of one identity, in the order of their scores."""
        import torch

        from midre_exp.attack import apply
        from midre_exp.memory.batches import in_batches
        from midre_exp.tuning.base import best_rows

        device, victim = self.material.runtime.device, self.material.victim
        latents = self.found["latents"][self.found["labels"] == label].to(device)
        labels = torch.full((len(latents),), label, device=device)
        prior = self.material.prior if self.own is None else self.own.alone(label)

        @torch.no_grad()
        def score(part: slice) -> Tensor:
            seen = apply(self.attack.image_to_target, prior.generate(latents[part], labels[part]))
            return self.tuning.scores(victim, seen, labels[part], self.shared_rng)

        at_once = min(len(latents), self.material.runtime.chunk)
        scores = torch.cat([*in_batches(score, len(latents), at_once, what="pictures", victim=victim)])
        rows = best_rows(scores[None], self.tuning.taken(len(latents)))[0]
        with torch.no_grad():
            return prior.generate(latents[rows], labels[rows])

    def spent(self, label: int) -> Tensor:
        """The queries int64 [restarts] spent on each reconstruction of an identity until the next round."""
        from midre_exp.attack import split_evenly

        before = self.found["queries"][self.found["labels"] == label]
        taken = self.tuning.taken(len(before))
        own = self.tuning.looks * len(before) + self.tuning.asked(self.material.prior, taken)
        return before + split_evenly(own, len(before))


def _file(folder: Path, identity: int) -> Path:
    return folder / f"identity-{identity}.safetensors"


def _state(artifact: Artifact, identity: int) -> State:
    told = artifact.tensors(f"identity-{identity}")
    return {name.removeprefix(_WEIGHTS): value for name, value in told.items() if name != _SPENT}


def _as_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    from safetensors.torch import save  # planning loads this module, and no torch

    return save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})


def _is_whole(path: Path) -> bool:
    """Whether an interrupted attempt has finished an identity; a damaged file is removed."""
    from safetensors import SafetensorError, safe_open  # as above

    try:
        with safe_open(path, "pt") as file:
            return _SPENT in file.keys()  # noqa: SIM118  no mapping
    except FileNotFoundError:
        return False
    except (SafetensorError, OSError, ValueError):
        path.unlink(missing_ok=True)
        return False


def _take_shards(job: Job, everyone: range) -> None:
    """Put the identities that shards have tuned into the work folder; as links, if that can be."""
    pieces = stored_shards(job.store, job.planned.key, len(everyone), TunedPriorStage.name)
    for identities, shard in pieces:
        for one in identities if shard is not None else ():
            assert shard is not None  # for the type checker
            source, own = _file(shard.path, one), _file(job.work.path, one)
            own.unlink(missing_ok=True)
            try:
                os.link(source, own)
            except OSError:  # another file system, or one without links
                shutil.copyfile(source, own)


def tuned_bytes(settings: Settings) -> int:
    """Disk that the tuned priors of one round take."""
    import torch  # planning loads this module

    trusted, node = trusted_packages(settings), dict(settings["attack"]["prior"])
    if isinstance(node.get("pretrained"), str):  # a file of the same sizes, which is not opened for that
        node["pretrained"] = None
    classes = int(settings["attack"]["identities"])
    with torch.device("meta"):
        prior = priors.initial_prior(node, trusted, num_classes=classes)
    return classes * tuning.build_tuning(settings["attack"]["tuning"], trusted).bytes_of(prior)
