"""Works as text: BibTeX entries, the bibliography of a config, and the short form of footnotes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from midre_exp import __version__
from midre_exp.references.cited import Citation
from midre_exp.references.works import Work, references

_FIELDS = (
    "journal",
    "booktitle",
    "publisher",
    "institution",
    "volume",
    "number",
    "pages",
    "year",
    "doi",
    "eprint",
)
_AS_IT_IS = ("doi", "eprint")
_ESCAPED = str.maketrans({character: f"\\{character}" for character in "&%$#_"})
#: Groups whose works stand below tables, which show these and not what all their rows share.
_IN_FOOTNOTES = ("attack=", "defense=")


def bibtex(work: Work) -> str:
    """The entry. Titles keep their capitals; letters beyond ASCII are written as they are, in UTF-8."""
    fields = {"author": _tex(work.author), "title": f"{{{_tex(work.title)}}}"}
    for name in _FIELDS:
        value = getattr(work, name)
        if value is not None:
            fields[name] = str(value) if name in _AS_IT_IS else _tex(str(value))
    if work.eprint is not None:
        fields["archiveprefix"] = "arXiv"
    if work.address is not None:
        fields["url"] = work.address
    note = f"Version {__version__}" if work.key == "midre_exp" else work.note
    if note is not None:
        fields["note"] = _tex(note)
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items()]
    return "\n".join([f"@{work.type}{{{work.key},", *lines, "}"])


def by_choice() -> dict[str, list[str]]:
    """The entries that each choice rests on, by its words on a command line: ``attack/prior=gmi``."""
    found = references()
    return {
        f"{group.replace('.', '/')}={choice}": [bibtex(found.works[key]) for key in keys]
        for group, choices in found.choices.items()
        for choice, keys in choices.items()
        if not isinstance(keys, str)
    }


def short(work: Work) -> str:
    """Authors, venue and year, e.g. "Zhang et al., CVPR 2020"."""
    families = [name.partition(",")[0].strip("{} ") for name in work.author.split(" and ")]
    if len(families) > 2 or families[-1] == "others":
        authors = f"{families[0]} et al."
    else:
        authors = " and ".join(families)
    return f"{authors}, {work.venue} {work.year}"


def bibliography(cited: Iterable[Citation]) -> str:
    """The entries of all works that are cited, each once below a comment that says for what; what has none
    stands in comments at the end.
    """
    cited = list(cited)
    parts: dict[str, list[str]] = {}
    works: dict[str, Work] = {}
    for citation in cited:
        for work in citation.works:
            works[work.key] = work
            parts.setdefault(work.key, []).append(citation.part)
    entries = [f"% {', '.join(dict.fromkeys(parts[key]))}\n{bibtex(work)}" for key, work in works.items()]
    without = {
        citation.part: citation.reason or "no reference is known; docs/citing.md says how to add one"
        for citation in cited
        if not citation.works
    }
    return "\n\n".join([*entries, *(f"% {part}: {reason}" for part, reason in without.items())]) + "\n"


def footnote(cited: Iterable[Citation], command: str) -> str | None:
    """A sentence with the works behind the attacks and defenses among ``cited`` in short form; None where
    there are none. ``command`` prints their BibTeX.
    """
    works: Sequence[Work] = [
        work for citation in cited if citation.part.startswith(_IN_FOOTNOTES) for work in citation.works
    ]
    told = "; ".join(dict.fromkeys(f"{work.names}: {short(work)}" for work in works))
    return f"References: {told}. BibTeX: {command}." if told else None


def _tex(text: str) -> str:
    return text.translate(_ESCAPED)
