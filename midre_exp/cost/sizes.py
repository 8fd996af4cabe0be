"""How many images and identities a run has; where its data is not on this machine, by the data set's card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from midre_exp.cards import DatasetCard, dataset_cards
from midre_exp.errors import UserError
from midre_exp.plan.config import Settings, config_files
from midre_exp.plan.keys import reads_public
from midre_exp.stages.base import Remember
from midre_exp.stages.requirements import dataset_of, images_of

#: Images of complete downloads where there is no card, or it cannot say; of FaceScrub, of which copies
#: differ, those that PPA had.
_USUAL = {
    ("FaceScrub", "private"): 37_878,
    ("VGGFace2", "private"): 3_141_890,
    ("Stanford Dogs", "private"): 20_580,
    ("FFHQ", "public"): 70_000,
    ("AFHQ-Dogs", "public"): 4_739,
}
#: Private identities where data and config do not say.
_IDENTITIES = {"CelebA": 1000, "FaceScrub": 530, "VGGFace2": 8631, "Stanford Dogs": 120}
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
    private, card = images_of(settings, "private", remember), _card_of(node)
    if classes is None or public is None:
        return None
    if private.count is None and card is not None:
        shown, held_out = card.images.get("train"), card.images.get("test")
        if shown is not None and held_out is not None:
            return Sizes(shown, held_out, public, classes)
    count = private.count if private.count is not None else _of_card(card, "private", private.title)
    if count is None:
        return None
    train = int(count * _TRAINED_ON)
    return Sizes(train, count - train, public, classes)


def _of_card(card: DatasetCard | None, role: str, title: str) -> int | None:
    """Images of a complete download."""
    found = None
    if card is not None:
        everything, public = card.images.get("all"), card.images.get("public")
        found = public if role == "public" else everything - (public or 0) if everything else None
    return found if found is not None else _USUAL.get((title, role))


def _card_of(node: Mapping[str, Any]) -> DatasetCard | None:
    """The card of a data set: of those whose choice of conf/data/dataset names its reader, the one with most
    values alike.
    """
    found: list[tuple[int, str]] = []
    cards = dataset_cards()
    for name, card in cards.items():
        for choice in card.used_by:
            known = _choice(choice)
            if known.get("_target_") == node["_target_"]:
                found.append((sum(known[key] == node.get(key) for key in known), name))
    return cards[max(found)[1]] if found else None


@cache
def _choice(name: str) -> Mapping[str, Any]:
    """A choice of conf/data/dataset as its file says it; empty where there is none."""
    file = config_files("data/dataset").get(name)
    read = OmegaConf.to_container(OmegaConf.load(file), resolve=False) if file is not None else {}
    return {str(key): value for key, value in read.items()} if isinstance(read, dict) else {}


def _images(settings: Settings, name: str, remember: Remember) -> int | None:
    node = settings["data"][name]
    if (stated := node.get("public_images")) is not None:  # of synthetic ones
        return int(stated)
    images = images_of(settings, name, remember)
    return images.count if images.count is not None else _of_card(_card_of(node), images.role, images.title)


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
        (step["size"] for step in reversed(attack.get("picture") or []) if "size" in step), resolution
    )
    kept = 1 + len(attack["stages"]) if attack.get("keep_stages") else 1
    kept += 4 if attack.get("keep_floats") else 0
    return kept * int(attack["identities"]) * int(attack["restarts"]) * 3 * int(size) ** 2


def result_bytes(settings: Settings) -> float:
    """Bytes on disk of an attack's reconstructions, twice: a running attack keeps its parts as well."""
    return 2.0 * picture_bytes(settings["attack"], int(settings["resolution"]))
