"""Your own images: one folder per identity under one root, any common format, any size.

Identities are divided into private and public ones, private images into train and test. Nothing depends on
the order in which the file system lists files or on where the folder lies: a copy has the same parts and
keys.
"""

from __future__ import annotations

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from midre_exp.data.base import Dataset, ImageSet, Part, Role
from midre_exp.data.cache import UNREADABLE, abbreviate
from midre_exp.data.readers.picture import check_pixels
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.config import digest
from midre_exp.seeding import derive

EXTENSIONS = ("bmp", "gif", "jpeg", "jpg", "pbm", "pgm", "png", "pnm", "ppm", "tif", "tiff", "webp")
_BAR_FROM = 2000  # files; fewer take a few seconds

log = logging.getLogger(__name__)


class ImageFile(NamedTuple):
    """An image below the root: ``name`` relative to it, with "/" and in Unicode NFC, ``size`` in bytes."""

    path: Path
    name: str
    size: int


def natural(name: str) -> tuple[list[str | int], str]:
    """Sort key that reads digits as numbers: s2 before s10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"(\d+)", name))], name


def scan(root: Path, extensions: Sequence[str]) -> dict[str, list[ImageFile]]:
    """The image files of every identity, subfolders included, all in natural order.

    Hidden entries and other files are left out; only identity folders may be links.
    Raises DataError when the layout is not ``root/<identity>/<images>``.
    """
    if not root.is_dir():
        problem = "is a file" if root.exists() else "does not exist"
        raise DataError(f"data.root={root} {problem}; give the folder that holds one folder per identity")
    suffixes = {f".{extension}" for extension in extensions}
    found: dict[str, list[ImageFile]] = {}
    try:
        for folder in root.iterdir():
            if folder.name.startswith(".") or not folder.is_dir():
                continue
            name = unicodedata.normalize("NFC", folder.name)
            if name in found:
                raise DataError(f"{root} holds two folders whose names both read {name!r}; rename one")
            files = (file for file in _walk(folder, root) if file.path.suffix.lower() in suffixes)
            found[name] = sorted(files, key=lambda file: natural(file.name))
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); mend its permissions"
        ) from error
    if not found:
        raise DataError(
            f"data.root={root} holds no identity folders; arrange it as <root>/<identity>/<image>"
        )
    if empty := sorted((name for name, files in found.items() if not files), key=natural):
        known = " ".join(extensions)
        raise DataError(
            f"{root} holds no image of {abbreviate(empty)}; add images ({known}) or remove the folder"
        )
    return {name: found[name] for name in sorted(found, key=natural)}


def _walk(folder: Path, root: Path) -> Iterator[ImageFile]:
    def refuse(error: OSError) -> None:  # os.walk would pass over a locked subfolder in silence
        raise error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in names if not name.startswith(".")):
            # A dangling link or a pipe has no size; it is reported among the unreadable files when its turn
            # comes.
            size = path.stat().st_size if path.is_file() else -1
            yield ImageFile(path, unicodedata.normalize("NFC", path.relative_to(root).as_posix()), size)


def decode(path: Path, size: int, crop: str) -> Tensor:
    """One image file as uint8 [3, size, size] RGB, upright (EXIF), shrunk with antialiasing.

    Transparency is laid over white, 16-bit grey scaled by 1/257. ``crop``: ``center`` takes the largest
    centred square, ``none`` stretches. Raises one of ``UNREADABLE``.
    """
    with Image.open(path) as file:
        check_pixels(file.width, file.height)
        image = ImageOps.exif_transpose(file)
    if image.mode.startswith("I"):
        image = image.convert("I")
        low, high = image.getextrema()
        if low < 0 or high > 65535:  # type: ignore[operator]  # one pair of numbers in a one-band image
            raise ValueError("32-bit pixels have no fixed white")
        image = image.point(lambda value: value * (1 / 257) + 0.5).convert("L")
    elif image.mode == "F":
        raise ValueError("floating-point pixels have no fixed white")
    elif image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    if crop == "center":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    image = image.resize(
        (size, size), Image.Resampling.BILINEAR
    )  # Pillow's bilinear antialiases when shrinking
    return (
        torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)
    )


def _decode_or_none(file: ImageFile, size: int, crop: str) -> Tensor | None:
    if file.size < 0:  # opening a pipe would wait for ever
        return None
    try:
        return decode(file.path, size, crop)
    except UNREADABLE:
        return None


def read(files: Sequence[ImageFile], *, size: int, crop: str) -> tuple[Tensor, Tensor]:
    """The readable images uint8 [m, 3, size, size] in the order of ``files``, and which they are, bool [n].

    One warning counts the unreadable files and names the first few.
    """
    images = torch.empty(len(files), 3, size, size, dtype=torch.uint8)
    readable = torch.zeros(len(files), dtype=torch.bool)
    # Pillow decodes and resizes outside the interpreter lock, so threads do; map keeps the order.
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        decoded = pool.map(partial(_decode_or_none, size=size, crop=crop), files)
        hidden = None if len(files) > _BAR_FROM else True  # None: no bar where stderr is no terminal
        for i, image in enumerate(tqdm(decoded, "reading images", len(files), disable=hidden)):
            if image is not None:
                images[i] = image
                readable[i] = True
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not read the rest
    if readable.all():
        return images, readable
    bad = [file.name for file, good in zip(files, readable.tolist(), strict=True) if not good]
    log.warning("skipped %d of %d image files that cannot be read: %s", len(bad), len(files), abbreviate(bad))
    return images[readable], readable


def hold_out(labels: Tensor, scores: Tensor, share: float) -> Tensor:
    """Which images are for testing, bool [n]; ``labels`` and ``scores`` int64 [n].

    Of each label with c images those with the round(share * c) lowest scores, at least 1 and at most c - 1.
    """
    counts = labels.bincount()
    by_score = scores.argsort(stable=True)
    order = by_score[labels[by_score].argsort(stable=True)]
    starts = counts.cumsum(0) - counts
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(labels)) - starts[labels[order]]
    held_out = (counts.double() * share).round().long().clamp(min=1).minimum(counts - 1)
    return rank < held_out[labels]


@dataclass(kw_only=True, eq=False)
class FaceFolder(Dataset):
    """Images under ``root/<identity>/``, subfolders included. Labels follow the natural order of the names,
    however ``private`` lists them.
    """

    root: Path  # relative to the working directory if not absolute
    size: int  # px of a side of the pixels made
    # the private identities by name, or a text file with one per line; None draws ``private_share`` of all
    private: Sequence[str] | str | Path | None
    private_share: float  # in (0, 1)
    test_share: float  # of each private identity's readable images, held out, in (0, 1)
    crop: Literal["center", "none"]  # the largest centred square, or stretched to a square
    seed: int  # of both draws
    extensions: Sequence[str] | None = None  # file endings to read, None for all of ``EXTENSIONS``

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(f"resolution={self.size} must be at least 1 pixel")
        for key, share in (("private_share", self.private_share), ("test_share", self.test_share)):
            if not 0 < share < 1:
                raise ConfigError(f"data.{key}={share} must lie between 0 and 1, both excluded")
        if self.crop not in ("center", "none"):
            raise ConfigError(
                f"data.crop={self.crop} is unknown; use center (centred square) or none (stretch)"
            )
        given = self.extensions
        if given is not None and (isinstance(given, str) or not given):
            raise ConfigError(f"data.extensions={given} must be a list like [jpg,png], or null for all")
        self.root = Path(self.root).expanduser().absolute()
        self._endings = sorted({ending.lower().removeprefix(".") for ending in given or EXTENSIONS})

    def load(self, part: Part) -> ImageSet:
        """One part; every image is decoded once, and the split sees readable images only.

        Raises DataError naming identities with too few readable images (private: 2, public: 1).
        """
        if part == "public":
            return self._public_part
        if part in ("train", "test"):
            return self._private_parts[part]
        raise ConfigError(f"part {part!r} is unknown; use train, test or public")

    def fingerprint(self, role: Role) -> dict[str, object]:
        """What shapes a role's images, and a hash of their files' names and sizes; not where they lie."""
        files = sorted((file.name, file.size) for file in chain(*self._files(role).values()))
        split = {"test_share": self.test_share, "seed": self.seed} if role == "private" else {}
        return {"dataset": "folder", "size": self.size, "crop": self.crop, "files": digest(files), **split}

    def num_identities(self) -> int:
        """The private folders."""
        return len(self._private_names)

    @cached_property
    def _by_identity(self) -> dict[str, list[ImageFile]]:
        return scan(self.root, self._endings)

    @cached_property
    def _private_names(self) -> set[str]:
        count, total = round(self.private_share * len(self._by_identity)), len(self._by_identity)
        if self.private is not None:
            return self._named(self.private)
        if 0 < count < total:
            drawn = sorted(self._by_identity, key=lambda name: derive(self.seed, "folder", "private", name))
            return set(drawn[:count])
        raise ConfigError(
            f"data.private_share={self.private_share} makes {count} of the {total} identities in {self.root} "
            "private; both sides need at least one, so change the share or add identities"
        )

    def _named(self, private: Sequence[str] | str | Path) -> set[str]:
        """The private identities the user names, checked against the folders."""
        key = "data.private_identities"
        if isinstance(private, (str, Path)):
            try:
                lines = Path(private).expanduser().read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                wanted = "give a file with one name per line, or a list such as [anna,bob]"
                raise ConfigError(f"{key}={private} cannot be read as a text file; {wanted}") from error
            private = [line.strip() for line in lines if line.strip()]
        # str: a folder named 7 arrives from yaml as a number
        names = sorted((unicodedata.normalize("NFC", str(name)) for name in private), key=natural)
        if repeated := [name for name, times in Counter(names).items() if times > 1]:
            raise ConfigError(f"{key} names {abbreviate(repeated)} more than once; name every identity once")
        if unknown := [name for name in names if name not in self._by_identity]:
            there = abbreviate(list(self._by_identity))
            raise ConfigError(
                f"{key} names {abbreviate(unknown)}, but {self.root} holds {there}; correct the names"
            )
        if not 0 < len(names) < len(self._by_identity):
            raise ConfigError(
                f"{key} names {len(names)} of the {len(self._by_identity)} identities in {self.root}; "
                "name at least one and leave at least one for the attacker's public images"
            )
        return set(names)

    def _files(self, role: Role) -> dict[str, list[ImageFile]]:
        """The files of a role by identity."""
        private = role == "private"
        files = {name: f for name, f in self._by_identity.items() if (name in self._private_names) == private}
        self._require(role, {name: len(found) for name, found in files.items()})
        return files

    def _require(self, role: Role, counts: dict[str, int]) -> None:
        least = 2 if role == "private" else 1
        if short := [name for name, count in counts.items() if count < least]:
            need = "2 readable images (to train and to test)" if role == "private" else "a readable image"
            remedy = "add images or remove the folder"
            raise DataError(
                f"{self.root}: {role} identity {abbreviate(short)} needs at least {need}; {remedy}"
            )

    def _read(self, role: Role) -> tuple[ImageSet, Tensor]:
        """All readable images of a role, and of each an int64 score drawn by its name and ``seed``."""
        by_identity = self._files(role)
        files = list(chain(*by_identity.values()))
        images, readable = read(files, size=self.size, crop=self.crop)
        scores = torch.tensor([derive(self.seed, "folder", "test", file.name) for file in files])[readable]
        sizes = torch.tensor([len(found) for found in by_identity.values()])
        labels = torch.arange(len(by_identity)).repeat_interleave(sizes)[readable]
        self._require(
            role, dict(zip(by_identity, labels.bincount(minlength=len(by_identity)).tolist(), strict=True))
        )
        return ImageSet(images, labels, tuple(by_identity)), scores

    @cached_property
    def _private_parts(self) -> dict[str, ImageSet]:
        every, scores = self._read("private")
        test = hold_out(every.labels, scores, self.test_share)
        rows = {"train": ~test, "test": test}
        return {part: ImageSet(every.images[r], every.labels[r], every.classes) for part, r in rows.items()}

    @cached_property
    def _public_part(self) -> ImageSet:
        return self._read("public")[0]
