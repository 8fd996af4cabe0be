"""FFHQ: 70,000 faces without identities, as thumbnails of 128 px or at 1024 px; a public set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from PIL import Image

from midre_exp.data.base import Part, Role
from midre_exp.data.picture import UNREADABLE
from midre_exp.data.readers.file_list import UNLABELLED, FileList, FileListDataset
from midre_exp.data.readers.layout import first_existing, folder_names, image_names, require, require_count
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count

LAYOUT = """\
  <root>/                               (or <root>/ffhq/, or <root>/ffhq-dataset/)
    thumbnails128x128/00000/00000.png ... 69000/69999.png     for variant=thumbnails (also flat)
    images1024x1024/00000/00000.png ... 69000/69999.png       for variant=images1024
    resized/00000.png ... 69999.png                           for variant=resized, copies of 256 px
or the content of one of these folders right in <root>"""
_RESIZED = "; these are resized copies, which data/dataset@data.public=ffhq_256 reads"
BASES = ("", "ffhq/", "FFHQ/", "ffhq-dataset/")
#: Folder and side in pixels of each variant.
VARIANTS = {
    "thumbnails": ("thumbnails128x128", 128),
    "images1024": ("images1024x1024", 1024),
    "resized": ("resized", 256),
}


@dataclass(kw_only=True, eq=False)
class FFHQ(FileListDataset):
    """FFHQ as downloaded, all images in order of their number; public only, unlabelled."""

    # 128 px | 1024 px | 256 px: copies that somebody made of those of 1024 px, told in the record
    variant: Literal["thumbnails", "images1024", "resized"]
    expected_images: Count | None  # of a complete download, None for any number

    title = "FFHQ"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant not in VARIANTS:
            raise ConfigError(f"data.*.variant={self.variant} is unknown; use {' or '.join(VARIANTS)}")

    def list_files(self, part: Part) -> FileList:
        """The public part. Raises DataError for an incomplete tree, a number given twice and pictures of the
        other variant.
        """
        if part != "public":
            raise ConfigError(f"FFHQ names nobody and has no {part} part; use it as data.public only")
        name, side = VARIANTS[self.variant]
        folder = first_existing(self.root, [f"{base}{name}" for base in BASES])
        if folder is None and any(_images(self.root)):
            folder = self.root
        require(self.root, [] if folder else [f"the folder {name}"], title=self.title, layout=LAYOUT)
        found = _images(folder or self.root, self.foreign)
        images = sorted(found, key=lambda image: (Path(image).stem, image))
        prefix = (folder or self.root).relative_to(self.root)
        for one, other in pairwise(images):
            if Path(one).stem == Path(other).stem:
                raise DataError(f"FFHQ in {folder} has {one} and {other}; remove one of the copies")
        require_count(
            len(images),
            self.expected_images,
            title=self.title,
            what="images",
            folder=folder or self.root,
            key="expected_images",
        )
        names = tuple((prefix / image).as_posix() for image in images)
        if names:
            _require_side(self.root / names[0], side)
        return FileList(names, (0,) * len(names), UNLABELLED)

    def alarms(self, role: Role) -> list[str]:
        """Copies of another size are no official images."""
        if self.variant != "resized":
            return []
        return ["the public images are copies of FFHQ resized to 256 px by others, not the official images"]


def _images(folder: Path, foreign: Counter[str] | None = None) -> Iterator[str]:
    """The images of a folder, right inside it or in folders of thousands (00000, 01000, ...)."""
    if not folder.is_dir():
        return
    yield from image_names(folder, foreign)
    for thousand in folder_names(folder):
        if thousand.isdigit():
            yield from (f"{thousand}/{name}" for name in image_names(folder / thousand, foreign))


def _require_side(path: Path, side: int) -> None:
    """Raise DataError if a readable picture is not ``side`` x ``side``: the crops of one variant would cut
    the other without an error.
    """
    try:
        with Image.open(path) as picture:
            size = picture.size
    except UNREADABLE:
        return  # decoding names every unreadable file
    if size != (side, side):
        raise DataError(
            f"{path} has {size[0]}x{size[1]} px, this variant of FFHQ {side}x{side}; choose another "
            f"data.*.variant or another root{_RESIZED if size == (256, 256) else ''}"
        )
