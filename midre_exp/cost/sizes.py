"""How many images and identities a run has; where its data is not on this machine, by the data set's card."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from midre_exp.cards import card_of, usual_images
from midre_exp.errors import UserError
from midre_exp.plan.config import Settings, trusted_packages
from midre_exp.plan.keys import (
    is_pretrained_here,
    learns_from_others,
    node_of,
    reads_public,
    tunes_on_public,
)
from midre_exp.stages.base import Remember
from midre_exp.stages.judging import keeps_floats
from midre_exp.stages.requirements import dataset_of, images_of

#: Private identities where data and config do not say.
_IDENTITIES = {"CelebA": 1000, "FaceScrub": 530, "VGGFace2": 8631, "Stanford Dogs": 120, "LFW": 62}
_TRAINED_ON = 0.9  #: of private images, where neither data nor card says; the splits of the literature


@dataclass(frozen=True)
class Sizes:
    """Images to train and test on, public images, and private identities, which are the classes; images and
    classes to pre-train on, images and people that a verifier learns from, images that a reader of traits
    does, 0 where that is not done.
    """

    train: int
    test: int
    public: int
    classes: int
    pretraining_train: int = 0
    pretraining_test: int = 0
    pretraining_classes: int = 0
    verification_images: int = 0
    verification_classes: int = 0
    trait_images: int = 0

    def as_json(self) -> dict[str, int]:
        """Plain values."""
        return asdict(self)


def sizes_of(settings: Settings, remember: Remember) -> Sizes | None:
    """Those of a run; None where neither the data nor its documentation tells."""
    attack, trusted = settings["attack"], trusted_packages(settings)
    learns = reads_public(attack, trusted) or tunes_on_public(attack, trusted)
    public = _images(settings, "public", remember) if learns else 0
    private = _classified(settings, "private", remember)
    roles = {"target": "pretraining", "evaluator": "evaluator_pretraining"}
    pools = [name for role, name in roles.items() if is_pretrained_here(settings[role])]
    pools += ["others"] if learns_from_others(settings) else []  # the same people, where none are given
    pool = _classified(settings, pools[0], remember) if pools else (0, 0, 0)
    if public is None or private is None or pool is None:
        return None
    learnt = {name: _classified(settings, name, remember) for name in _learnt_from(settings)}
    if None in learnt.values():
        return None
    shown, more, people = learnt.get("verification") or (0, 0, 0)
    photographs, _, _ = learnt.get("traits") or (0, 0, 0)
    return Sizes(*private[:2], public, private[2], *pool, shown + more, people, photographs)


def _learnt_from(settings: Settings) -> list[str]:
    """The images of the judges beside the evaluator that a run has."""
    groups = {"verification": "open_set", "traits": "traits"}
    return [name for name, group in groups.items() if settings.get(group) is not None]


def _classified(settings: Settings, name: str, remember: Remember) -> tuple[int, int, int] | None:
    """Images to train and to test on, and classes, of private images or those to pre-train on."""
    node, classes = node_of(settings["data"], name), _classes(settings, name, remember)
    if classes is None:
        return None
    if "train_per_identity" in node:
        train, test = (int(node[f"{part}_per_identity"]) * classes for part in ("train", "test"))
        return train, test, classes
    count, card = images_of(settings, name, remember).count, card_of(node)
    if count is None and card is not None and name == "private":  # of which alone a card tells
        shown, held_out = card.images.get("train"), card.images.get("test")
        if shown is not None and held_out is not None:
            return shown, held_out, classes
        count = usual_images(card, "private")
    if count is None:
        return None
    train = int(count * _TRAINED_ON)
    return train, count - train, classes


def _images(settings: Settings, name: str, remember: Remember) -> int | None:
    node = settings["data"][name]
    if (stated := node.get("public_images")) is not None:  # of synthetic ones
        return int(stated)
    images = images_of(settings, name, remember)
    card = card_of(node)
    if images.count is not None or card is None:
        return images.count
    return usual_images(card, images.role)


def _classes(settings: Settings, name: str, remember: Remember) -> int | None:
    title, node = images_of(settings, name, remember).title, node_of(settings["data"], name)
    try:
        dataset = dataset_of(settings, name, remember)
        found: int | None = remember(["identities", node], dataset.num_identities)
    except UserError:
        found = None
    stated = node.get("identities")
    usual = _IDENTITIES.get(title) if name == "private" else None
    return found or (int(stated) if stated else usual)


def picture_bytes(attack: Settings, resolution: int) -> int:
    """Bytes of everything an attack keeps to be judged."""
    size = next(
        (step["size"] for step in reversed(attack.get("picture") or []) if step.get("size")), resolution
    )
    kept = 1 + len(attack["stages"]) if attack.get("keep_stages") else 1
    kept += 2 if attack.get("pgd") else 0
    kept += 4 if keeps_floats(attack) else 0
    return kept * int(attack["identities"]) * int(attack["restarts"]) * 3 * int(size) ** 2


def result_bytes(settings: Settings) -> float:
    """Bytes on disk of an attack's reconstructions, twice: a running attack keeps its parts as well."""
    return 2.0 * picture_bytes(settings["attack"], int(settings["resolution"]))
