"""What one run needs and whether it is here: the needs of its stages, a device, memory, disk. Looks, and
changes nothing; told by `midre_exp doctor`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from midre_exp.cards import DatasetCard, card_of, usual_images
from midre_exp.doctor import requirements
from midre_exp.doctor.environment import main_memory
from midre_exp.errors import ConfigError, UserError
from midre_exp.numerics import make_numerics
from midre_exp.plan.config import Settings, digest, trusted_packages
from midre_exp.plan.keys import learns_from_others, node_of, reads_public, tunes_on_public
from midre_exp.plan.rounds import rounds_of
from midre_exp.runtime import choose_device
from midre_exp.stages import (
    Requirement,
    candidates,
    evaluator_pretraining,
    pretraining,
    stages_of,
    trait_reader,
    verifier,
)
from midre_exp.stages.candidates import PICTURES, candidate_bytes
from midre_exp.stages.requirements import Images, images_of
from midre_exp.stages.seen_by import seen_by
from midre_exp.stages.tuned_prior import tuned_bytes
from midre_exp.store.artifact import readable
from midre_exp.store.store import Store


class Checks:
    """Checks many runs on one machine; what several of them share is looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def requirements(self, settings: Settings) -> list[Requirement]:
        """What a run with these resolved settings lacks here. Never raises: what cannot be checked is a
        requirement too.
        """
        checks = {
            **{
                stage.name: partial(stage.needs, settings, self.remember)
                for stage in stages_of(settings)
                if stage.is_part_of(settings)
            },
            "device": partial(self._device, settings),
            "memory": partial(self._memory, settings),
            "disk": partial(self._disk, settings),
        }
        found: dict[Requirement, None] = {}
        for name, check in checks.items():
            try:
                found.update(dict.fromkeys(check()))
            except UserError as error:
                found[Requirement(True, "config", str(error))] = None
            except Exception as error:
                what = f"the check of {name} failed with {type(error).__name__}: {error}"
                text = f"{what}; try the run itself, and report this as a bug"
                found[Requirement(True, "check failed", text)] = None
        return list(found)

    def remember(self, key: object, look: Callable[[], Any]) -> Any:
        """What ``look`` gives, looked at once."""
        name = digest(key)
        if name not in self._known:
            self._known[name] = look()
        return self._known[name]

    def _bytes_of_images(self, settings: Settings) -> int:
        """Bytes of every data set the run reads, decoded; of one that is not here, by its card."""
        attack, trusted = settings["attack"], trusted_packages(settings)
        learns = reads_public(attack, trusted) or tunes_on_public(attack, trusted)
        names = ["private", "evaluation", *(["public"] if learns else [])]
        names += [stage.name for stage in (pretraining, evaluator_pretraining) if stage.is_part_of(settings)]
        names += ["others"] if learns_from_others(settings) else []
        judges = {"verification": verifier, "traits": trait_reader}
        names += [name for name, stage in judges.items() if stage.is_part_of(settings)]
        places = [(settings, name) for name in names]
        for judge in settings.get("jury") or ():  # the private images at its own size
            seen = seen_by(settings, judge)
            pool = ["evaluator_pretraining"] if evaluator_pretraining.is_part_of(seen) else []
            places += [(seen, name) for name in ("evaluation", *pool)]
        nodes = {digest(node_of(own["data"], name)): (own, name) for own, name in places}
        found = [
            (images_of(own, name, self.remember), card_of(node_of(own["data"], name)))
            for own, name in nodes.values()
        ]
        return sum(requirements.image_bytes(_count(each, card) or 0, each.pixels) for each, card in found)

    def _device(self, settings: Settings) -> Iterator[Requirement]:
        try:
            device = choose_device(settings["runtime"]["device"])
            make_numerics(settings["numerics"]).check(device)
        except ConfigError as error:
            yield Requirement(True, "device", str(error))
            return
        if device.type != "cuda":
            if settings["scale"] == "mini":
                return
            cluster, chosen = shutil.which("sbatch") is not None, settings["runtime"]["device"] == "cpu"
            yield Requirement(
                not (cluster or chosen),
                "no GPU",
                f"torch sees no GPU here, and at scale {settings['scale']} a run takes weeks on a CPU; "
                + (
                    "ask again inside a job of your cluster (srun ... make doctor)"
                    if cluster
                    else "use a machine with an NVIDIA GPU, or scale=mini; runtime.device=cpu if you mean it"
                ),
            )

    def _memory(self, settings: Settings) -> Iterator[Requirement]:
        wanted = requirements.host_memory(settings["attack"], int(settings["resolution"]))
        total = main_memory()
        if total is not None and wanted > total:
            remedy = "attack.keep_stages=false, " if settings["attack"].get("keep_stages") else ""
            yield Requirement(
                True,
                "memory",
                f"the reconstructions of attack={settings['attack']['name']} take about "
                f"{readable(int(wanted))} of main memory when they "
                f"are put together and this machine has {readable(total)}; use {remedy}fewer "
                "attack.restarts or a machine with more",
            )

    def _disk(self, settings: Settings) -> Iterator[Requirement]:
        places = Store(settings["paths"]["store"])
        written = {"store": places.root, **{n: Path(settings["paths"][n]) for n in ("runs", "results")}}
        for name, path in written.items():
            place = _existing(path)
            if not os.access(place, os.W_OK):
                yield Requirement(
                    True,
                    "no write access",
                    f"{place} cannot be written; set paths.{name} to a folder you can write",
                )
        store = places.root
        decoded = self.remember(["decoded", str(places)], lambda: _size_of(places, "images/*/pixels.u8"))
        rendered = candidate_bytes(settings) if candidates.is_part_of(settings) else 0
        there = self.remember(["rendered", str(places)], lambda: _size_of(places, f"candidates/*/{PICTURES}"))
        rounds = rounds_of(settings["attack"])
        tuned = (rounds - 1) * tuned_bytes(settings) if rounds > 1 else 0
        images = self._bytes_of_images(settings)
        wanted = requirements.result_bytes(settings["attack"], int(settings["resolution"]))
        wanted += max(0, images - decoded) + max(0, rendered - there) + tuned
        free = shutil.disk_usage(_existing(store)).free
        if wanted > free:
            yield Requirement(
                True,
                "disk space",
                f"the run takes about {readable(int(wanted))} of disk (estimate: {readable(images)} of "
                "decoded images, of which "
                f"{readable(min(images, decoded))} may be there, "
                + (f"{readable(rendered)} of candidate pictures, " if rendered else "")
                + (f"{readable(tuned)} of tuned priors, " if tuned else "")
                + "the rest networks and reconstructions) "
                f"and {readable(free)} are free in "
                f"{_existing(store)}; free space or set paths.store to another disk",
            )


def _count(images: Images, card: DatasetCard | None) -> int | None:
    """How many images a data set has: as found, else those of a complete download."""
    if images.error is None:
        return images.count
    return None if card is None else usual_images(card, images.role)


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _size_of(store: Store, files: str) -> int:
    """Bytes of all such files in a store and those that are read beside it."""
    places = (store.root, *store.upstream)
    return sum(file.stat().st_size for place in places for file in place.glob(files))
