"""``midre-exp data get NAME``: fetch a data set that is open to everybody, or say how one gets it. A call
that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from midre_exp.cards import DatasetCard
from midre_exp.downloads.download import download, md5_of
from midre_exp.downloads.place import Options, Parser, chosen, how_to
from midre_exp.errors import DataError, UserError


def main(arguments: Sequence[str]) -> int:
    """Fetch; 0 where every file of the card is there, 2 where one cannot be fetched, in a sentence."""
    try:
        options = Parser("get", __doc__.partition(":")[2].strip()).parse_args(arguments, namespace=Options())
        for line in get(*chosen(options)):
            print(line, flush=True)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def get(card: DatasetCard, root: Path, *, pause: float = 2.0) -> list[str]:
    """Fetch what lacks of the files of a card into ``root``; what was done, a line for each. Raises DataError
    for a data set that its publishers hand out to people alone.
    """
    if not card.downloads:
        raise DataError(f"{how_to(card, root)}. It cannot be fetched by a program; nothing was")
    told = []
    for name, url in card.downloads.items():
        place, md5 = root / name, card.md5.get(name)
        if place.is_file() and (md5 is None or md5_of(place) == md5):
            told.append(f"{name} is in {root}")
            continue
        download(url, place, md5=md5, pause=pause)
        told.append(
            f"{name} fetched: {place.stat().st_size:,} bytes{'' if md5 else ', no checksum is published'}"
        )
    return [*told, f"{card.title}: next, midre-exp data prepare {card.name}"]
