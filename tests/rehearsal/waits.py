"""Where the CPU waits for the GPU: seen by stage and function, and compared with those that are allowed.

``allowed_waits.json`` names, for each stage, the functions that may wait and why ("all within: ...": with
what they call). A new one fails the rehearsal; see docs/gpu.md for what to do then.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).parents[2]
ALLOWED = Path(__file__).with_name("allowed_waits.json")
#: Functions that a stage enters; contract tests call some of them without a stage.
ENTRANCES = {
    ("midre_exp/stages/prior.py", "make"): "prior",
    ("midre_exp/stages/surrogates.py", "make"): "surrogates",
    ("midre_exp/stages/candidates.py", "make"): "candidates",
    ("midre_exp/stages/features.py", "make"): "features",
    ("midre_exp/stages/attack.py", "make"): "attack",
    ("midre_exp/stages/metrics.py", "make"): "metrics",
    ("midre_exp/targets/training/train.py", "train_classifier"): "classifier",
    ("midre_exp/stages/classifier.py", "_make"): "classifier",
    ("midre_exp/attack_run.py", "run_attack"): "attack",
    ("midre_exp/attack_run.py", "run_shard"): "attack",
    **{
        (f"midre_exp/priors/{name}.py", "fit"): "prior"
        for name in ("gmi", "kedmi", "plgmi", "stylegan2", "lokt", "ddpm")
    },
    **{
        (place, "fit"): "surrogates"
        for place in (
            "midre_exp/surrogates/lomma.py",
            "midre_exp/surrogates/lokt.py",
            "midre_exp/surrogates/class_features.py",
            "attacks/parts/long_tailed.py",
        )
    },
    ("midre_exp/metrics/evaluation.py", "evaluate"): "metrics",
}
#: Parts of a function that Python runs as functions of their own, or from 3.12 on as itself.
_INLINED = {"<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>"}
LARGE = "large operator on the CPU"
_OWN = tuple(f"{ROOT / name}/" for name in ("midre_exp", "attacks", "defenses"))

#: Stage, file and function, and what it waits for.
Place = tuple[str, str, str]


class Waits:
    """Counts waits; ``told`` is the observer of a pretended device."""

    def __init__(self) -> None:
        self.counts: Counter[Place] = Counter()
        self.bytes: Counter[Place] = Counter()
        self.mode: int | str = "default"

    def set_mode(self, mode: int | str) -> None:
        """As ``torch.cuda.set_sync_debug_mode``."""
        self.mode = mode

    def forget(self, found: Counter[Place]) -> None:
        """As if these waits had not been: a test planted them."""
        self.counts -= found

    def told(self, what: str, size: int) -> None:
        """One wait of whoever calls."""
        if self.mode in (2, "error") and what != LARGE:
            raise RuntimeError(f"called a synchronizing CUDA operation: {what}")
        self.observe(what, size)

    def observe(self, what: str, size: int) -> None:
        """Count it where the project waits."""
        stage, site = _where(sys._getframe(2))
        if site is not None:
            self.counts[stage, site, what] += 1
            self.bytes[stage, site, what] += size

    @contextmanager
    def during(self) -> Iterator[Counter[Place]]:
        """The waits of a block."""
        before, found = self.counts.copy(), Counter[Place]()
        yield found
        found.update(self.counts - before)


#: Those of this process.
WAITS = Waits()


def _where(frame: FrameType | None) -> tuple[str, str | None]:
    """The stage and the innermost function of this project that called, or the one within which all that is
    called may wait.
    """
    stage, site = "", None
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(_OWN):
            file = code.co_filename[len(str(ROOT)) + 1 :]
            here = f"{file}:{code.co_name}"
            if (site is None and code.co_name not in _INLINED) or here in _covering():
                site = here
            stage = ENTRANCES.get((file, code.co_name), stage)
        frame = frame.f_back
    return stage or "no stage", site


@cache
def _covering() -> frozenset[str]:
    """Functions of the table that answer for all they call."""
    reasons = {site: why for sites in allowed().values() for site, why in sites.items()}
    return frozenset(site for site, why in reasons.items() if why.startswith("all within: "))


@cache
def allowed() -> Mapping[str, Mapping[str, str]]:
    """By stage: ``file:function`` to the reason why it may wait."""
    table: Mapping[str, Mapping[str, str]] = json.loads(ALLOWED.read_text())
    return table


def complaints(found: Mapping[Place, int]) -> list[str]:
    """A sentence for every wait that the table does not allow."""
    table = allowed()
    return [
        f"{site} waits for the device ({what}, {count} times in stage {stage}); take it out of the loop, or "
        f"allow it in {ALLOWED.relative_to(ROOT)} with the reason"
        for (stage, site, what), count in sorted(found.items())
        if what != LARGE and site not in {**table["every stage"], **table.get(stage, {})}
    ]
