"""The dogs of AFHQ, either version: the public set beside Stanford Dogs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from midre_exp.data.base import Part
from midre_exp.data.readers.file_list import UNLABELLED, FileList, FileListDataset
from midre_exp.data.readers.layout import first_existing, image_names, require, require_count
from midre_exp.errors import ConfigError
from midre_exp.plan.ranges import Count

LAYOUT = """\
  <root>/                               (or <root>/afhq/, or <root>/afhq_v2/)
    train/dog/*.jpg                     4,739 images (version 1), or *.png, 4,678 images (version 2)
    val/dog/*.jpg or test/dog/*.png     500 or 491 images; needed for use=all only"""
BASES = ("", "afhq/", "afhq_v2/", "AFHQ/")


@dataclass(kw_only=True, eq=False)
class AFHQDogs(FileListDataset):
    """AFHQ's dogs as downloaded, in order of folder and name; public only, unlabelled."""

    # train: the train folder, which the published generators saw; all: the val (version 1) or test (version
    # 2) folder after it
    use: Literal["train", "all"]
    expected_images: Count | None  # of a complete download, None for any number

    title = "AFHQ-Dogs"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.use not in ("train", "all"):
            raise ConfigError(f"data.*.use={self.use} is unknown; use train or all")

    def list_files(self, part: Part) -> FileList:
        """The public part. Raises DataError for missing folders and an unexpected number of images."""
        if part != "public":
            raise ConfigError(f"AFHQ-Dogs has no {part} part; use it as data.public only")
        folders = {"train/dog": self._folder("train")}
        if self.use == "all":
            folders["val/dog or test/dog"] = self._folder("val", "test")
        absent = [f"the folder {name}" for name, folder in folders.items() if folder is None]
        require(self.root, absent, title=self.title, layout=LAYOUT)
        names = tuple(
            (folder.relative_to(self.root) / name).as_posix()
            for folder in folders.values()
            if folder is not None
            for name in image_names(folder, self.foreign)
        )
        where = folders["train/dog"] or self.root
        require_count(
            len(names),
            self.expected_images,
            title=self.title,
            what="images",
            folder=where if self.use == "train" else where.parents[1],
            key="expected_images",
        )
        return FileList(names, (0,) * len(names), UNLABELLED)

    def _folder(self, *names: str) -> Path | None:
        return first_existing(self.root, [f"{base}{name}/dog" for base in BASES for name in names])
