"""The dogs of AFHQ, either version: the public set beside Stanford Dogs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from midre_exp.data.base import Part
from midre_exp.data.readers.file_list import UNLABELLED, ListedDataset, Listing
from midre_exp.data.readers.layout import demand, demand_count, first_existing, image_names
from midre_exp.data.transforms import Transform
from midre_exp.errors import ConfigError

TREE = """\
  <root>/                               (or <root>/afhq/, or <root>/afhq_v2/)
    train/dog/*.jpg                     4,739 images (version 1), or *.png, 4,678 images (version 2)
    val/dog/*.jpg or test/dog/*.png     500 or 491 images; needed for use=all only"""
BASES = ("", "afhq/", "afhq_v2/", "AFHQ/")


class AFHQDogs(ListedDataset):
    """AFHQ's dogs as downloaded, in order of folder and name; public only, unlabelled.

    ``use``: the train folder (what the published generators saw), or all with the val (version 1) or test
    (version 2) folder after it. ``expected_images``: of a complete download, None for any number.
    """

    title = "AFHQ-Dogs"

    def __init__(
        self,
        *,
        root: str | Path,
        picture: Sequence[Transform | partial[Transform]],
        size: int,
        store: str | Path,
        use: Literal["train", "all"],
        expected_images: int | None,
    ):
        super().__init__(root=root, picture=picture, size=size, store=store)
        if use not in ("train", "all"):
            raise ConfigError(f"data.*.use={use} is unknown; use train or all")
        self.use, self.expected_images = use, expected_images

    def listing(self, part: Part) -> Listing:
        """The public part. Raises DataError for missing folders and another number of images than expected."""
        if part != "public":
            raise ConfigError(f"AFHQ-Dogs has no {part} part; use it as data.public only")
        folders = {"train/dog": self._folder("train")}
        if self.use == "all":
            folders["val/dog or test/dog"] = self._folder("val", "test")
        absent = [f"the folder {name}" for name, folder in folders.items() if folder is None]
        demand(self.root, absent, title=self.title, tree=TREE)
        names = tuple(
            (folder.relative_to(self.root) / name).as_posix()
            for folder in folders.values()
            if folder is not None
            for name in image_names(folder)
        )
        where = folders["train/dog"] or self.root
        demand_count(
            len(names),
            self.expected_images,
            title=self.title,
            what="images",
            folder=where if self.use == "train" else where.parents[1],
            key="expected_images",
        )
        return Listing(names, (0,) * len(names), UNLABELLED)

    def _folder(self, *names: str) -> Path | None:
        return first_existing(self.root, [f"{base}{name}/dog" for base in BASES for name in names])
