"""`midre-exp data inspect PATH`: what data=folder would take a folder for, what its pictures are, which
official download it may be, and the command that uses it.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from omegaconf import OmegaConf
from PIL import Image

from midre_exp.data.base import Dataset, Role
from midre_exp.data.picture import UNREADABLE, open_rgb, reason
from midre_exp.data.readers.folder import FaceFolder
from midre_exp.data.readers.identities import SPLIT_RULES, Identities
from midre_exp.data.readers.inspection import Report, text
from midre_exp.data.readers.remarks import remarks
from midre_exp.data.readers.tree import ImageFile, natural, read_tree
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan import vary
from midre_exp.plan.config import CONF_DIR, build
from midre_exp.store.contents import content_hashes
from midre_exp.store.progress import Progress

PROG = "midre-exp data inspect"
_BAR_FROM = 2000  # images; fewer take a few seconds
_LEAST = (1, 2, 5, 10, 20, 30)  # for which it is said how many identities have so many images


class Official(NamedTuple):
    """An official download: who reads it, and what lies in it or one folder down (any of these patterns)."""

    dataset: str  # conf/data/dataset/NAME.yaml
    data: str  # data=NAME
    role: Role
    markers: tuple[str, ...]


OFFICIAL = (
    Official("celeba", "celeba_celeba", "private", ("img_align_celeba*", "identity_CelebA.txt")),
    Official("facescrub", "facescrub_ffhq", "private", ("act*/faces", "facescrub_act*.txt")),
    Official("vggface2", "vggface2_ffhq", "private", ("train/n[0-9][0-9][0-9][0-9][0-9][0-9]",)),
    Official("stanford_dogs", "dogs_afhq", "private", ("train_list.mat", "lists/train_list.mat")),
    Official("ffhq", "celeba_ffhq", "public", ("thumbnails128x128", "00000/00000.png", "00000.png")),
    Official("ffhq_1024", "facescrub_ffhq", "public", ("images1024x1024",)),
    Official("lfw", "lfw", "private", ("lfw_home", "lfw-py", "lfw*/lfw*", "*/[A-Z]*_[A-Z]*_0001.jpg")),
    Official("afhq_dogs", "dogs_afhq", "public", ("train/dog",)),
)  # fmt: skip


class _Options(Namespace):
    path: Path
    json: bool
    decode: bool
    split: str
    identity_level: int | None
    labels: Path | None
    min_images: int | None


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"data inspect: {message}; see {PROG} --help")


def main(arguments: Sequence[str]) -> int:
    """Inspect and print; 2 where nothing can use the folder as it is, which is told in one sentence."""
    logging.disable(logging.WARNING)  # what a run warns of is in the report
    try:
        options = _options(arguments)
        report = inspect(
            options.path,
            split=options.split,
            level=options.identity_level,
            labels=options.labels,
            min_images=options.min_images,
            decode_all=options.decode,
        )
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        logging.disable(logging.NOTSET)
    print(json.dumps(report, indent=2, ensure_ascii=False) if options.json else text(report))
    return 0 if report["problem"] is None or report["official"] else 2


def _options(arguments: Sequence[str]) -> _Options:
    parser = _Parser(prog=PROG, description="What a folder of images holds, and how to use it.")
    parser.add_argument("path", type=Path, help="the folder")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--decode", action="store_true", help="try every image; else headers alone are read")
    parser.add_argument("--split", default="auto", help=f"as data.split: {', '.join(SPLIT_RULES)}")
    parser.add_argument("--identity-level", type=int, help="as data.identity_level")
    parser.add_argument("--labels", type=Path, help="as data.labels: a csv of paths and identities")
    parser.add_argument("--min-images", type=int, help="as data.min_images")
    return parser.parse_args(arguments, namespace=_Options())


def inspect(
    path: Path,
    *,
    split: str = "auto",
    level: int | None = None,
    labels: Path | None = None,
    min_images: int | None = None,
    decode_all: bool = False,
) -> Report:
    """Everything that can be said of a folder, as plain values. Raises UserError where it cannot be read."""
    root = path.expanduser().absolute()
    folder = _folder(root, split=split, level=level, labels=labels, min_images=min_images)
    report: Report = {"path": str(root), "problem": None, "official": _official(root)}
    try:
        every = folder.everybody
    except UserError as error:
        report["problem"] = str(error)
        tree = read_tree(root, folder.endings)
        images = tuple(tree.top.walk())
        report["images"] = len(images)
        report["remarks"] = []
    else:
        tree = every.tree
        images = tuple(file for name in every.files for file in every.of(name))
        kept = every.with_at_least(min_images or 1)
        report |= _people(every) | {"images": len(images), "remarks": remarks(every, kept, min_images)}
        report |= _usage(folder, every, min_images)
        report["duplicates"] = _duplicates(every)
    report["foreign_endings"] = dict(tree.foreign.most_common())
    report["passed_over"] = dict(tree.litter)
    report["pictures"] = _pictures(images, decode_all)
    return report


def _folder(
    root: Path, *, split: str, level: int | None, labels: Path | None, min_images: int | None
) -> FaceFolder:
    """The folder as conf/data/folder.yaml reads it."""
    node = OmegaConf.load(CONF_DIR / "data" / "folder.yaml")
    given = {"root": str(root), "split": split, "identity_level": level, "min_images": min_images}
    given["labels"] = None if labels is None else str(labels)
    vary.register()
    config = OmegaConf.create({"resolution": 64, "seed": 0, "data": node})
    for key, value in given.items():
        config.data[key] = value
    config.data.private.store = None  # an inspection leaves nothing behind
    found: FaceFolder = build(config.data.private, kind=FaceFolder)
    return found


def _people(every: Identities) -> Report:
    """Who is there, with how many images."""
    counts = {name: every.count(name) for name in every.files}
    ranked = sorted(counts, key=lambda name: (counts[name], natural(name)))
    by_split = {
        part: {
            "identities": sum(part in files for files in every.files.values()),
            "images": sum(len(files.get(part, ())) for files in every.files.values()),
        }
        for part in every.splits
    }
    alphabetical = sorted(every.files, key=lambda name: every.on_disk[name])
    return {
        "root": str(every.root),
        "layout": every.where if every.where.startswith("named by") else f"{every.where}/<image>",
        "splits": by_split,
        "identities": len(counts),
        "names": list(every.files),
        "empty": list(every.empty),
        "images_each": {
            "least": counts[ranked[0]],
            "median": statistics.median(counts.values()),
            "most": counts[ranked[-1]],
            "smallest": {name: counts[name] for name in ranked[:3]},
            "largest": {name: counts[name] for name in ranked[:-4:-1]},
            "identities_with_at_least": {
                least: sum(count >= least for count in counts.values()) for least in _LEAST
            },
        },
        "orders": {"alphabetical": alphabetical, "natural": sorted(every.files, key=natural)},
    }


def _usage(folder: FaceFolder, every: Identities, min_images: int | None) -> Report:
    """The keys that use the folder, or what stands in the way."""
    if min_images is None and not every.splits and any(every.count(name) < 2 for name in every.files):
        folder = replace(folder, min_images=2)
    elif min_images is None and every.empty:
        folder = replace(folder, min_images=1)
    keys = ["data=folder", f"data.root={_value(str(folder.root))}"]
    for key in ("split", "identity_level", "labels", "min_images"):
        value = getattr(folder, key)
        if value not in (None, "auto"):
            keys.append(f"data.{key}={_value(str(value))}")
    try:
        private = folder.num_identities()
        counts: dict[Role, int] = {"private": folder.count_images("private")}
        counts["public"] = folder.count_images("public")
    except UserError as error:
        return {"problem": str(error)}
    keys.append(f"attack.identities={min(private, 20)}")
    others = len(folder.public_names())
    return {
        "private": private,
        "public": others,
        "counts": counts,
        "command": f"midre-exp run {shlex.join(keys)}",
    }


def _value(text: str) -> str:
    """A value as Hydra reads it: quoted unless it is plain."""
    if text and all(c.isascii() and (c.isalnum() or c in "/._-") for c in text):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def _official(root: Path) -> list[dict[str, str | None]]:
    """The official downloads that the folder may be: with what their readers still miss."""
    found: list[dict[str, str | None]] = []
    for known in OFFICIAL:
        if not any(next(root.glob(f"{up}{marker}"), None) for marker in known.markers for up in ("", "*/")):
            continue
        node = OmegaConf.load(CONF_DIR / "data" / "dataset" / f"{known.dataset}.yaml")
        config = OmegaConf.create({"resolution": 64, "paths": {"data": str(root)}, "data": node})
        config.data.root = str(root)
        config.data.store = None  # an inspection leaves nothing behind
        missing = None
        try:
            reader: Dataset = build(config.data, kind=Dataset)
            reader.count_images(known.role)
        except UserError as error:
            missing = str(error).partition(" Expected:\n")[0]
        command = f"data={known.data} data.{known.role}.root={_value(str(root))}"
        found.append({"name": known.dataset, "settings": command, "missing": missing})
    return found


def _pictures(images: Sequence[ImageFile], decode_all: bool) -> Report:
    """Sizes, colours and formats by the headers; with ``decode_all`` every image is decoded."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        read = pool.map(partial(_header, decode_all=decode_all), images)
        headers = []
        with Progress("reading images", len(images), bar=len(images) > _BAR_FROM) as bar:
            for header in read:
                headers.append(header)
                bar.update()
    good = [header for header in headers if isinstance(header, Header)]
    bad = {image.name: why for image, why in zip(images, headers, strict=True) if isinstance(why, str)}
    sides = {}
    for side in ("width", "height"):
        values = [getattr(header, side) for header in good] or [0]
        sides[side] = {"least": min(values), "median": statistics.median_low(values), "most": max(values)}
    sizes = Counter(f"{header.width}x{header.height}" for header in good)
    return {
        "sizes": dict(sizes.most_common(5)),
        "different_sizes": len(sizes),
        **sides,
        "modes": dict(Counter(header.mode for header in good).most_common()),
        "formats": dict(Counter(header.format for header in good).most_common()),
        "decoded": decode_all,
        "unreadable": bad,
    }


class Header(NamedTuple):
    """What the first bytes of an image tell."""

    width: int
    height: int
    mode: str
    format: str


def _header(image: ImageFile, decode_all: bool) -> Header | str:
    """Of one image, or why it cannot be read."""
    if image.size < 0:
        return "no regular file"
    try:
        with Image.open(image.path) as file:
            header = Header(file.width, file.height, file.mode, file.format or "")
        if decode_all:
            open_rgb(image.path)
    except UNREADABLE as error:
        return reason(error, image.path)
    return header


def _duplicates(every: Identities) -> Report:
    """Images of equal content: within an identity, of several identities, in several parts of a split."""
    place = {
        file.path: (name, part)
        for name, files in every.files.items()
        for part, some in files.items()
        for file in some
    }
    names = {file.path: file.name for name in every.files for file in every.of(name)}
    groups = same_content(every.tree.top.path, [file for name in every.files for file in every.of(name)])
    kinds: Report = {"within_an_identity": [], "across_identities": [], "across_a_split": []}
    for group in groups:
        people, parts = {place[path][0] for path in group}, {place[path][1] for path in group}
        kind = "across_identities" if len(people) > 1 else "within_an_identity"
        kinds["across_a_split" if len(parts) > 1 else kind].append([names[path] for path in group])
    return kinds


def same_content(root: Path, files: Sequence[ImageFile]) -> list[list[Path]]:
    """Groups of files below ``root`` with equal content; only files of equal size are opened."""
    by_size: dict[int, list[Path]] = defaultdict(list)
    for file in files:
        by_size[file.size].append(file.path)
    alike = [path for size, some in by_size.items() if len(some) > 1 and size > 0 for path in some]
    by_content: dict[str, list[Path]] = defaultdict(list)
    below = len(str(root)) + 1
    contents = content_hashes(root, [str(path)[below:] for path in alike], None, title="images")
    for path, content in zip(alike, contents, strict=True):
        if content is not None:
            by_content[content].append(path)
    return [group for group in by_content.values() if len(group) > 1]
