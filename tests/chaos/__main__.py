"""``python -m tests.chaos``: the fault campaign, part by part; writes its counts as JSON. Exit code 1 when a
guarantee is broken.
"""

from __future__ import annotations

import argparse
import importlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from midre_exp.store.files import write_json
from midre_exp.store.lock import sigterm_as_exit
from midre_exp.tracking.provenance import device_name, git_commit, versions
from tests.chaos import Violation

#: How often what is done, and the default.
OPTIONS = {
    "kills": (100, "SIGKILLs to sweeps of four workers"),
    "races": (5, "rounds of eight processes racing for every stage"),
    "terms": (10, "rounds of SIGTERM to a run, a sweep and a table"),
    "sweeps": (22, "sweeps of two workers disturbed by signals, a full disk, edited code"),
    "damage": (100, "damaged files"),
    "clocks": (2, "turns of five scenes with clocks that jump"),
}
#: The parts in their order; each has an option that says how often.
PARTS = tuple(OPTIONS)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    for option, (default, what) in OPTIONS.items():
        parser.add_argument(f"--{option}", type=int, default=default, metavar="N", help=f"{what} ({default})")
    parser.add_argument("--rounds", type=int, metavar="N", help="so often whatever is done")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices, not of their timing (0)")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--folder", type=Path, help="where to work, new or empty; kept (a temporary one)")
    parser.add_argument("--out", type=Path, help="JSON file of the counts")
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; choose among {', '.join(PARTS)}")
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        parser.error(f"{folder} is not empty; give a new folder")

    counts: dict[str, Any] = {}
    broken = None
    for part in parts:
        module = importlib.import_module(f"tests.chaos.{part}")
        started = time.monotonic()
        (folder / part).mkdir()
        try:
            counts[part] = module.campaign(
                folder / part,
                getattr(options, part) if options.rounds is None else options.rounds,
                random.Random(f"{options.seed} {part}"),
                lambda text, part=part: print(f"{part}: {text}", flush=True),
            )
            counts[part]["seconds"] = round(time.monotonic() - started)
        except Violation as violation:
            broken = f"{part}: {violation}"
            break
    print(table(counts))
    if broken is not None:
        print(f"broken: {broken}; everything is kept in {folder}", file=sys.stderr)
        return 1
    if options.out:
        write_json(
            options.out, report(counts, sys.argv[1:] if arguments is None else arguments, options.seed)
        )
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


def table(counts: dict[str, Any]) -> str:
    """The counts of all parts, one a line."""
    lines = []
    for part, found in counts.items():
        lines += [f"{part:<8}{name:<56}{_shown(value):>8}" for name, value in found.items()]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def report(counts: dict[str, Any], arguments: Sequence[str], seed: int) -> dict[str, Any]:
    """The counts with what they were measured on."""
    import torch

    return {
        "command": " ".join(["python -m tests.chaos", *arguments]),
        "seed": seed,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "commit": git_commit(),
        "device": device_name(torch.device("cpu")),
        "versions": versions(),
        "counts": counts,
    }


if __name__ == "__main__":
    with sigterm_as_exit():  # so that no sweep is left behind
        sys.exit(main())
