"""``python -m midre_exp.cost [SETUPS] [OVERRIDES]``: what setups take on a kind of GPU, stage by stage, as
far as counting can tell. Nothing is run, and no data is needed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tabulate import tabulate

from midre_exp.cost.accelerators import ACCELERATORS, GB, RESERVED, Accelerator, known, seconds
from midre_exp.cost.counted import Counted
from midre_exp.cost.forecast import chunk_of, described, precision_of
from midre_exp.cost.remembered import Wanted, count_all, refused, remembered
from midre_exp.cost.runs import once, with_published
from midre_exp.cost.sizes import sizes_of
from midre_exp.errors import UserError
from midre_exp.plan.answers import kept_answers
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import CONF_DIR, Settings
from midre_exp.plan.keys import fingerprints_once
from midre_exp.stages import STAGES, behind
from midre_exp.stages.classifier import ClassifierStage
from midre_exp.store.progress import log_to_stderr, say

_HEADERS = (
    "setup",
    "target",
    "judge",
    "prior",
    "attack",
    "metrics",
    "sum h",
    "strict h",
    "tf32 h",
    "bf16 h",
    "training GB",
    "attack GB",
    "MB per item",
    "chunk",
    "EFLOP",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["calibrate"]:
        from midre_exp.cost.calibrate import main as calibrate  # torch

        return calibrate(words[1:])
    parser = argparse.ArgumentParser(prog="python -m midre_exp.cost", description=__doc__)
    parser.add_argument(
        "words", nargs="*", metavar="SETUP|OVERRIDE", help="S01 ... S37, none: all; KEY=VALUE"
    )
    names = [kind.name for kind in ACCELERATORS]
    parser.add_argument("--device", default="A100", help=f"{', '.join(names)}; A100 is the default")
    parser.add_argument("--scale", default="paper", help="paper (default), synth or mini")
    options = parser.parse_intermixed_args(words)
    log_to_stderr()
    overrides = [word for word in options.words if "=" in word]
    setups = [word for word in options.words if "=" not in word] or _setups()
    try:
        kind = known(options.device)
        with kept_answers(), packaged_configs(), fingerprints_once():
            composer = packaged_composer()
            every = {
                setup: composer.settings([f"setup={setup}", f"scale={options.scale}", *overrides])
                for setup in setups
            }
            wanted = {setup: _wanted(settings) for setup, settings in every.items()}
            count_all((one for stages in wanted.values() for one in stages.values()), None, say)
    except UserError as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2
    rows = [_row(setup, every[setup], stages, kind) for setup, stages in wanted.items()]
    print(f"{kind.assumption}\n")
    print(tabulate(rows, headers=_HEADERS, tablefmt="pipe", disable_numparse=True))
    failed = {
        (one.stage, why) for stages in wanted.values() for one in stages.values() if (why := refused(one))
    }
    for stage, why in sorted(failed):
        print(f"not counted: {stage} ({why})")
    return 0


def _setups() -> list[str]:
    """The paper's setups, LOMMA's in both variants; those that stand for one of two are left out."""
    names = sorted(path.stem for path in (CONF_DIR / "setup").glob("S*.yaml"))
    return [name for name in names if f"{name}a" not in names]


def _wanted(settings: Settings) -> dict[str, Wanted]:
    sizes = sizes_of(settings, once())
    if sizes is None:
        return {}
    taken = with_published(settings)
    found = {}
    for stage in described(taken):
        kind, own = behind(stage, taken)
        found[stage] = Wanted.of(kind, own, (sizes if own is taken else sizes_of(own, once())) or sizes)
    return found


def _row(setup: str, settings: Settings, stages: dict[str, Wanted], kind: Accelerator) -> list[str]:
    counted = {name: found for name, one in stages.items() if (found := remembered(one)) is not None}
    chunk, own = chunk_of(settings), precision_of(settings)

    def hours(precision: str, *names: str) -> str:
        if any(name in stages and name not in counted for name in names) or not stages:
            return "-"
        total = sum(seconds(counted[name], kind, precision, chunk) for name in names if name in counted)
        return f"{total / 3600:.1f}" if total > 3600 else f"{total / 3600:.2f}"

    classifiers = [stage.name for stage in STAGES if isinstance(stage, ClassifierStage)]
    trained = max(RESERVED + _memory(counted.get(name)) for name in classifiers)
    free = kind.memory * GB - RESERVED
    attack = counted.get("attack", Counted(()))
    inversion = next((phase for phase in attack.phases if phase.per_item), None)
    return [
        setup,
        hours(own, "pretraining", "target", "deployment"),
        hours(own, "evaluator_pretraining", "evaluator"),
        hours(own, "prior", "surrogates"),
        hours(own, "attack"),
        hours(
            own,
            "metrics",
            "verdicts",
            "verifier",
            "open_set",
            "trait_reader",
            "traits",
            "diagnostics",
            "lira",
            "alignment",
            "trap",
            "extraction",
            "extraction_ceiling",
        ),
        hours(own, *stages),
        hours("float32", *stages),
        hours("tf32", *stages),
        hours("bf16", *stages),
        f"{trained / GB:.1f}",
        f"{(RESERVED + attack.memory(chunk, free)) / GB:.1f}",
        "-" if inversion is None else f"{inversion.per_item / 1e6:.0f}",
        "-" if inversion is None else str(inversion.chunk(chunk, free)),
        f"{sum(one.flops for one in counted.values()) / 1e18:.3f}",
    ]


def _memory(counted: Counted | None) -> float:
    return 0.0 if counted is None else counted.memory(1)


if __name__ == "__main__":
    sys.exit(main())
