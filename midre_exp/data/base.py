"""What a dataset is to the rest of the project: named parts, each a block of 8-bit images with labels.

The way of an image: a ``Dataset`` decodes its files once (``readers``, ``cache``) or renders them
(``synthetic``) into an ``ImageSet`` of uint8 pixels; ``loader`` gathers training batches from it;
``transforms`` augment them as float images on the device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from torch import Tensor

#: ``train`` and ``test`` hold the private identities (labels 0..k-1); ``public`` holds other identities, for
#: the attacker. Images to pre-train on are a data set of their own: the private one with what
#: ``data.pretraining`` has different, of which readers understand ``pool: pretraining``. Its ``train`` and
#: ``test`` hold identities that are not private, in place of those that are.
Part = Literal["train", "test", "public"]
#: Who uses the images: ``private`` is train and test together.
Role = Literal["private", "public"]


@dataclass(frozen=True)
class ImageSet:
    """A block of images with labels."""

    images: Tensor  # uint8 [n, 3, h, w] RGB
    labels: Tensor  # int64 [n], indices into classes
    classes: tuple[str, ...]  # the name of each label

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def num_classes(self) -> int:
        """How many classes the labels index."""
        return len(self.classes)


class SourceFile(NamedTuple):
    """A file that an image comes from: ``name`` relative to the root of its dataset, ``sha256`` of its
    content, "" for one that cannot be opened.
    """

    part: Part
    name: str
    identity: str
    sha256: str


class KnownTraits(NamedTuple):
    """What is true of the person in each of n photographs, by the name of the trait; none is both a number
    and a kind.
    """

    numbers: dict[str, Tensor]  # float [n]
    shows: dict[str, Tensor]  # bool [n], by the names of ``numbers``: whether the number shows at all
    kinds: dict[str, tuple[tuple[str, ...], Tensor]]  # names of the classes, and int64 [n]

    def of_rows(self, rows: Tensor) -> KnownTraits:
        """Some of the photographs."""
        return KnownTraits(
            {name: value[rows] for name, value in self.numbers.items()},
            {name: value[rows] for name, value in self.shows.items()},
            {name: (names, classes[rows]) for name, (names, classes) in self.kinds.items()},
        )


def to_float(images: Tensor) -> Tensor:
    """uint8 [..] in 0..255 to float32 in [0, 1]."""
    return images.float().div_(255.0)


class Dataset(ABC):
    """A source of images, built by ``_target_`` from ``conf/data``; files are read in ``load`` alone."""

    #: What a run does about files with the same content: ``tell`` in log and record, or ``refuse``.
    duplicates: Literal["tell", "refuse"] = "tell"
    #: Whether its arguments alone decide about every image, and no file.
    is_rendered: ClassVar[bool] = False
    #: Whether the people of every ``pool`` are neither private nor public; else other pools are public ones.
    has_own_pools: ClassVar[bool] = False
    #: Whether ``known_traits`` knows any.
    knows_traits: ClassVar[bool] = False

    @abstractmethod
    def load(self, part: Part) -> ImageSet:
        """The images of one part. Raises DataError naming the folder or file and the remedy."""

    @abstractmethod
    def fingerprint(self, role: Role) -> dict[str, object]:
        """Plain values that change whenever the images of a role would: part of the key of every artifact
        made from them.

        Cheap, no image is decoded, and free of what does not matter to the role, so that artifacts are shared
        wherever they can be.
        """

    def count_images(self, role: Role) -> int | None:
        """About how many images a role has, None where nothing tells: a quick look before anything is run.

        Raises DataError when they are not there, as far as folders and lists show; ``fingerprint`` and
        ``load`` may find more.
        """
        self.fingerprint(role)
        return None

    def num_identities(self) -> int | None:
        """How many private identities (classes) there are, known without decoding an image; None where only
        ``load`` can tell. Raises as ``count_images``.
        """
        return None

    def class_names(self) -> tuple[str, ...] | None:
        """The private identities in the order of their labels, known without decoding an image; None where
        only ``load`` can tell. Raises as ``count_images``.
        """
        return None

    def source_files(self, role: Role) -> list[SourceFile]:
        """The files that the images of a role come from; none where images come from no files. Raises as
        ``count_images``.
        """
        return []

    def file_contents(self, role: Role) -> dict[str, str]:
        """SHA-256 of the files of a role by their names, "" for one that cannot be opened; nothing is decoded
        for it. None where images come from no files. Raises as ``count_images``.
        """
        return {}

    def known_traits(self, part: Part) -> KnownTraits | None:
        """The true traits of the people in the images of a part, in the order of ``load``; None where nobody
        knows. Nothing is decoded for it.
        """
        return None

    def alarms(self, role: Role) -> list[str]:
        """What a reader of a record must know of the images of a role, one sentence each."""
        return []

    def left_out(self, role: Role) -> int:
        """How many files of a role cannot be read and are left out (``unreadable: leave_out``)."""
        return 0
