"""The works that are cited, and which choice of a config rests on which of them: ``references.yaml`` beside
this file, and a file of that name in a config folder of the user's own (``--config-dir``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from midre_exp.errors import ConfigError
from midre_exp.plan.arguments import Keys, fault
from midre_exp.plan.config import own_configs, read_yaml
from midre_exp.plan.ranges import Count, Text

FILE = "references.yaml"
_PACKAGED = Path(__file__).with_name(FILE)
_PARTS = ("works", "choices")


@dataclass(frozen=True, kw_only=True)
class Work(Keys):
    """A publication, with the fields of its BibTeX entry."""

    key: str
    names: Text  # of what it describes, as tables have them
    type: Literal["article", "inproceedings", "incollection", "techreport", "misc"]
    author: Text  # Family, Given and Family, Given
    title: Text
    venue: Text  # short, for footnotes
    year: Count
    journal: Text | None = None
    booktitle: Text | None = None
    publisher: Text | None = None
    institution: Text | None = None
    volume: Count | None = None
    number: Count | Text | None = None
    pages: Text | None = None
    doi: Text | None = None
    eprint: Text | None = None  # the number on arXiv
    url: Text | None = None
    note: Text | None = None

    @property
    def address(self) -> str | None:
        """Where it is to be read; None where that is not known."""
        paper = None if self.eprint is None else f"https://arxiv.org/abs/{self.eprint}"
        return self.url or paper or (None if self.doi is None else f"https://doi.org/{self.doi}")


@dataclass(frozen=True)
class References:
    """All works by key, and by group and choice the keys of those it rests on or why there are none."""

    works: Mapping[str, Work]
    choices: Mapping[str, Mapping[str, tuple[str, ...] | str]]


def references() -> References:
    """The packaged works and those of the user's own config folder, which may name further works and choices
    and replace none. Raises ConfigError naming the file and key of what is not as it must be.
    """
    own = own_configs()
    file = None if own is None or not (own / FILE).is_file() else own / FILE
    return _references(file, None if file is None else file.stat().st_mtime_ns)


@cache  # a report asks for each of its runs; ``changed``: when the file last was
def _references(own: Path | None, changed: int | None) -> References:
    packaged = _read(_PACKAGED)
    works = _works(_PACKAGED, packaged)
    choices = _choices(_PACKAGED, packaged, works)
    if own is not None:
        found = _read(own)
        works = {**_works(own, found), **works}
        mine = _choices(own, found, works)
        choices = {
            group: {**mine.get(group, {}), **choices.get(group, {})}
            for group in dict.fromkeys([*choices, *mine])
        }
    return References(works, choices)


def _read(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    parts = content if isinstance(content, dict) else {}
    known = parts and set(parts) <= set(_PARTS)
    if not known or not all(isinstance(part, dict) for part in parts.values()):
        raise ConfigError(f"{path} has the keys works and choices alone, mappings both; see docs/citing.md")
    return {str(name): part for name, part in parts.items()}


def _works(path: Path, content: Mapping[str, Any]) -> dict[str, Work]:
    works = {}
    for key, values in content.get("works", {}).items():
        fields = {"key": str(key), **values} if isinstance(values, dict) else values
        found = fault(fields, Work, f"works.{key}")
        if found is not None:
            raise ConfigError(f"{path}: {str(found).replace('; give it as ++', '; write it as ')}")
        works[str(key)] = Work(**fields)
    return works


def _choices(
    path: Path, content: Mapping[str, Any], works: Mapping[str, Work]
) -> dict[str, dict[str, tuple[str, ...] | str]]:
    found: dict[str, dict[str, tuple[str, ...] | str]] = {}
    for group, choices in content.get("choices", {}).items():
        for choice, cited in (choices if isinstance(choices, dict) else {str(choices): None}).items():
            place = f"choices.{group}.{choice}"
            keys = tuple(cited) if isinstance(cited, list) else cited
            if not keys or not isinstance(keys, (tuple, str)):
                raise ConfigError(
                    f"{path}: {place} is a list of keys of works, or a sentence why there is none"
                )
            if isinstance(keys, tuple) and (unknown := [key for key in keys if key not in works]):
                raise ConfigError(
                    f"{path}: {place} cites {unknown[0]}, which is no key of works; add it there"
                )
            found.setdefault(str(group), {})[str(choice)] = keys
    return found
