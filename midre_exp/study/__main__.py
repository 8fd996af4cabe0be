"""A user study of two runs: whose reconstructions look more like the private people?

``python -m midre_exp.study make RECORD_A RECORD_B --out study.html`` writes a page that asks, for each
person, which of two reconstructions is closer to a photograph, and a key file that tells which was whose.
``python -m midre_exp.study score ANSWERS.csv ... --key KEY.json`` counts. The paper's supplement reports such
a study (CelebA, first 150 identities, a choice between two candidates); how its pictures were chosen and how
many people were asked is unknown. The page shows private photographs: give it only to people who may see
them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jinja2
import torch
from torch import Tensor

from midre_exp.data.base import Part
from midre_exp.errors import ConfigError, StoreError, UserError
from midre_exp.metrics import only_selected
from midre_exp.plan.config import build, digest, without
from midre_exp.records import read_record
from midre_exp.seeding import generator
from midre_exp.store.files import write_atomic, write_json
from midre_exp.store.store import Store
from midre_exp.tracking.pictures import data_url

_LARGEST = 256  # pixels of a picture's longer side


def make(
    records: tuple[Path, Path],
    out: Path,
    key: Path,
    *,
    identities: int,
    seed: int,
    part: Part,
    store: str | None,
) -> int:
    """Write the page ``out`` and its ``key``; returns the number of questions.

    One question for each of the first ``identities`` people whom both runs attacked: the first photograph of
    ``part``, and of each run the first reconstruction that counts; nothing is picked by quality. ``seed``
    orders the questions and decides, for one half of them each, on which side the first run stands. Raises
    ConfigError for runs that are not comparable, StoreError when artifacts are gone.
    """
    a, b = (read_record(path) for path in records)
    if _people(a) != _people(b):
        raise ConfigError(
            f"{records[0]} and {records[1]} attack different private images; choose two runs on the same data and split"
        )
    if a["key"] == b["key"]:
        raise ConfigError(f"{records[0]} and {records[1]} are the same run; choose two")
    first, second = (_reconstructions(record, store) for record in (a, b))
    private = build(a["config"]["data"]["private"], trusted=a["config"]["runtime"]["trusted_packages"]).load(
        part
    )
    photographs = _first_of_each(private.images, private.labels)
    shared = sorted(first.keys() & second.keys() & photographs.keys())[:identities]
    if not shared:
        raise ConfigError(
            f"{records[0]} and {records[1]} have reconstructed no person in common; choose runs that attack the same people"
        )

    order = [
        shared[i] for i in torch.randperm(len(shared), generator=generator(seed, "study", "order")).tolist()
    ]
    # a balanced draw: with a coin for each question one run could stand on the favoured side more often
    swapped = (torch.randperm(len(shared), generator=generator(seed, "study", "sides")) % 2).bool().tolist()
    pictures, questions = [], []
    for person, swap in zip(order, swapped, strict=True):
        pair = [first[person], second[person]]
        pictures.append(
            [
                data_url(image, largest=_LARGEST)
                for image in (photographs[person], *(pair[::-1] if swap else pair))
            ]
        )
        questions.append({"identity": person, "name": private.classes[person], "left": "b" if swap else "a"})
    study = digest([a["key"], b["key"], part, seed, questions])
    environment = jinja2.Environment(loader=jinja2.PackageLoader("midre_exp.report", "."), autoescape=True)
    write_atomic(out, environment.get_template("study.html.j2").render(study=study, pictures=pictures))
    runs = {name: _shown(record) for name, record in (("a", a), ("b", b))}
    write_json(key, {"study": study, "seed": seed, "part": part, "runs": runs, "questions": questions})
    return len(questions)


def _people(record: Mapping[str, Any]) -> dict[str, Any]:
    """The private images of a run, wherever they lie."""
    return without(record["config"]["data"]["private"], "root", "store")


def _shown(record: Mapping[str, Any]) -> dict[str, Any]:
    named = {name: record[name] for name in ("key", "attack", "target", "scale", "seed")}
    return {**named, "setup": record["setup"]["id"], "defense": record["defense"]["label"]}


def _reconstructions(record: Mapping[str, Any], store: str | None) -> dict[int, Tensor]:
    """For each person the first reconstruction that counts, uint8 [3, h, w]."""
    place = Store(store or record["config"]["paths"]["store"])
    attack = place.find("attack", record["artifacts"]["attack"])
    if attack is None:
        raise StoreError(
            f"the reconstructions of run {record['key']} are not in {place.root}; run it again, or "
            "give the right folder with --store"
        )
    found: Mapping[str, Tensor] = attack.tensors("reconstructions")
    found = only_selected(found) if "selected" in found else found
    order = found["restarts"].argsort(stable=True)
    return _first_of_each(found["images"][order], found["labels"][order])


def _first_of_each(images: Tensor, labels: Tensor) -> dict[int, Tensor]:
    """By label, the first of its images."""
    found: dict[int, Tensor] = {}
    for row, label in enumerate(labels.tolist()):
        if label not in found:
            found[label] = images[row]
    return found


def _score(options: argparse.Namespace) -> None:
    from midre_exp.study.score import read_answers, read_keys, score

    keys = read_keys(options.key)
    table = score(read_answers(options.answers, keys), next(iter(keys.values()))["runs"])
    print(table.to_markdown(index=False, tablefmt="simple", floatfmt=".1f"))
    if options.out is not None:
        write_atomic(options.out, table.to_csv(index=False))
        print(f"written: {options.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code, 2 after a mistake."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.study", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    page = commands.add_parser("make", help="write the page and its key")
    page.add_argument(
        "records",
        nargs=2,
        type=Path,
        metavar="RECORD",
        help="record files of two runs on the same private data",
    )
    page.add_argument("--out", type=Path, default=Path("study.html"), help="the page (default: study.html)")
    page.add_argument("--key", type=Path, help="the key file (default: beside the page, ending .key.json)")
    page.add_argument(
        "--identities",
        type=int,
        default=150,
        help="at most so many people, the first (default: 150, as the paper)",
    )
    page.add_argument("--seed", type=int, default=0, help="of the order and the sides (default: 0)")
    page.add_argument(
        "--part",
        choices=[p for p in get_args(Part) if p != "public"],
        default="train",
        help="photographs (default: train)",
    )
    page.add_argument("--store", help="artifact store (default: that of the records)")
    count = commands.add_parser("score", help="count the answers")
    count.add_argument("answers", nargs="+", type=Path, help="CSV files that participants downloaded")
    count.add_argument("--key", nargs="+", type=Path, required=True, help="key files of the studies")
    count.add_argument("--out", type=Path, help="also write the table as CSV")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        if options.command == "score":
            _score(options)
            return 0
        if options.identities < 1:
            raise ConfigError(f"--identities={options.identities} must be at least 1")
        key = options.key or options.out.with_suffix(".key.json")
        chosen = {name: getattr(options, name) for name in ("identities", "seed", "part", "store")}
        asked = make(tuple(options.records), options.out, key, **chosen)
        print(f"{asked} questions in {options.out}, which names no run; keep {key} away from whoever answers")
        return 0
    except UserError as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
