"""How many images and identities a run has, also where its data is not on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from midre_exp.errors import UserError
from midre_exp.plan.config import Settings
from midre_exp.plan.keys import reads_public
from midre_exp.stages.base import Remember
from midre_exp.stages.requirements import dataset_of, images_of

#: Images in a complete download as it is used here, where the data is not on this machine to be counted.
IMAGES = {
    ("CelebA", "private"): 30_027,
    ("CelebA", "public"): 30_000,
    ("FaceScrub", "private"): 37_900,
    ("FaceScrub", "public"): 37_900,
    ("VGGFace2", "private"): 3_141_890,
    ("Stanford Dogs", "private"): 20_580,
    ("FFHQ", "public"): 70_000,
    ("AFHQ-Dogs", "public"): 4_739,
}
#: Private identities of the same, of those that have another number than the config says.
IDENTITIES = {"CelebA": 1000, "FaceScrub": 530, "VGGFace2": 8631, "Stanford Dogs": 120}
_TRAINED_ON = 0.9  #: of private images, where the data does not say; the splits of the literature


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
    private = _images(settings, "private", remember)
    if private is None or public is None or classes is None:
        return None
    train = int(private * _TRAINED_ON)
    return Sizes(train, private - train, public, classes)


def count_of(title: str, role: str, counted: int | None) -> int | None:
    """As found, else that of a complete download."""
    return counted if counted is not None else IMAGES.get((title, role))


def _images(settings: Settings, name: str, remember: Remember) -> int | None:
    if (stated := settings["data"][name].get("public_images")) is not None:  # of synthetic ones
        return int(stated)
    images = images_of(settings, name, remember)
    return count_of(images.title, images.role, images.count)


def _classes(settings: Settings, remember: Remember) -> int | None:
    title = images_of(settings, "private", remember).title
    try:
        dataset = dataset_of(settings, "private", remember)
        found: int | None = remember(["identities", settings["data"]["private"]], dataset.num_identities)
    except UserError:
        found = None
    stated = settings["data"]["private"].get("identities")
    return found or (int(stated) if stated else IDENTITIES.get(title))


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
