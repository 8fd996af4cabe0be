"""The page of a folder of the zoo, and the same as a list for a terminal: what each file is, of its card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from midre_exp.plan.spelling import attack_name
from midre_exp.store.artifact import readable
from midre_exp.zoo.card import PRIOR
from midre_exp.zoo.files import SUFFIX, Card

_COLUMNS = ("file", "network", "defense", "classes", "acc", "train acc")


def page(cards: Mapping[str, tuple[Card, int]]) -> str:
    """Markdown of cards and bytes of files by name."""
    classifiers = {name: card for name, (card, _) in cards.items() if card["stage"] != PRIOR}
    attacks = sorted({one["attack"] for card in classifiers.values() for one in card.get("attacked", ())})
    head = [*_COLUMNS, *map(attack_name, attacks), "people", "epochs", "in", "size", "commit"]
    rows = [
        [
            *_first(name, card),
            *(reached(card, attack) for attack in attacks),
            str(card["people"]),
            str(card.get("epochs", "")),
            *_file(card, cards[name][1]),
        ]
        for name, card in classifiers.items()
    ]
    example = next((name for name, card in classifiers.items() if card["stage"] == "target"), "NAME")
    lines = [
        "# A zoo of classifiers",
        "",
        "Each file is safetensors with a card inside and a checksum of all its bytes; nothing in it is",
        "executed. A target remembers the people it was trained on: hand on only what may be handed on.",
        "",
        "    midre-exp zoo list FOLDER              # verify and list them",
        f"    midre-exp zoo attack FOLDER/{example}{SUFFIX}",
        "",
        "In a folder called zoo:",
        "",
        "    from midre_exp.zoo import load_target, read_card",
        "",
        f'    model = load_target("zoo/{example}")  # verified; in eval mode, on the CPU',
        f'    card = read_card("zoo/{example}")     # what it is',
        "",
        *_table(head, rows),
    ]
    if attacks:
        lines += [
            "",
            "acc: on held-out photographs; train acc: on what it was shown in its last epoch, as it was",
            "shown; below attacks: attack accuracy in recorded runs, by an independent evaluator, with the",
            "95 % interval over identities. They attacked the full weights; in float16, or on another",
            "processor, an attack takes another path and ends some points away.",
        ]
    priors = {name: card for name, (card, _) in cards.items() if card["stage"] == PRIOR}
    if priors:
        listed = [
            [name, card["prior"]["name"], str(card["counts"].get("public", "")), *_file(card, cards[name][1])]
            for name, card in priors.items()
        ]
        head = ["prior", "kind", "public images", "in", "size", "commit"]
        lines += ["", "Attackers' generators, which no private image entered:", "", *_table(head, listed)]
    return "\n".join([*lines, ""])


def listing(cards: Mapping[str, Card]) -> Iterator[str]:
    """A line of each classifier with what attacks reached, then the priors."""
    classifiers = {name: card for name, card in cards.items() if card["stage"] != PRIOR}
    attacks = sorted({one["attack"] for card in classifiers.values() for one in card.get("attacked", ())})
    rows = []
    for name, card in classifiers.items():
        network, _, *numbers = _first(name, card)[1:]
        defense = "+".join(card.get("defense", ["none"]))
        rows.append([name, network, defense, *numbers, *(reached(card, attack) for attack in attacks)])
    rows = [[*_COLUMNS, *map(attack_name, attacks)], *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
    for name, card in cards.items():
        if card["stage"] == PRIOR:
            yield f"{name}: prior {card['prior']['name']}, of {card['counts'].get('public')} public images"


def reached(card: Mapping[str, Any], attack: str) -> str:
    """Attack accuracy in percent with its interval, in the recorded runs of an attack; empty without one."""
    found = [one for one in card.get("attacked", ()) if one["attack"] == attack]
    return "; ".join(
        f"{one['att_acc1']:.1f} [{one['att_acc1_low']:.0f}, {one['att_acc1_high']:.0f}]"
        if one.get("att_acc1_low") is not None
        else f"{one['att_acc1']:.1f}"
        for one in found
    )


def defense_of(card: Mapping[str, Any]) -> str:
    """Its parts with the values that are numbers."""
    if card["stage"] != "target":
        return "none"
    parts = []
    for name, node in (card.get("defense") or {"unknown": {}}).items():
        values = [f"{k}={v}" for k, v in node.items() if isinstance(v, (int, float)) and type(v) is not bool]
        parts.append(f"{name} ({', '.join(values)})" if values else name)
    return " + ".join(parts)


def _first(name: str, card: Card) -> list[str]:
    acc, fits = (card.get("metrics", {}).get(each) for each in ("acc", "train_acc"))
    numbers = [f"{value:.1f}" if isinstance(value, (int, float)) else "" for value in (acc, fits)]
    return [name, card["target"], defense_of(card), str(card["classes"]), *numbers]


def _file(card: Card, size: int) -> list[str]:
    return [str(card["precision"]), readable(size), str(card.get("commit"))]


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    right = {"classes", "acc", "train acc", "epochs", "size", "public images"}
    marks = ["--:" if name in right else "---" for name in head]
    return ["| " + " | ".join(cells) + " |" for cells in (head, marks, *rows)]
