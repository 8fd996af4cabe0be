"""A sheet of synthetic faces to look at: ``midre-exp data sheet FILE.png``."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch
from PIL import Image
from torch import Tensor

from midre_exp.data.synthetic.looks import V1, V2, Look
from midre_exp.data.synthetic.synthfaces import render
from midre_exp.data.synthetic.traits import SOURCES
from midre_exp.errors import ConfigError, UserError

_LIMITS = {"size": (16, 1024), "people": (1, 1000), "photos": (1, 1000)}


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"sheet: {message}; see midre-exp data sheet --help")


def _laid_out(images: Tensor, columns: int) -> Tensor:
    """Images [n, 3, size, size] as one [3, height, width], row by row."""
    grid: Tensor = images.unflatten(0, (-1, columns))
    return grid.permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)


def people(look: Look, size: int, *, first: int, count: int, photos: int, source: str) -> Tensor:
    """uint8 [3, count * size, photos * size]: a row of photographs of each person."""
    identity, index = first + torch.arange(count), torch.arange(photos)
    faces = render(identity.repeat_interleave(photos), index.repeat(count), size, source=source, look=look)
    return _laid_out(faces, photos)


def overview(look: Look, size: int) -> Tensor:
    """uint8 [3, 8 * size, 12 * size]: 60 people, then 12 photographs each of two and, by the other source, of
    a third.
    """
    row = torch.arange(12)
    blocks = [render(torch.arange(60), torch.arange(60), size, look=look)]
    for identity, source in ((3, "same"), (64, "same"), (71, "other")):
        blocks.append(render(torch.full_like(row, identity), row, size, source=source, look=look))
    return _laid_out(torch.cat(blocks), 12)


def draw(arguments: Sequence[str]) -> Path:
    """Write the sheet that the arguments ask for; its file. Raises UserError."""
    parser = _Parser(prog="midre-exp data sheet", description=__doc__)
    parser.add_argument("file", type=Path, help="the picture to write: .png or .jpg")
    parser.add_argument("--version", type=int, default=2, help="of the faces: 1 or 2 (default)")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side of a face (64)")
    parser.add_argument("--people", type=int, default=8, help="how many, a row each (8)")
    parser.add_argument("--photos", type=int, default=8, help="how many of each (8)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first person (0)")
    parser.add_argument("--source", default="same", help="same (default) or other, as public_source")
    parser.add_argument("--per-photo", nargs="+", help="version 2: the groups as of data.per_photo")
    parser.add_argument("--occluders", type=float, help="version 2: as data.occluders (0.15)")
    parser.add_argument("--overview", action="store_true", help="instead: 60 people once, and 12 photographs")
    given = parser.parse_args(arguments)
    for name, (least, most) in _LIMITS.items():
        if not least <= (value := getattr(given, name)) <= most:
            raise ConfigError(f"sheet: --{name}={value} cannot be drawn; give {least} to {most}")
    if given.first < 0:
        raise ConfigError(f"sheet: --first={given.first} cannot be drawn; give 0 or more")
    if given.source not in SOURCES:
        raise ConfigError(f"sheet: --source={given.source} is unknown; use {' or '.join(SOURCES)}")
    if given.file.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ConfigError(f"sheet: {given.file} is no name of a picture; end it with .png or .jpg")
    usual = V1 if given.version == 1 else V2
    look = Look(
        version=given.version,
        per_photo=usual.per_photo if given.per_photo is None else tuple(given.per_photo),
        occluders=usual.occluders if given.occluders is None else given.occluders,
    )
    if given.overview:
        sheet = overview(look, given.size)
    else:
        sheet = people(
            look,
            given.size,
            first=given.first,
            count=given.people,
            photos=given.photos,
            source=given.source,
        )
    file: Path = given.file.expanduser()
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(sheet.permute(1, 2, 0).contiguous().numpy()).save(file, optimize=True, quality=88)
    return file


def main(arguments: Sequence[str]) -> int:
    """Run, print the file; 2 after a mistake, told in one sentence."""
    try:
        print(draw(arguments))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
