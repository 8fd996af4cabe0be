"""Pages of methods, and the README's table of them. A page is docs/attacks/NAME.md or docs/defenses/NAME.md:
words with a front matter; what the code and conf/ say themselves is put in when the site is built.

Front matter: ``choices`` of conf/attack or conf/defense (or of ``group``), ``files``, ``objects`` (classes to
document), ``paper`` (who and where), ``code`` (released; null: none), ``sees`` (what an attacker has) or
``acts`` (what a defense changes). Address and BibTeX of papers are those of midre_exp.references.
``python -c "from docs.methods import table; print(table())"`` prints the table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from midre_exp.references import by_choice

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf"
KINDS = ("attacks", "defenses")
SCALES = ("mini", "evidence", "lfw", "synth", "paper")  # those that somebody chooses
PARTS = ("prior", "surrogates", "tuning")  # of an attack: groups below conf/attack


def pages(kind: str) -> dict[Path, dict[str, Any]]:
    """The front matter of every page of ``attacks`` or ``defenses`` with choices, in the table's order."""
    found = {path: front_matter(path.read_text()) for path in sorted((ROOT / "docs" / kind).glob("*.md"))}
    methods = {path: meta for path, meta in found.items() if "choices" in meta}
    return dict(sorted(methods.items(), key=lambda item: item[1].get("order", 50)))


def front_matter(text: str) -> dict[str, Any]:
    """Between the first two lines of dashes; nothing where a text does not begin with them."""
    match = re.match(r"---\n(.*?)\n---\n", text, re.S)
    found: dict[str, Any] = yaml.safe_load(match.group(1)) if match else {}
    return found


def table(root: str = "", kinds: tuple[str, ...] = KINDS) -> str:
    """Attacks and defenses in Markdown, as README.md has them; ``root``: what links to files begin with."""
    parts = []
    for kind in kinds:
        rows = [f"| {kind[:-1]} | paper | file | `{kind[:-1]}=` |", "|---|---|---|---|"]
        for path, meta in pages(kind).items():
            files = ", ".join(f"[{_short(file)}]({root}{file})" for file in meta["files"])
            choices = ", ".join(f"`{name}`" for name in meta["choices"])
            choices = f"`{meta['group']}=` {choices}" if "group" in meta else choices
            link = f"{root}docs/{kind}/{path.name}"
            rows.append(f"| [{_title(path)}]({link}) | {_paper(meta, kind)} | {files} | {choices} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


def _entries(meta: dict[str, Any], kind: str) -> list[str]:
    known = by_choice()
    choices = [f"{_group(meta, kind)}={name}" for name in meta["choices"]]
    return list(dict.fromkeys(entry for choice in choices for entry in known.get(choice, [])))


def _group(meta: dict[str, Any], kind: str) -> str:
    return str(meta.get("group", kind[:-1]))


def _short(file: str) -> str:
    return file.rstrip("/").split("/")[-1]


def _title(path: Path) -> str:
    match = re.search(r"^# (.*)$", path.read_text(), re.M)
    return match.group(1) if match else path.stem


def _paper(meta: dict[str, Any], kind: str) -> str:
    addresses = [re.search(r"url = {(.*?)}", entry) for entry in _entries(meta, kind)]
    return f"[{meta['paper']}]({addresses[0].group(1)})" if addresses and addresses[0] else str(meta["paper"])


def page(markdown: str, meta: dict[str, Any], kind: str) -> str:
    """The text of a page (without its front matter) with facts below its title and, behind the words,
    options, values by scale, and the class.
    """
    title, words = re.match(r"\s*(# [^\n]*\n)(.*)", markdown, re.S).groups()  # type: ignore[union-attr]
    group = _group(meta, kind)
    sections = [title, _facts(meta, kind, group), words.strip(), "## Options"]
    yamls = [CONF / group / f"{name}.yaml" for name in meta["choices"]]
    sections += [_yaml(path) for path in yamls]
    parts = {part: None for path in yamls for part in _parts(path)}
    if parts:
        sections.append(
            "What it searches and learns from, chosen with it (and by its own name, `attack/prior=NAME`):"
        )
    sections += [_folded(path) for path in parts]
    by_scale = _by_scale(yamls, list(parts)) if kind == "attacks" else _by_target(meta["choices"])
    if by_scale:
        sections += ["## Defaults by scale", by_scale]
    if meta.get("objects"):
        sections.append("## In the code")
        sections += [f"::: {name}\n    options:\n      heading_level: 3" for name in meta["objects"]]
    if entries := _entries(meta, kind):
        sections += ["## Cite", "```bibtex\n{}\n```".format("\n\n".join(entries))]
    return "\n\n".join(sections) + "\n"


def _facts(meta: dict[str, Any], kind: str, group: str) -> str:
    choices = ", ".join(f"`{group}={name}`" for name in meta["choices"])
    files = ", ".join(f"[{file}](../../{file})" for file in meta["files"])
    code = f"[{meta['code'].split('//')[-1]}]({meta['code']})" if meta.get("code") else "none known"
    rows = [("Choice", choices), ("Paper", _paper(meta, kind)), ("Released code", code), ("File", files)]
    rows.append(
        ("Attacker sees" if kind == "attacks" else "Acts on", meta["sees" if kind == "attacks" else "acts"])
    )
    (choice, value), *others = rows
    return "\n".join(
        [f"| {choice} | {value} |", "|---|---|", *(f"| **{name}** | {text} |" for name, text in others)]
    )


def _yaml(path: Path) -> str:
    text = path.read_text().rstrip()
    return f'```yaml title="{path.relative_to(ROOT)}"\n{text}\n```'


def _folded(path: Path) -> str:
    block = "\n".join(f"    {line}".rstrip() for line in _yaml(path).splitlines())
    return f'??? note "{path.relative_to(ROOT)}"\n\n{block}'


def _parts(path: Path) -> list[Path]:
    """The yamls of prior, surrogates and tuning that an attack names, its bases' first."""
    found: dict[str, Path] = {}
    for entry in yaml.safe_load(path.read_text()).get("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            found |= {base.parent.name: base for base in _parts(path.with_name(f"{entry}.yaml"))}
        elif isinstance(entry, dict):
            found |= {
                part: CONF / "attack" / part / f"{name}.yaml"
                for part, name in entry.items()
                if part in PARTS and name
            }
    return list(found.values())


def merged(path: Path) -> dict[str, Any]:
    """A yaml with the values of those of its own group that it is made from, options by dotted name."""
    node = yaml.safe_load(path.read_text()) or {}
    bases = [entry for entry in node.pop("defaults", []) if isinstance(entry, str) and entry != "_self_"]
    found: dict[str, Any] = {}
    for base in bases:
        found |= merged(path.with_name(f"{base}.yaml"))
    return found | flat(node)


def flat(node: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options by dotted name; an empty mapping or a list is a value."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        name = f"{prefix}{key}"
        found |= flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return found


def _by_scale(yamls: list[Path], parts: list[Path]) -> str:
    """A table for each choice and part: what the scales lay over its yaml."""
    tables = []
    for path in [*yamls, *parts]:
        kind = "attack" if path in yamls else path.parent.name
        over = {
            scale: merged(file)
            for scale in SCALES
            if (file := CONF / "scale" / kind / f"{scale}_{path.stem}.yaml").exists()
        }
        if over:
            heading = f"`{path.parent.relative_to(CONF)}={path.stem}`"
            tables.append(_values(heading, merged(path), over))
    if not tables:
        return ""
    return "\n\n".join(
        [*tables, "A scale without a column leaves the yaml as it is; `paper` is what is published."]
    )


def _by_target(choices: list[str]) -> str:
    """What conf/target and conf/scale have for the defenses, by ``defense_defaults``."""
    over: dict[str, dict[str, Any]] = {}
    for path in sorted([*(CONF / "target").glob("*.yaml"), *(CONF / "scale").glob("*.yaml")]):
        node = yaml.safe_load(path.read_text())
        if path.parent.name == "scale":
            node = node.get("target") or {}
        found = {
            name: node["defense_defaults"][name]
            for name in choices
            if name in (node.get("defense_defaults") or {})
        }
        if found:
            over[f"`{path.parent.name}={path.stem}`"] = flat(found)
    if not over:
        return ""
    names = list(dict.fromkeys(name for values in over.values() for name in values))
    rows = [f"| | {' | '.join(f'`{name}`' for name in names)} |", "|---" * (len(names) + 1) + "|"]
    rows += [
        f"| {where} | {' | '.join(_value(values, name) for name in names)} |"
        for where, values in over.items()
    ]
    return (
        "\n".join(rows) + "\n\nEverywhere else the yaml above holds. A scale beats a target, a command both."
    )


def _values(heading: str, base: dict[str, Any], over: dict[str, dict[str, Any]]) -> str:
    names = list(dict.fromkeys(name for values in over.values() for name in values))
    rows = [f"| {heading} | yaml | {' | '.join(over)} |", "|---" * (len(over) + 2) + "|"]
    for name in names:
        values = [_value({**base, **values}, name) for values in over.values()]
        rows.append(f"| `{name}` | {_value(base, name)} | {' | '.join(values)} |")
    return "\n".join(rows)


def _value(values: dict[str, Any], name: str) -> str:
    if name not in values:
        return ""
    value = values[name]
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text}`".replace("|", "\\|")
