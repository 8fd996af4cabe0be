"""Lists of people's names stay text. On the command line they are quoted before anybody reads them; in yaml,
whatever was read as a number, a truth value or nothing is refused, since its text is lost (010 becomes 8) and
another person could answer to what is left.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError

#: The keys whose value may be a list of names.
_NAMES = re.compile(r"\+*data\.(private_identities|private\.private)=")
#: Text that YAML might not leave as it is.
_SUSPECT = re.compile(r"[-+.\d][-+.\w:]*|~|null|true|false|yes|no|on|off|y|n", re.IGNORECASE)


def as_text(given: object, known: Iterable[str], key: str) -> list[str]:
    """The names of a list, in Unicode NFC. Raises ConfigError for entries that are no text any more, with the
    quoted form of the ``known`` names that YAML reads as them.
    """
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        example = quoted(["007", "010"])
        raise ConfigError(f"{key}={given} is no list; give one such as '{key}={example}', or a file of names")
    if any(isinstance(value, (list, tuple, dict)) for value in given):
        raise ConfigError(f"{key}={given} holds lists; give one list of names such as [anna,bob]")
    if spoilt := [value for value in given if not isinstance(value, str)]:
        written = _written(known, spoilt)
        # two that read alike are not chosen between: pasted as it stands, such a name is refused
        names = [value if isinstance(value, str) else " or ".join(written[_exact(value)]) for value in given]
        told = "; ".join(
            f"{_spelt(value)} may stand for {' or '.join(texts)}"
            for value, texts in written.items()
            if texts != [_spelt(value)]
        )
        raise ConfigError(
            f"{key} holds {', '.join(_spelt(_exact(value)) for value in spoilt[:5])}, which YAML has read as "
            f"numbers, truth values or nothing{f' ({told})' if told else ''}; quote the names: "
            f"'{key}={quoted(names)}', or put them into a text file, one a line"
        )
    return [unicodedata.normalize("NFC", name) for name in given]


def quoted(names: Sequence[str]) -> str:
    """A list of names that YAML and Hydra read as text."""
    return "[" + ",".join('"' + name.replace('"', '\\"') + '"' for name in names) + "]"


def names_as_text(arguments: Sequence[str]) -> list[str]:
    """A command line with quotes around every entry of a list of names that would not stay text."""
    return [_quote_bare(text) if _NAMES.match(text) else text for text in arguments]


def _quote_bare(override: str) -> str:
    key, _, value = override.partition("=")
    if "[" not in value:
        return override
    pieces = re.split(r"""("(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[\[\],])""", value)
    quotes = [f'"{piece.strip()}"' if _SUSPECT.fullmatch(piece.strip()) else piece for piece in pieces]
    return f"{key}={''.join(quotes)}"


def yaml_reads(text: str) -> object:
    """What YAML makes of a plain word; the word itself where YAML cannot read it."""
    if not _SUSPECT.fullmatch(text):
        return text
    try:
        return OmegaConf.create(f"- {text}")[0]
    except (OmegaConfBaseException, ValueError, KeyError):
        return text


def _written(known: Iterable[str], spoilt: Iterable[object]) -> dict[tuple[type, str], list[str]]:
    """For each value the known names that YAML reads as it, or how it would be written."""
    found: dict[tuple[type, str], list[str]] = {_exact(value): [] for value in spoilt}
    for name in known:
        value = yaml_reads(name)
        if not isinstance(value, str) and _exact(value) in found:
            found[_exact(value)].append(name)
    return {value: sorted(names) or [_spelt(value)] for value, names in found.items()}


def _exact(value: object) -> tuple[type, str]:
    """Tells 1, 1.0 and True apart."""
    return type(value), repr(value)


def _spelt(value: tuple[type, str]) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(value[1], value[1])
