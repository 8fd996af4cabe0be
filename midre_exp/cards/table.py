"""The table of data sets in docs/data.md, from their cards:
``python -c "from midre_exp.cards.table import table; print(table())"`` prints it.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from midre_exp.cards.read import DatasetCard, dataset_cards
from midre_exp.plan.config import config_files

_HEAD = ("card", "data set", "below `paths.data`", "GB", "images as used", "licence", "in `data=`")


def table() -> str:
    """In Markdown, a row for each card."""
    rows = [_HEAD, ("---",) * len(_HEAD), *(_row(card) for card in dataset_cards().values())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(card: DatasetCard) -> tuple[str, ...]:
    every = card.images.get("all")
    images = [
        f"{part} {count:,}"
        for part, count in card.images.items()
        if part not in ("all", "literature") and count
    ]
    if every is not None and not card.images.get("train"):
        images.insert(0, f"{every:,}")
    found = ", ".join(images) or "as many as still answer"
    size = "?" if card.size_gb is None else f"{card.size_gb:g}"
    used = ", ".join(f"`{choice}`" for choice, sets in _choices().items() if sets & set(card.used_by))
    title = f"[{card.title}]({card.page})"
    return f"`{card.name}`", title, f"`{card.folder}/`", size, found, card.licence, used


def _choices() -> dict[str, set[str]]:
    """The choices of conf/data, each with those of conf/data/dataset that it reads."""
    found = {}
    for name, path in config_files("data").items():
        content: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        defaults = content.get("defaults") or []
        parts = [entry for entry in defaults if not isinstance(entry, str)]
        found[name] = {str(value) for entry in parts for value in entry.values()}
    return found
