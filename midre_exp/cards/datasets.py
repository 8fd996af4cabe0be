"""Which card is of the data set that a run reads, and what it says to people who lack the data."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from midre_exp.cards.read import DatasetCard, dataset_cards
from midre_exp.plan.config import config_files


def card_of(node: Mapping[str, Any]) -> DatasetCard | None:
    """The card of a resolved node of conf/data/dataset: of those with its reader, the one with most values
    alike. None for data without a card (folders, synthetic faces).
    """
    best: tuple[int, DatasetCard] | None = None
    for card in dataset_cards().values():
        for choice in card.used_by:
            known = _choice(choice)
            if known.get("_target_") == node["_target_"]:
                alike = sum(node.get(key) == value for key, value in known.items())
                if best is None or alike > best[0]:
                    best = alike, card
    return None if best is None else best[1]


@cache
def _choice(name: str) -> dict[str, Any]:
    """A choice of conf/data/dataset as its file has it; empty where there is none."""
    path = config_files("data/dataset").get(name)
    content = None if path is None else OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {}


def usual_images(card: DatasetCard, role: str) -> int | None:
    """How many images of a role a complete download has, as they are used; where copies differ, how many that
    of the literature had. None where neither is known.
    """
    if role == "public":
        return card.images.get("public")
    train, test, every = (card.images.get(part) for part in ("train", "test", "all"))
    if train is not None and test is not None:
        return train + test
    if every is None:
        return card.images.get("literature")
    return every - (card.images.get("public") or 0)


def steps(card: DatasetCard, root: str) -> dict[str, str]:
    """What somebody without the data has to know, by a word for each."""
    size = "size unknown" if card.size_gb is None else f"{card.size_gb:g} GB"
    return {
        "what": f"{card.title} ({size}; {card.licence})",
        "page": card.page,
        "access": card.access,
        "folder": f"{root}; then midre-exp data verify {card.name} --root {root}",
    }
