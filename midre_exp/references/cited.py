"""What a config rests on: for each of its parts the works to be cited."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import Settings, config_files
from midre_exp.plan.suite import is_suite, members_of
from midre_exp.references.works import Work, references

#: Where the choices of a group lie, of those that a user may derive a choice of his own from.
_FOLDERS = {
    **{group: group for group in ("attack", "defense", "target")},
    **{f"attack.{group}": f"attack/{group}" for group in ("prior", "expectation")},
}
#: The setups of the paper that this project reproduces.
_PAPER = re.compile(r"S\d\d[ab]?")
#: What diagnostics hold besides measures, each cited where it is asked for.
_ASKED = ("lira", "alignment", "trap", "extraction")


@dataclass(frozen=True)
class Citation:
    """A part of a config, as a user would choose it, and what it rests on."""

    part: str  # attack=gmi
    works: tuple[Work, ...]
    reason: str | None = None  # why there are none; None too where nothing is known of the part


class _Part(NamedTuple):
    group: str  # of ``choices`` in references.yaml
    name: str
    target: str = ""  # its class


def citations(config: Settings) -> list[Citation]:
    """The parts of a resolved config, of today or of a record, each once: this project and the paper, attack,
    defense, networks, data, measures. Of a suite of attacks also the parts of its members.
    """
    found = references()
    own = [Citation("midre-exp", (found.works["midre_exp"],))]
    if _PAPER.fullmatch(str((config.get("setup") or {}).get("id"))):
        own.append(Citation("setups of the paper", (found.works["tran2025midre"],)))
    members = list(members_of(config).values()) if is_suite(config) else []
    parts = dict.fromkeys(part for one in (config, *members) for part in _parts(one))
    cited = [_citation(part) for part in parts]
    return list({citation.part: citation for citation in [*own, *cited]}.values())


def cited_by(jobs: Iterable[Sequence[str]]) -> list[Citation]:
    """What the runs of these overrides rest on, each part once."""
    with packaged_configs():
        composer = packaged_composer()
        words = [[word for word in job if not word.startswith("hydra")] for job in jobs]
        return list(dict.fromkeys(cited for job in words for cited in citations(composer.settings(job))))


def _citation(part: _Part) -> Citation:
    found = references()
    known = found.choices.get(part.group, {})
    cited = known.get(part.name) or known.get(_of_class(part.group, part.target) or "")
    text = f"{part.group}={part.name}"
    if isinstance(cited, tuple):
        return Citation(text, tuple(found.works[key] for key in cited))
    return Citation(text, (), cited)


def _parts(config: Settings) -> Iterator[_Part]:
    attack = config.get("attack") or {}
    yield _Part("attack", str(attack.get("name")), str(attack.get("_target_", "")))
    if prior := attack.get("prior"):
        yield _Part("attack.prior", str(prior.get("name")), str(prior.get("_target_", "")))
    if expectation := attack.get("expectation"):
        views = [str(view.get("_target_")) for view in expectation.get("views") or ()]
        for name in [_of_class("attack.expectation", view) or view for view in views] or ["copies"]:
            yield _Part("attack.expectation", name)
    for name, node in (config.get("defense") or {}).items():
        yield _Part("defense", str(name), str(node.get("_target_", "")))
    networks = [config.get("target") or {}, config.get("evaluator") or {}]
    for network in networks:
        yield _Part("target", str(network.get("name")), str((network.get("model") or {}).get("_target_", "")))
    for judge in config.get("jury") or ():
        yield _Part("target", str(judge))
    for role in ("private", "public"):
        if isinstance(node := (config.get("data") or {}).get(role), Mapping):
            yield _Part("data", _class(node))
    yield from _measures("metrics.measure", config.get("metrics"))
    diagnostics = config.get("diagnostics")
    yield from _measures("diagnostics.measure", diagnostics)
    for name in _ASKED:
        if diagnostics and diagnostics.get(name):
            yield _Part("diagnostics", name)
    if judge := config.get("open_set"):
        yield _Part("open_set", str(judge.get("name")))


def _measures(group: str, node: Any) -> Iterator[_Part]:
    for measure in ((node or {}).get("measure") or {}).values():
        if measure:
            yield _Part(group, _class(measure))


def _class(node: Mapping[str, Any]) -> str:
    return str(node.get("_target_", "")).rpartition(".")[2]


@cache
def _of_class(group: str, target: str) -> str | None:
    """The packaged choice of the same class as one of the user's own; None where there is none."""
    pattern = re.compile(rf"^[\s-]*_target_:\s*{re.escape(target)}\s*(#.*)?$", re.MULTILINE)
    for name, path in config_files(_FOLDERS[group]).items() if target and group in _FOLDERS else ():
        if name in references().choices[group] and pattern.search(Path(path).read_text(encoding="utf-8")):
            return name
    return None
