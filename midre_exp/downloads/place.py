"""Which card is meant, and where its data set lies."""

from __future__ import annotations

import difflib
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from omegaconf import OmegaConf

from midre_exp.cards import DatasetCard, dataset_cards
from midre_exp.errors import ConfigError
from midre_exp.plan.config import CONF_DIR, use_own_configs


class Options(Namespace):
    """What the three commands share."""

    dataset: str
    data: Path | None
    root: Path | None
    config_dir: str | None


class Parser(ArgumentParser):
    """Of one command; a mistake is a ConfigError in one sentence."""

    def __init__(self, command: str, description: str):
        super().__init__(prog=f"midre-exp data {command}", description=description)
        self.add_argument(
            "dataset", metavar="NAME", help="a card of conf/card/dataset: celeba, celeba_hd ..."
        )
        self.add_argument("--data", type=Path, metavar="DIR", help="paths.data: the folder of all data sets")
        self.add_argument("--root", type=Path, metavar="DIR", help="the folder of this data set itself")
        self.add_argument(
            "--config-dir", metavar="DIR", help="a folder of your own beside conf, with card/dataset"
        )

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{self.prog.removeprefix('midre-exp ')}: {message}; see {self.prog} --help")


def chosen(options: Options) -> tuple[DatasetCard, Path]:
    """The card that is meant, and the folder of its data set. Raises ConfigError."""
    use_own_configs(options.config_dir)
    cards = dataset_cards()
    card = cards.get(options.dataset)
    if card is None:
        raise ConfigError(_unknown(options.dataset, list(cards)))
    if options.root is not None:
        return card, options.root.expanduser().absolute()
    data = options.data or Path(str(OmegaConf.load(CONF_DIR / "config.yaml").paths.data))
    return card, data.expanduser().absolute() / card.folder


def _unknown(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{name} is no data set; {hint}cards are there of {', '.join(known)}"


def how_to(card: DatasetCard, root: Path) -> str:
    """What the card is of, how one gets it, and where it goes."""
    where = f"put it into {root} (page: {card.page}; licence: {card.licence})"
    return f"{card.title}: {card.access.rstrip('.')}; {where}"
