"""Files with the same content: within an identity, under several identities, in train and test, among private
and public images. Known by the hashes that fingerprints are made of; pictures that merely look alike are not
looked for.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from midre_exp.data.base import Dataset, Role, SourceFile
from midre_exp.data.readers.unreadable import write_list
from midre_exp.errors import DataError
from midre_exp.store.store import Places

log = logging.getLogger(__name__)


def private_duplicates(dataset: Dataset, store: Places | None) -> list[str]:
    """One sentence on each kind of duplicates among the private images; a complete list goes to disk.
    Raises DataError instead where they are to be refused.
    """
    groups = list(_groups(dataset.source_files("private")))
    tested = [
        (file, copy)
        for group in groups
        for file in group
        if file.part == "test" and (copy := next((f for f in group if f.part == "train"), None))
    ]
    copies = [
        (file, group[0])
        for group in groups
        for number, file in enumerate(group)
        if any(file.identity == other.identity for other in group[:number])
    ]
    shared = [(group[1], group[0]) for group in groups if len({file.identity for file in group}) > 1]
    kinds = {
        "private image(s) have the content of another image of the same identity": copies,
        "private image(s) stand under several identities": shared,
        "test image(s) have the content of a training image": tested,
    }
    lists = {what: [(file.name, copy.name) for file, copy in pairs] for what, pairs in kinds.items()}
    return _sentences(_title(dataset), lists, store, refuse=dataset.duplicates == "refuse")


def public_duplicates(private: Dataset, public: Dataset, store: Places | None) -> list[str]:
    """One sentence when private images are among the public ones; a complete list goes to disk.
    Raises DataError instead where they are to be refused.
    """
    what = f"private image(s) are also public images of {_title(public)}"
    return _shared(private, public, "public", what, store)


def pretraining_duplicates(private: Dataset, pool: Dataset, store: Places | None) -> list[str]:
    """The same of private images among those that a network was pre-trained on."""
    what = f"private image(s) are also among the public images of {_title(pool)} to pre-train on"
    return _shared(private, pool, "private", what, store)


def other_duplicates(seen: Sequence[Dataset], others: Dataset, store: Places | None) -> list[str]:
    """The same of images, private and ``public`` ones, that are also among those of a defense's other
    people.
    """
    private, public = seen
    title = _title(others)
    found = _shared(private, others, "private", f"private image(s) are also other people's of {title}", store)
    what = f"image(s) of other people for the defense are also public images of {_title(public)}"
    return found + _shared(others, public, "public", what, store)


def _shared(private: Dataset, other: Dataset, role: Role, what: str, store: Places | None) -> list[str]:
    by_content = {content: name for name, content in other.file_contents(role).items() if content}
    pairs = [
        (name, by_content[content])
        for name, content in private.file_contents("private").items()
        if content in by_content
    ]
    refuse = "refuse" in (private.duplicates, other.duplicates)
    return _sentences(_title(private), {what: pairs}, store, refuse=refuse)


def _groups(files: Sequence[SourceFile]) -> Iterator[list[SourceFile]]:
    """Files of one content, where there are several, in the order of the files."""
    by_content: defaultdict[str, list[SourceFile]] = defaultdict(list)
    for file in files:
        if file.sha256:
            by_content[file.sha256].append(file)
    return (group for group in by_content.values() if len(group) > 1)


def _title(dataset: Dataset) -> str:
    return str(getattr(dataset, "title", type(dataset).__name__))


def _sentences(
    title: str, lists: Mapping[str, Sequence[tuple[str, str]]], store: Places | None, *, refuse: bool
) -> list[str]:
    found = {what: pairs for what, pairs in lists.items() if pairs}
    if not found:
        return []
    lines: Iterable[str] = (
        line
        for what, pairs in found.items()
        for line in (f"# {len(pairs)} {what}", *(f"{name}\t{copy}" for name, copy in pairs))
    )
    kind = "public" if any("public" in what for what in found) else "private"
    place = write_list(f"duplicates {title} {kind}", lines, store)
    if refuse:
        said = " and ".join(f"{len(pairs)} {what}" for what, pairs in found.items())
        raise DataError(
            f"{title}: {said}, all listed in {place}; remove the copies, or go on with them by "
            "data.*.duplicates=tell"
        )
    log.warning("%s: files with the content of another one are listed in %s", title, place)
    return [f"{title}: {len(pairs)} {what}" for what, pairs in found.items()]  # a record names no places
