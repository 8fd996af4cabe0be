"""FaceScrub: 530 actors and actresses in any of the layouts its download scripts leave, split as PPA splits
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from midre_exp.data.base import Part
from midre_exp.data.cache import abbreviate
from midre_exp.data.readers.file_list import FileList, FileListDataset
from midre_exp.data.readers.layout import (
    canonical,
    first_existing,
    folder_names,
    image_names,
    is_count,
    lines_of,
    require,
    require_count,
    wrong_line,
)
from midre_exp.data.readers.splits import ninety_ten
from midre_exp.errors import ConfigError, DataError
from midre_exp.plan.ranges import Count, Natural

LAYOUT = """\
  <root>/                               (or <root>/facescrub/)
    actors/faces/<name>/<name>_<image id>_<face id>.jpg ...        blanks or underscores in names
    actresses/faces/<name>/<name>_<image id>_<face id>.jpg ...
or, as others pack them, actor_faces/<name>/ and actress_faces/<name>/,
or actors/<name>/ and actresses/<name>/,
or
    <Name>/face/<sha1>.jpg ...          actors and actresses together, distinguished by the lists:
    facescrub_actors.txt, facescrub_actresses.txt
                                        (or actors_users_normal_bbox.txt, actresses_users_normal_bbox.txt)"""
BASES = ("", "facescrub/", "faceScrub/", "FaceScrub/")
#: Labels follow this order.
GROUPS = ("actors", "actresses")
#: Where the faces of a group lie, the official place first: the last one only where nothing tells of another.
_PLACES = {
    "actors": ("actors/faces", "actor_faces", "actors_faces", "actors"),
    "actresses": ("actresses/faces", "actress_faces", "actresses_faces", "actresses"),
}

Images = dict[str, tuple[str, ...]]  # of each identity, relative to the root, by canonical name


@dataclass(kw_only=True, eq=False)
class FaceScrub(FileListDataset):
    """FaceScrub as downloaded: labels are actors, then actresses, each sorted by name with underscores for
    blanks.

    Of all private images in the order of labels and file names, a permutation (numpy seed 42) gives 90 % to
    train: not stratified, and other for every download, since dead links differ.
    """

    identities: Natural | None  # private: the first so many, all others are public; None: all; 0: none
    expected_identities: Count | None  # of a complete download, None for any number

    title = "FaceScrub"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.identities is not None and self.identities < 0:
            raise ConfigError(f"data.*.identities={self.identities} must be null, 0 or more")

    def list_files(self, part: Part) -> FileList:
        """A part. Raises DataError for an unknown layout, and for identities
        missing, named twice or without images.
        """
        identities = list(self._images.items())
        private = len(identities) if self.identities is None else self.identities
        if private > len(identities):
            raise DataError(
                f"FaceScrub has {len(identities)} identities in {self.root}, data.*.identities={private} are "
                "wanted; lower it"
            )
        if part == "public":
            if private == len(identities):
                raise ConfigError(
                    "all identities of FaceScrub are private, so it has no public part; lower "
                    "data.*.identities"
                )
            return self._all_images(identities[private:])
        if not private:
            raise ConfigError(
                f"data.*.identities=0 leaves FaceScrub no {part} part; raise it or use it as data.public only"
            )
        every = self._all_images(identities[:private])
        train, test = ninety_ten(len(every.names))
        return every.rows(train if part == "train" else test)

    def _all_images(self, identities: Sequence[tuple[str, tuple[str, ...]]]) -> FileList:
        """All images of these identities; label = position."""
        rows = [
            (name, label)
            for label, (_, images) in enumerate(identities)
            for name in images
            if self.keeps(name)
        ]
        names, labels = tuple(name for name, _ in rows), tuple(label for _, label in rows)
        return FileList(names, labels, tuple(identity for identity, _ in identities))

    @cached_property
    def _images(self) -> Images:
        """Everybody in the order of labels."""
        found = [self._faces(group) for group in GROUPS]
        if any(found) or (flat := self._flat_folder) is None:
            absent = [f"{group}/faces" for group, folder in zip(GROUPS, found, strict=True) if folder is None]
            require(self.root, absent, title=self.title, layout=LAYOUT)
            groups = [self._group(folder, "") for folder in found if folder is not None]
        else:
            groups = self._by_group(self._group(flat, "face"))
        identities: Images = {}
        for group in groups:
            if both := sorted(identities.keys() & group.keys()):
                raise DataError(
                    f"FaceScrub in {self.root} has {abbreviate(both)} among actors and actresses; remove one "
                    "of the folders"
                )
            identities |= group
        if empty := [name for name, images in identities.items() if not images]:
            left, wanted = len(identities) - len(empty), self.expected_identities
            count = f" and give data.*.expected_identities={left}" if wanted not in (None, left) else ""
            raise DataError(
                f"FaceScrub in {self.root} has no face of {abbreviate(empty)}; complete the download or "
                f"remove the folders{count}"
            )
        require_count(
            len(identities),
            self.expected_identities,
            title=self.title,
            what="identities",
            folder=self.root,
            key="expected_identities",
        )
        return identities

    def _faces(self, group: str) -> Path | None:
        """The folder of the actors or of the actresses."""
        found = first_existing(self.root, [f"{base}{place}" for place in _PLACES[group] for base in BASES])
        if found is not None and found.name == group and (found / "images").is_dir():
            return None  # the whole photographs without the faces cut out of them
        return found

    @cached_property
    def _flat_folder(self) -> Path | None:
        """The folder that holds a folder of each identity, with a folder ``face`` inside."""
        folders = [self.root / base for base in BASES]
        return next((f for f in folders if f.is_dir() and any(f.glob("*/face"))), None)

    def _group(self, folder: Path, inside: str) -> Images:
        """The identities of a folder, sorted by canonical name: code points order blanks before hyphens,
        underscores after.
        """
        prefix = folder.relative_to(self.root).as_posix()
        names: dict[str, str] = {}
        for name in folder_names(folder):
            if not (folder / name / inside).is_dir():
                continue  # the flat layout may lie beside other folders
            if other := names.get(canonical(name)):
                raise DataError(
                    f"{folder} holds {other!r} and {name!r}, one person under two names; merge the two "
                    "folders"
                )
            names[canonical(name)] = name
        return {
            identity: tuple(
                (Path(prefix) / names[identity] / inside / image).as_posix()
                for image in image_names(folder / names[identity] / inside, self.foreign)
            )
            for identity in sorted(names)
        }

    def _by_group(self, identities: Images) -> list[Images]:
        """The flat layout as actors and actresses. Raises DataError for a name in none of the lists or in
        both.
        """
        listed: list[set[str]] = []
        absent: list[str] = []
        for group in GROUPS:
            names = (f"facescrub_{group}.txt", f"{group}_users_normal_bbox.txt")
            path = first_existing(self.root, [f"{base}{name}" for base in BASES for name in names])
            if path is None:
                absent.append(f"{names[0]} or {names[1]}")
            else:
                listed.append(_names_in(path))
        require(self.root, absent, title=self.title, layout=LAYOUT)
        actors, actresses = listed
        if both := sorted(actors & actresses):
            raise DataError(
                f"the FaceScrub lists in {self.root} both name {abbreviate(both)}; download them again"
            )
        if unknown := sorted(identities.keys() - actors - actresses):
            raise DataError(
                f"the FaceScrub lists in {self.root} do not name {abbreviate(unknown)}; rename or remove "
                "these folders"
            )
        return [{name: files for name, files in identities.items() if name in group} for group in listed]


def _names_in(path: Path) -> set[str]:
    """The canonical names in a list of the download: name, image id, face id, url, ... separated by tabs."""
    names = set()
    for number, words in lines_of(path, "\t"):
        if number == 1 and words[0].lower() == "name":
            continue
        if len(words) < 4 or not words[0] or not is_count(words[1]):
            raise wrong_line(path, number, words, "<name> <image id> <face id> <url> ... between tabs")
        names.add(canonical(words[0]))
    if not names:
        raise DataError(f"{path} holds no rows; download it again")
    return names
