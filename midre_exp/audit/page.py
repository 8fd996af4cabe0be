"""An audit on one page: Markdown, HTML and JSON, with pictures of people where publish.people=true alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor

from midre_exp.audit.ladder import Tried
from midre_exp.audit.settings import Subject
from midre_exp.audit.verdict import Audit
from midre_exp.data.base import Dataset
from midre_exp.metrics import only_selected
from midre_exp.plan.config import build, trusted_packages
from midre_exp.plan.publication import NOTICE, banner, may_show, withheld
from midre_exp.records.text import inline
from midre_exp.store.files import dump_json, write_atomic
from midre_exp.store.store import Store
from midre_exp.tracking.pictures import data_url

_LARGEST = 128  # pixels of a picture's longer side
_THREATS = {"white_box": "white box", "scores": "scores", "labels": "labels"}


def write_page(audit: Audit, subject: Subject, tried: Sequence[Tried]) -> list[Path]:
    """Write ``audit.md``, ``audit.html`` and ``audit.json``; returns their paths."""
    settings = tried[0].settings
    pictures = pictures_of(subject, tried) if may_show(settings) else {}
    notes = [note for note in [withheld(settings)] if note is not None]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("midre_exp.audit", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template("page.html.j2").render(
        audit=audit,
        threats=_THREATS,
        pictures=pictures,
        notes=notes,
        banner=banner(settings),
        retrained_note=RETRAINED,
        verifier=verifier_in_words(audit),
        open_set_headings=OPEN_SET_HEADINGS,
        open_set=open_set_rows(audit),
        notice=NOTICE,
    )
    files = {
        "audit.md": as_markdown(audit, notes),
        "audit.html": page,
        "audit.json": dump_json(json.loads(json.dumps(audit.as_json()))),
    }
    for name, content in files.items():
        write_atomic(subject.out / name, content)
    return [subject.out / name for name in files]


def pictures_of(subject: Subject, tried: Sequence[Tried]) -> dict[str, list[tuple[str, str]]]:
    """By person, a private picture and the first reconstruction that counts of each attack, with what it is;
    nothing is picked by quality.
    """
    settings = tried[0].settings
    dataset = build(settings["data"]["private"], kind=Dataset, trusted=trusted_packages(settings))
    private = dataset.load("train")
    found: dict[str, list[tuple[str, str]]] = {}
    for label, name in enumerate(subject.reading.people[: subject.attacked]):
        own = (private.labels == label).nonzero()[:, 0]
        if len(own):
            found[name] = [("private picture", data_url(private.images[int(own[0])], largest=_LARGEST))]
    store = Store(settings["paths"]["store"])
    for one in tried:
        if one.record is None or one.rung.retrained is not None:
            continue
        attack = store.find("attack", one.record["artifacts"]["attack"])
        tensors: Mapping[str, Tensor] = {} if attack is None else attack.tensors("reconstructions")
        if "selected" in tensors:
            tensors = only_selected(dict(tensors))
        for label, name in enumerate(subject.reading.people[: subject.attacked]):
            rows = (tensors["labels"] == label).nonzero()[:, 0] if tensors else torch.tensor([])
            if len(rows):
                first = rows[tensors["restarts"][rows].argmin()]
                picture = data_url(tensors["images"][int(first)], largest=_LARGEST)
                found.setdefault(name, []).append((one.rung.attack, picture))
    return found


def as_markdown(audit: Audit, notes: Sequence[str]) -> str:
    """The page as Markdown, without pictures."""
    parts: list[str] = [
        f"# Audit of {inline(Path(audit.file).name)}",
        f"**{inline(audit.verdict)}**",
        *(f"> {inline(alarm)}" for alarm in audit.alarms),
        "## What was audited",
        _table(
            ("", ""),
            [
                ("weight file", audit.file),
                ("network", audit.network),
                ("read with", audit.preprocessing),
                ("order of classes", audit.order),
                ("people", f"{audit.folder} (data.people: {audit.people})"),
                ("accuracy", f"{audit.accuracy:.1f} % of {audit.images} pictures: {audit.tested}"),
                ("the attacker's pictures", audit.public),
                ("judge", _judge(audit)),
                ("chance", f"{audit.chance:.1f} %"),
            ],
        ),
        "## What an attacker had to know and spend",
        _table(ATTACK_HEADINGS, [attack_row(one) for one in audit.attacks])
        if audit.attacks
        else "None finished.",
    ]
    parts += ["## Is it the person?", inline(verifier_in_words(audit))]
    if "why_not" not in audit.verifier:
        parts += [_table(OPEN_SET_HEADINGS, open_set_rows(audit)), *map(inline, audit.verifier["missing"])]
    if audit.retrained:
        parts += [
            "## What a defense would cost",
            _table(
                ("network", "accuracy %", "attack", "recognised %", "95 %"),
                [
                    (
                        o.on,
                        f"{o.network_accuracy:.1f}",
                        o.attack,
                        f"{o.accuracy:.1f}",
                        f"{o.low:.1f}–{o.high:.1f}",
                    )
                    for o in audit.retrained
                ],
            ),
            RETRAINED,
        ]
    parts += [
        "## People, from most to least exposed",
        *map(inline, notes),
        _table(
            ("person", "exposure %", *(one.attack for one in audit.attacks)),
            [
                (p.name, f"{p.exposure:.0f}", *(_cell(p.by.get(one.attack)) for one in audit.attacks))
                for p in audit.persons
            ],
        ),
        "Percent of the pictures of each attack that the judge takes for the person; exposure: the most.",
        "## What was not tested",
        "\n".join(f"- {inline(text)}" for text in audit.not_tested),
        f"{audit.seconds / 60:.1f} minutes; again with:",
        f"    {audit.command}",
        NOTICE,
    ]
    return "\n\n".join(parts) + "\n"


ATTACK_HEADINGS = (
    *("attack", "needs", "recognised %", "95 %", "by all judges %", "another person %", "random picture %"),
    *("people ≥ half", "queries each", "seconds"),
)
OPEN_SET_HEADINGS = (
    *("attack", "accepted at FAR 1e-2 %", "95 %", "at FAR 1e-3 %", "95 %"),
    *("place among decoys", "first %"),
)
RETRAINED = (
    "The same architecture trained anew on the same pictures by the recipe of the audit, which is not that "
    "of the audited network: compare the lines with each other."
)


def attack_row(one: Any) -> tuple[str, ...]:
    """An attack as a line under ``ATTACK_HEADINGS``."""
    return (
        f"{one.attack} ({_THREATS.get(one.threat, one.threat)})",
        one.needs,
        f"{one.accuracy:.1f}",
        f"{one.low:.1f}–{one.high:.1f}",
        "" if one.agreed is None else f"{one.agreed:.1f}",
        f"{one.other:.1f}",
        f"{one.random:.1f}",
        str(one.recognised),
        f"{one.queries:,.0f}",
        f"{one.seconds:.0f}",
    )


def verifier_in_words(audit: Audit) -> str:
    """Who the open-set judge is and how far it may be believed, or why there is none."""
    found = audit.verifier
    if "why_not" in found:
        return (
            f"No judge was asked who never saw these people (an open-set verifier): {found['why_not']}. All "
            "judges above know them from the same pictures as the network."
        )
    word = "" if found["readable"] else f", above {found['most_eer']:g} %, so its word does not count here"
    return (
        f"A verifier that never saw these people learnt to tell {found['identities']} people apart "
        f"({found['where']}). {found['held_out']} others of them are decoys; on their "
        f"{found['held_out_images']} pictures its equal error rate is {found['eer']:.1f} % "
        f"({found['pairs']:,} pairs of impostors){word}. Accepted: as the right person, at a threshold that "
        "so many photographs of other people pass (FAR)."
    )


def open_set_rows(audit: Audit) -> list[tuple[str, ...]]:
    """What it says of each attack, as lines under ``OPEN_SET_HEADINGS``; empty cells are not measured."""
    rows = []
    for one in audit.attacks:
        if one.open_set is None:
            continue
        cells = []
        for far in ("0.01", "0.001"):
            told = one.open_set["tar"].get(far)
            cells += (
                ["", ""]
                if told is None
                else [f"{told['value']:.1f}", f"{told['low']:.1f}–{told['high']:.1f}"]
            )
        rank = one.open_set["rank"]
        place = f"{rank['median']:g} of {one.open_set['decoys'] + 1} (chance {rank['chance']:g})"
        rows.append((one.attack, *cells, place, f"{rank['first']:.1f}"))
    return rows


def _judge(audit: Audit) -> str:
    found, floor = audit.judge["accuracy"], audit.judge["floor"]
    if found is None:
        return "none was trained"
    beside = "" if found >= floor else f", below the {floor:g} % from which its word counts"
    further = "".join(f"; {name}, {accuracy:.1f} %" for name, accuracy in audit.judge["further"].items())
    held_out = f"{found:.1f} % of held-out pictures{beside}{further}"
    return f"{audit.judge['name']}, trained on the same folder: {held_out}"


def _cell(share: float | None) -> str:
    return "" if share is None else f"{share:.0f}"


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(inline(cell) for cell in line)} |" for line in lines)
