"""The templates of HTML pages: everything that is put into one is escaped."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import jinja2

#: Characters in a field from which its column is text to be broken into lines.
_PROSE_FROM = 48
_NUMBER = re.compile(r"OP|[-+−]?\d+(\.\d+)?( ?%)?")


@dataclass(frozen=True)
class Column:
    """A column of a table; ``kind``, the HTML class of its fields: ``numbers``; ``words``, left-aligned;
    ``prose``, broken into lines.
    """

    heading: str
    kind: str

    @classmethod
    def of(cls, heading: str, values: Any) -> Column:
        """By what its fields look like."""
        texts = [str(value) for value in values]
        if all(not text or _NUMBER.fullmatch(text) for text in texts):
            return cls(heading, "numbers")
        return cls(heading, "prose" if max(map(len, texts)) > _PROSE_FROM else "words")


def templates_of(package: str) -> jinja2.Environment:
    """The templates beside the code of a package; a name that one uses and nobody gives is an error."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package, "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
