"""How many images and identities a run has; where its data is not on this machine, by the data set's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from midre_exp.cards import card_of, usual_images
from midre_exp.errors import UserError
from midre_exp.plan.config import Settings
from midre_exp.plan.keys import reads_public
from midre_exp.stages.base import Remember
from midre_exp.stages.requirements import dataset_of, images_of

#: Private identities where data and config do not say.
_IDENTITIES = {"CelebA": 1000, "FaceScrub": 530, "VGGFace2": 8631, "Stanford Dogs": 120, "LFW": 62}
_TRAINED_ON = 0.9  #: of private images, where neither data nor card says; the splits of the literature


@dataclass(frozen=True)
class Sizes:
    """Images to train and test on, public images, and private identities, which are the classes."""

    train: int
    test: int
    public: int
    classes: int

    def as_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)


def sizes_of(settings: Settings, remember: Remember) -> Sizes | None:
    """Those of a run; None where neither the data nor its documentation tells."""
    public = _images(settings, "public", remember) if reads_public(settings["attack"]) else 0
    classes = _classes(settings, remember)
    node: Mapping[str, Any] = settings["data"]["private"]
    if classes is not None and public is not None and "train_per_identity" in node:
        train, test = (int(node[f"{part}_per_identity"]) for part in ("train", "test"))
        return Sizes(train * classes, test * classes, public, classes)
    private, card = images_of(settings, "private", remember), card_of(node)
    if classes is None or public is None:
        return None
    if private.count is None and card is not None:
        shown, held_out = card.images.get("train"), card.images.get("test")
        if shown is not None and held_out is not None:
            return Sizes(shown, held_out, public, classes)
    count = private.count
    if count is None and card is not None:
        count = usual_images(card, "private")
    if count is None:
        return None
    train = int(count * _TRAINED_ON)
    return Sizes(train, count - train, public, classes)


def _images(settings: Settings, name: str, remember: Remember) -> int | None:
    node = settings["data"][name]
    if (stated := node.get("public_images")) is not None:  # of synthetic ones
        return int(stated)
    images = images_of(settings, name, remember)
    card = card_of(node)
    if images.count is not None or card is None:
        return images.count
    return usual_images(card, images.role)


def _classes(settings: Settings, remember: Remember) -> int | None:
    title = images_of(settings, "private", remember).title
    try:
        dataset = dataset_of(settings, "private", remember)
        found: int | None = remember(["identities", settings["data"]["private"]], dataset.num_identities)
    except UserError:
        found = None
    stated = settings["data"]["private"].get("identities")
    return found or (int(stated) if stated else _IDENTITIES.get(title))


def picture_bytes(attack: Settings, resolution: int) -> int:
    """Bytes of everything an attack keeps to be judged."""
    size = next(
        (step["size"] for step in reversed(attack.get("picture") or []) if step.get("size")), resolution
    )
    kept = 1 + len(attack["stages"]) if attack.get("keep_stages") else 1
    kept += 4 if attack.get("keep_floats") else 0
    return kept * int(attack["identities"]) * int(attack["restarts"]) * 3 * int(size) ** 2


def result_bytes(settings: Settings) -> float:
    """Bytes on disk of an attack's reconstructions, twice: a running attack keeps its parts as well."""
    return 2.0 * picture_bytes(settings["attack"], int(settings["resolution"]))
