"""The config of an audit's runs: the network as it is, the people it knows, the attacker's pictures, and a
judge trained on the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from midre_exp.audit.network import Checkpoint, trusted_by
from midre_exp.audit.reading import Pictures, Reading
from midre_exp.audit.rungs import SYNTHETIC
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.choice import choice
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import config_files
from midre_exp.plan.validate import check_settings
from midre_exp.store.files import write_atomic

#: Pixels that priors draw and judges look at.
PIXELS = 32
#: Pictures that a judge is trained on, those of every epoch counted anew.
_SEEN = 20_000
_EPOCHS = (20, 120)
#: Pictures of people whom the network does not know, from which they make a prior.
ENOUGH = 100
#: People, and pictures of each, from whom a verifier learns: of fewer, nobody could be held out.
_STRANGERS, _PICTURES = 10, 4


def free_processors() -> int:
    """How many of the processors that this process may use nobody else seems to use, at least one: threads
    that wait for each other on busy ones are slower than one alone.
    """
    return max(1, round(len(os.sched_getaffinity(0)) - os.getloadavg()[0]))


@dataclass(frozen=True)
class Strangers:
    """People whom neither network nor judges know, from whom a verifier learns to tell people apart."""

    data: Mapping[str, Any]  # what their pictures have different from the private ones
    people: int
    pictures: int
    where: str  # in words


@dataclass(frozen=True)
class Subject:
    """What is audited, with what, and where it is written."""

    checkpoint: Checkpoint
    reading: Reading
    pictures: Pictures
    out: Path
    public: str | None = None  # a folder of the attacker's | synthetic | None: chosen
    people: int | None = None  # attacked, the first classes; None: all
    overrides: tuple[str, ...] = ()  # of the config, the user's
    threads: int = 1

    @property
    def attacked(self) -> int:
        """How many people are attacked."""
        return min(self.people or self.checkpoint.classes, self.checkpoint.classes)

    @property
    def judge(self) -> str:
        """The judge's architecture: of another family than the network's."""
        family = self.reading.network.name
        return "resnet18" if family.startswith(("facenet", "ir")) else "facenet112"

    @property
    def second_judge(self) -> str:
        """Another one, whose agreement makes a strict number."""
        return "resnet18" if self.reading.network.name.startswith("vgg") else "vgg16"

    @property
    def others(self) -> list[str]:
        """The people in the folder whom the network does not know."""
        return [name for name in self.pictures.names if name not in self.reading.people]

    @property
    def attackers_pictures(self) -> str:
        """Where these come from: other, synthetic or folder."""
        if self.public == SYNTHETIC:
            return SYNTHETIC
        if self.public is not None:
            return "folder"
        count = sum(len(self.pictures.everybody[name]) for name in self.others)
        return "other" if count >= ENOUGH else SYNTHETIC

    @property
    def attackers_pictures_in_words(self) -> str:
        """The same for a reader."""
        return {
            "other": f"pictures of {len(self.others)} other people from the same folder",
            SYNTHETIC: "faces that code renders, of nobody",
            "folder": f"the pictures in {self.public}",
        }[self.attackers_pictures]

    @cached_property
    def strangers(self) -> Strangers | str:
        """Those in the folder whom the network does not know, else those in the attacker's folder; or why
        there are none, a sentence.
        """
        everybody = self.pictures.everybody
        counts = [count for name in self.others if (count := len(everybody[name])) >= _PICTURES]
        if len(counts) >= _STRANGERS:
            node = {"pool": "pretraining", "pretraining_min_images": _PICTURES}
            return Strangers(node, len(counts), sum(counts), "of the same folder whom it does not know")
        if self.public in (None, SYNTHETIC):
            return (
                f"no pictures of {_STRANGERS} other people are here, {_PICTURES} or more of each; --public "
                "DIR with a folder for each of them gives some"
            )
        root = Path(str(self.public)).expanduser().absolute()
        try:
            found = Pictures(root).everybody
        except UserError:
            return f"{self.public} does not say who is who; sort it into a folder for each person"
        inside = root == self.pictures.root.absolute()
        known = {
            name: len(files)
            for name, files in found.items()
            if len(files) >= _PICTURES and not (inside and name in self.reading.people)
        }
        if len(known) < _STRANGERS:
            return (
                f"{self.public} has {_PICTURES} or more pictures of {len(known)} people, and "
                f"{_STRANGERS} are needed"
            )
        node = {"root": str(root), "private": sorted(known), "order": "alphabetical", "split": "drawn"}
        return Strangers(node, len(known), sum(known.values()), f"in {self.public}")


def settings_for(subject: Subject, attack: str, *, retrained: Sequence[str] | None = None) -> dict[str, Any]:
    """The resolved config of one attack on the network; ``retrained``: on one of its architecture, trained
    anew under these defenses.
    """
    reading, checkpoint = subject.reading, subject.checkpoint
    size = reading.preprocessing.size
    with packaged_configs():
        settings = settings_of(
            [
                "setup=custom",
                "scale=audit",
                f"attack={attack}",
                *_judges(subject),
                f"resolution={size}",
                f"attack.identities={subject.attacked}",
                f"defense=[{','.join(retrained or _trained_with(checkpoint))}]",
                "target=resnet18",
                "data=folder",
                "data.root=.",
                f"runtime.threads={subject.threads}",
                *subject.overrides,
            ]
        )
    settings["setup"] = {"id": "audit", "title": f"audit of {checkpoint.given.name}"}
    settings["paths"] |= {name: str(subject.out / name) for name in ("store", "runs", "results")}
    settings["runtime"]["trusted_packages"] += [
        name for name in trusted_by(reading.network) if name not in settings["runtime"]["trusted_packages"]
    ]
    if retrained is None:
        _set_defense(settings["defense"], checkpoint)
    _set_target(settings, subject, anew=retrained is not None)
    _set_data(settings, subject)
    _fit_sizes(settings["attack"], size)
    check_settings(settings)
    return settings


def _trained_with(checkpoint: Checkpoint) -> list[str]:
    """The defenses that one of our own files says it was trained with. Raises ConfigError for one that is no
    choice here.
    """
    names = [name for name in checkpoint.trained_with or {} if name != "nodef"]
    if unknown := [name for name in names if name not in config_files("defense")]:
        raise ConfigError(
            f"{checkpoint.given} was trained with {', '.join(unknown)}, which is no choice of conf/defense; "
            "give its yaml in a folder by --config-dir"
        )
    return names or ["nodef"]


def _set_defense(defense: dict[str, Any], checkpoint: Checkpoint) -> None:
    """The numbers of each defense that one of our own files says it was trained with, under keys it has here:
    what would be made is what this project's own config names.
    """
    for name, node in defense.items():
        told = (checkpoint.trained_with or {}).get(name)
        if not isinstance(told, Mapping):
            continue
        for key in node:
            if not key.startswith("_") and key in told and not isinstance(told[key], Mapping):
                node[key] = told[key]


def _set_target(settings: dict[str, Any], subject: Subject, *, anew: bool) -> None:
    network, given = subject.reading.network, subject.reading.preprocessing
    target = settings["target"]
    target |= {
        "name": network.name,
        "model": {**network.model, "mean": list(given.mean), "std": list(given.std)},
        "checkpoint": None if anew else str(subject.checkpoint.path.absolute()),
        "weights": None,
        "trained_with": None,
    }


def _set_data(settings: dict[str, Any], subject: Subject) -> None:
    """The people in the order of classes, and the attacker's pictures at the size that priors draw."""
    data, reading = settings["data"], subject.reading
    order = subject.out / "classes.txt"
    write_atomic(order, "".join(f"{name}\n" for name in reading.people))
    private = data["private"]
    private |= {
        "root": str(subject.pictures.root.absolute()),
        "private": list(reading.people),
        "order": str(order.absolute()),
        "crop": reading.preprocessing.crop,
        "store": settings["paths"]["store"],
        "size": settings["resolution"],
    }
    data |= {
        "root": private["root"],
        "private_identities": private["private"],
        "order": private["order"],
        "crop": private["crop"],
    }
    if isinstance(subject.strangers, Strangers):
        data["verification"] = dict(subject.strangers.data)
    if subject.attackers_pictures == "other":
        data["public"] = {**private, "size": PIXELS}
    elif subject.attackers_pictures == SYNTHETIC:
        node = choice("data", "synthfaces", scale="mini")["public"]
        data["public"] = {**node, "size": PIXELS, "source": "same", "store": settings["paths"]["store"]}
    else:
        data["public"] = {
            "_target_": "midre_exp.data.AnyPictures",
            "root": str(Path(str(subject.public)).expanduser().absolute()),
            "size": PIXELS,
            "transforms": [
                {"_target_": "midre_exp.data.transforms.ResizeShorterSide", "_partial_": True},
                {"_target_": "midre_exp.data.transforms.CenterCrop", "_partial_": True},
            ],
            "store": settings["paths"]["store"],
            "unreadable": "leave_out",
            "duplicates": "tell",
        }


def _judges(subject: Subject) -> list[str]:
    """The judges as overrides: trained for as many epochs as their pictures need; that one may be too weak to
    judge is told, not refused.
    """
    count = sum(len(subject.pictures.everybody[name]) for name in subject.reading.people)
    words = [
        f"evaluator={subject.judge}",
        f"jury=[{subject.second_judge}]",
        "evaluator.floor=0",
        f"evaluator.recipe.epochs={_epochs(count)}",
        f"evaluator.recipe.batch_size={min(32, max(2, count // 2))}",
    ]
    if isinstance(strangers := subject.strangers, Strangers):
        words += [
            "open_set=verifier",
            f"open_set.epochs={_epochs(strangers.pictures)}",
            f"open_set.batch_size={min(128, max(2, strangers.pictures // 4))}",
        ]
    return words


def _epochs(pictures: int) -> int:
    least, most = _EPOCHS
    return max(least, min(most, round(_SEEN / pictures)))


def _fit_sizes(attack: dict[str, Any], size: int) -> None:
    """Let the network see what a prior draws at its own size."""
    steps = [] if size == PIXELS else [{"_target_": "midre_exp.data.transforms.Resize", "size": size}]
    attack["image_to_target"] = steps
    for node in (attack["prior"], attack.get("surrogates") or {}):
        if "image_to_target" in node:
            node["image_to_target"] = steps
