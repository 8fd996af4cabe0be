"""``midre-exp data verify NAME [data.private.KEY=VALUE ...]``: whether a data set is the official one and
whole: counts, published checksums, splits, and every picture decoded. A line for each finding.

Words of the form data.private.KEY=VALUE or data.public.KEY=VALUE read it as a run with them would; what they
change is not held against the card.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midre_exp.cards import DatasetCard
from midre_exp.data.base import Part
from midre_exp.data.cache import abbreviate
from midre_exp.data.picture import endings
from midre_exp.data.readers.celeba import CelebA
from midre_exp.data.readers.file_list import FileList, FileListDataset
from midre_exp.data.readers.layout import first_existing
from midre_exp.data.readers.splits import frequent_by_number
from midre_exp.data.readers.tree import read_tree
from midre_exp.downloads import listings
from midre_exp.downloads.download import md5_of
from midre_exp.downloads.pictures import Expected, check_pictures
from midre_exp.downloads.place import Options, Parser, chosen, how_to
from midre_exp.downloads.splits import split_sums
from midre_exp.errors import ConfigError, DataError, UserError
from midre_exp.plan.config import build, config_files

#: Where downloads have the files whose checksums are published.
_PLACES = ("", "Anno/", "Eval/", "Img/", "celeba/", "celeba/Anno/", "celeba/Eval/", "celeba/Img/", "meta/")
#: Parts that a role of a data set may have.
_PARTS: tuple[Part, ...] = ("train", "test", "public")


class Finding(NamedTuple):
    """Something that was looked at."""

    kind: str  # ok | note | damage
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind:<7} {self.what}: {self.text}"


class _Options(Options):
    overrides: list[str]
    quick: bool


def main(arguments: Sequence[str]) -> int:
    """Verify; 0 where nothing is damaged or missing, 1 where something is, 2 after a mistake."""
    parser = Parser("verify", __doc__.partition(":")[2].strip())
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="as a run is given: data.private.lists=DIR"
    )
    parser.add_argument(
        "--quick", action="store_true", help="open no picture: names, counts, lists and splits"
    )
    logging.disable(logging.WARNING)  # what a run warns of is a finding
    try:
        options = parser.parse_intermixed_args(arguments, namespace=_Options())
        card, root = chosen(options)
        keys = _keys(options.overrides)
        if not Path(str(keys.get("root", root))).is_dir():
            raise DataError(f"{keys.get('root', root)} does not exist. {how_to(card, root)}")
        kinds = []
        for finding in verify(card, root, keys, quick=options.quick):
            print(finding, flush=True)
            kinds.append(finding.kind)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        logging.disable(logging.NOTSET)
    damaged = kinds.count("damage")
    told = f"{damaged:,} finding{'s' * (damaged > 1)} of damage" if damaged else "nothing damaged"
    print(f"{card.title} in {keys.get('root', root)}: {told}")
    return int(bool(damaged))


def verify(card: DatasetCard, root: Path, keys: dict[str, Any], *, quick: bool = False) -> Iterator[Finding]:
    """Everything that can be said of a data set. ``keys``: of its reader, laid over conf/data/dataset."""
    root = Path(str(keys.get("root", root))).expanduser().absolute()
    yield from _checksums(card, root)
    expected = Expected(size=tuple(card.pixels) if card.pixels else None)
    for choice in card.used_by:
        yield from _reader(card, choice, root, keys, expected)
    for what, text in listings.complaints(card.folder, root):
        yield Finding("damage", what, text)
    if not quick:
        expected.sums = listings.picture_sums(card.folder, root)
        yield from _pictures(root, expected)


def _keys(overrides: Sequence[str]) -> dict[str, Any]:
    """The keys of a reader in words as a run is given."""
    keys = {}
    for word in overrides:
        name, equals, value = word.partition("=")
        for role in ("private", "public"):
            if equals and name.startswith(f"data.{role}."):
                try:
                    keys[name.removeprefix(f"data.{role}.")] = OmegaConf.create(f"value: {value}").value
                except (OmegaConfBaseException, ValueError) as error:
                    raise ConfigError(f"data verify: {word} cannot be read; quote its value") from error
                break
        else:
            raise ConfigError(f"data verify: {word} is no data.private.KEY=VALUE or data.public.KEY=VALUE")
    return keys


def _checksums(card: DatasetCard, root: Path) -> Iterator[Finding]:
    """Of the files that publishers hand out under a checksum, as far as they are here."""
    for name, md5 in card.md5.items():
        place = first_existing(root, [f"{base}{name}" for base in _PLACES])
        if place is None or not place.is_file():
            continue
        where = place.relative_to(root).as_posix()
        found = md5_of(place)
        if found == md5:
            yield Finding("ok", where, "the publishers' file (MD5)")
        elif place.suffix == ".txt" and listings.plain_md5(place) == md5:
            yield Finding("note", where, "the publishers' rows in another form (line ends, header or commas)")
        else:
            yield Finding("damage", where, f"MD5 {found}, the publishers' is {md5}; fetch it again")


def _reader(
    card: DatasetCard, choice: str, root: Path, keys: dict[str, Any], expected: Expected
) -> Iterator[Finding]:
    """What a run would find, part by part, beside what the card says."""
    dataset = _dataset(choice, root, keys)  # a mistake in its keys is none of the data
    lists: dict[Part, FileList] = {}
    for part in _PARTS:
        if part not in card.images:
            continue
        try:
            lists[part] = dataset.file_list(part)
        except ConfigError:  # a part that this choice does not have
            continue
        except UserError as error:
            yield Finding("damage", f"{choice} {part}", _sentence(error))
            return
        expected.names.update(lists[part].names)
        yield _count(card, choice, part, lists[part], changed=bool(set(keys) - {"root"}))
    yield from _split(card, choice, dataset, lists, keys)


def _dataset(choice: str, root: Path, keys: dict[str, Any]) -> FileListDataset:
    """The reader of conf/data/dataset/CHOICE.yaml, which keeps nothing. Raises UserError."""
    path = config_files("data/dataset").get(choice)
    if path is None:
        raise ConfigError(f"conf/data/dataset has no {choice}, which the card names in used_by")
    node = OmegaConf.load(path)
    for key in set(keys) - set(node):
        raise ConfigError(f"data verify: {choice} has no key {key}; it has {', '.join(map(str, node))}")
    config = OmegaConf.create({"resolution": 64, "paths": {"data": str(root), "store": ""}, "data": node})
    for key, value in {**keys, "root": str(root), "store": None}.items():
        config.data[key] = value
    made: FileListDataset = build(config.data, kind=FileListDataset)
    return made


def _count(card: DatasetCard, choice: str, part: Part, files: FileList, *, changed: bool) -> Finding:
    """How many images a part has, beside the card."""
    wanted, found = card.images[part], len(files.names)
    who = "" if part == "public" else f" of {len(files.classes):,} identities"
    if wanted is None or changed or found == wanted:
        return Finding("ok", f"{choice} {part}", f"{found:,} images{who}")
    text = f"{found:,} images{who}, the official set has {wanted:,}"
    return Finding("damage", f"{choice} {part}", text)


def _split(
    card: DatasetCard,
    choice: str,
    dataset: FileListDataset,
    lists: dict[Part, FileList],
    keys: dict[str, Any],
) -> Iterator[Finding]:
    """Whether the rows are those of the literature, and the identities those of the rule."""
    if not isinstance(dataset, CelebA):
        return
    if absent := dataset.absent():
        text = f"{len(absent):,} of {len(dataset.everybody()):,} are not here: {abbreviate(absent)}"
        yield Finding("damage", f"{choice} images", text)
    sums = split_sums(dataset.used_split, lists)
    if not sums:
        text = "derived by rule, without the published lists: the same identities, other test images"
        yield Finding("note", f"{choice} split", text)
    elif changed := sorted(set(keys) - {"root", "lists"}):
        text = f"not compared with the literature's, since {', '.join(changed)} changed it"
        yield Finding("note", f"{choice} split", text)
        sums = {}
    for part in _PARTS:
        if part not in sums or part not in card.splits:
            continue
        same = sums[part] == card.splits[part]
        text = "image by image the literature's" if same else "not the literature's: images or labels differ"
        yield Finding("ok" if same else "damage", f"{choice} {part} split", text)
    if dataset.used_split == "lists":
        yield from _identities(choice, dataset)


def _identities(choice: str, dataset: CelebA) -> Iterator[Finding]:
    """Whether each label of the lists is one identity, and the right one."""
    shown = dataset.shown_identities()
    what = f"{choice} identities"
    if shown is None:
        yield Finding("note", what, "not checked, identity_CelebA.txt is not here")
        return
    mixed = [str(label) for label, numbers in enumerate(shown) if len(numbers) != 1]
    if mixed:
        yield Finding("damage", what, f"the labels {abbreviate(mixed)} show several people or nobody known")
        return
    wanted = frequent_by_number(dataset.everybody(), len(shown), dataset.least_images)
    wrong = [
        str(label) for label, (one, number) in enumerate(zip(shown, wanted, strict=True)) if one != {number}
    ]
    if wrong:
        yield Finding("damage", what, f"the labels {abbreviate(wrong)} are not the people of the rule")
    else:
        text = f"{len(shown):,}: the lowest numbers with at least {dataset.least_images} images, one a label"
        yield Finding("ok", what, text)


def _pictures(root: Path, expected: Expected) -> Iterator[Finding]:
    """Every picture decoded: those that a run reads, and the others that lie here."""
    every = sorted({image.name for image in read_tree(root, [one[1:] for one in endings()]).top.walk()})
    damaged = 0
    for name, why in check_pictures(root, sorted({*every, *expected.names}), expected):
        damaged += 1
        yield Finding("damage", name, why)
    sound = len({*every, *expected.names}) - damaged
    checked = f", {len(expected.sums):,} checksums compared" if expected.sums else ""
    yield Finding("ok" if sound else "note", "pictures", f"{sound:,} decoded{checked}")


def _sentence(error: UserError) -> str:
    """Without the layout that readers show below it."""
    return " ".join(str(error).partition(" Expected:\n")[0].split())
