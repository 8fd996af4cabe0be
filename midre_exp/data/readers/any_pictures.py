"""Any folder of pictures as the attacker's: nobody is named, folders within are gone through."""

from __future__ import annotations

from dataclasses import dataclass

from midre_exp.data.base import Part
from midre_exp.data.picture import endings
from midre_exp.data.readers.file_list import UNLABELLED, FileList, FileListDataset
from midre_exp.data.readers.tree import natural, read_tree
from midre_exp.errors import ConfigError, DataError


@dataclass(kw_only=True, eq=False)
class AnyPictures(FileListDataset):
    """Every picture below a folder, in natural order of its path; public only, unlabelled."""

    title = "pictures"

    def list_files(self, part: Part) -> FileList:
        """The public part. Raises DataError for a folder without pictures."""
        if part != "public":
            raise ConfigError(f"a folder of pictures has no {part} part; use it as data.public only")
        tree = read_tree(self.root, [ending.removeprefix(".") for ending in endings()])
        names = sorted((image.name for image in tree.top.walk()), key=natural)
        if not names:
            raise DataError(f"{self.root} holds no pictures; give a folder that does")
        return FileList(tuple(names), (0,) * len(names), UNLABELLED)
