"""Claims as data: each is a yaml in midre_exp/report/conf/claim, or in ``claim`` of the user's own config
folder under another name. Its file is its name; what it has are the fields of ``ClaimKeys``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from midre_exp.errors import ConfigError
from midre_exp.plan.arguments import Keys, fault
from midre_exp.plan.config import config_files, digest, plain, without
from midre_exp.plan.ranges import NotEmpty, Text
from midre_exp.report.claims.contrasts import CONTRASTS, NOT_BY_IDENTITY, Contrast, Groups, Where
from midre_exp.report.claims.effects import Effect
from midre_exp.report.definitions import definitions
from midre_exp.report.runs.defense_names import class_name

#: Fields of contrasts that name a defense.
_DEFENSES = ("defense", "base", "first", "second")
#: Fields that name an attack.
_ATTACKS = ("attack", "against")
_RANGE = re.compile(r"\[\d*\.?\d+, \d*\.?\d+\]|\d*\.?\d+")


@dataclass
class ClaimKeys(Keys):
    """What the yaml of a claim has."""

    statement: Text
    source: Text  # section of a paper, or why it is asked
    contrast: Mapping[str, Any]  # kind: one of ``CONTRASTS``; its options; where: which groups (``Where``)
    direction: Literal["below", "above"]  # on which side of the margin the effect is claimed to be
    unit: Text
    needs: Text  # which runs
    margin: float = 0.0
    cases: Literal["mean", "every"] = "mean"  # what has to show it: the mean of the cases, or each of them
    #: Where it is registered: decided there, and only there, by interval and corrected p-value. null: decided
    #: everywhere, by its interval alone.
    scales: Annotated[Sequence[str], NotEmpty()] | None = None


@dataclass(frozen=True)
class Claim:
    """A statement with what would show it."""

    name: str
    statement: str
    source: str
    contrast: Contrast
    claimed: Literal["below", "above"]
    unit: str
    needs: str
    threshold: float = 0.0
    every: bool = False  # each effect must show it; otherwise their mean does
    scales: tuple[str, ...] | None = None
    where: Where = field(default_factory=Where)
    path: Path = Path()
    meaning: str = ""  # digest of its yaml's content: comments and order do not count

    def effects(self, groups: Groups) -> list[Effect]:
        """What the groups say of it, case by case."""
        return list(self.contrast.effects([group for group in groups if self.where.holds(group)]))


def load_claims(scale: str) -> list[Claim]:
    """The claims that are decided at a scale, those registered for it first. Raises ConfigError naming the
    file and key of one that cannot be used.
    """
    known = known_defenses()
    claims = [load_claim(name, path, known) for name, path in definitions("claim").items()]
    registered = [claim for claim in claims if claim.scales is not None and scale in claim.scales]
    return registered + [claim for claim in claims if claim.scales is None]


def load_claim(name: str, path: Path, defenses: frozenset[str]) -> Claim:
    """The claim of a file. Raises ConfigError naming it and the key that is wrong; ``defenses``: those that
    there are.
    """
    try:
        node = plain(OmegaConf.load(path))
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is no yaml of a claim: {' '.join(str(error).split())}") from error
    _check(node, ClaimKeys, "", path)
    contrast = node["contrast"]
    kind = CONTRASTS.get(str(contrast.get("kind")))
    if kind is None:
        raise ConfigError(
            f"{path}: contrast.kind is one of {', '.join(CONTRASTS)}, not {contrast.get('kind')}"
        )
    options, where = without(contrast, "kind", "where"), contrast.get("where", {})
    _check(options, kind, "contrast", path)
    _check(where, Where, "contrast.where", path)
    for key in _DEFENSES:
        if key in options:
            _check_defense(str(options[key]), f"contrast.{key}", path, defenses)
    for defense in options.get("defenses", ()):
        _check_defense(str(defense), "contrast.defenses", path, defenses)
    attacks = config_files("attack")
    named = [*options.get("attacks", ()), *(options[key] for key in _ATTACKS if key in options)]
    if strange := [attack for attack in named if attack not in attacks]:
        raise ConfigError(f"{path}: contrast names no attack: {strange[0]}; there are {', '.join(attacks)}")
    scales = node.get("scales")
    if unknown := [scale for scale in scales or () if scale not in config_files("scale")]:
        raise ConfigError(f"{path}: scales has {unknown[0]}; there are {', '.join(config_files('scale'))}")
    key = "metric" if options.get("metric") in NOT_BY_IDENTITY else "kind"
    if scales is not None and (key == "metric" or not kind.has_p):
        raise ConfigError(
            f"{path}: contrast.{key}: {contrast[key]} has no p-value, so it cannot be registered; leave "
            "out scales or use another"
        )
    return Claim(
        name=name,
        statement=node["statement"],
        source=node["source"],
        contrast=kind(**options),
        claimed=node["direction"],
        unit=node["unit"],
        needs=node["needs"],
        threshold=float(node.get("margin", 0.0)),
        every=node.get("cases") == "every",
        scales=None if scales is None else tuple(scales),
        where=Where(**where),
        path=path,
        meaning=digest(node),
    )


def _check(node: Any, kind: type[Any], key: str, path: Path) -> None:
    place = f"{key}." * bool(key)
    if isinstance(node, Mapping):
        for each in fields(kind):
            if each.name not in node and each.default is each.default_factory:  # neither: MISSING
                raise ConfigError(f"{path} lacks {place}{each.name}; it needs {_needed(kind)}")
    found = fault(node, kind, key)
    if found is not None:
        told = str(found) if found.key else f"it is not a mapping of {_needed(kind)}"
        sentence = (found.sentence or told).replace("a run takes", "a claim takes")
        raise ConfigError(f"{path}: {sentence}")


def _needed(kind: type[Any]) -> str:
    required = [each.name for each in fields(kind) if each.default is each.default_factory]
    optional = [each.name for each in fields(kind) if each.name not in required]
    return ", ".join(required) + (f" and may have {', '.join(optional)}" if optional else "")


def _check_defense(text: str, key: str, path: Path, known: frozenset[str]) -> None:
    base, _, share = text.partition(" ")
    if any(part not in known for part in base.split("+")) or (share and not _RANGE.fullmatch(share)):
        raise ConfigError(f"{path}: {key} names no defense: {text}; there are {', '.join(sorted(known))}")


def known_defenses() -> frozenset[str]:
    """The names that the yamls of conf/defense give: one of none of them would be found in no record."""
    found = {"NoDef", "RE", "BiDO-COCO", "LS"}  # of classes whose name depends on their options
    for file in config_files("defense").values():
        node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
        parts = node.values() if isinstance(node, dict) else ()
        targets = [part["_target_"] for part in parts if isinstance(part, dict) and "_target_" in part]
        found |= {class_name(str(target)) for target in targets}
    return frozenset(found)
