"""A digest of the code that computes each stage, so that no change of it goes unnoticed.

``python -m tests.stages.versions STAGE ...`` takes the code as it is for these stages (``all``): after
raising the ``version`` of a stage whose numbers change, or when the change leaves its numbers as they were,
which the commit message then says.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from midre_exp.plan.source import normalised
from midre_exp.stages import STAGES

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "stage_sources.json"
_TRAINING = ("midre_exp/targets", "midre_exp/defense.py", "defenses")
_IMAGES = (
    "midre_exp/data/transforms",
    "midre_exp/data/loader.py",
    "midre_exp/data/base.py",
    "midre_exp/seeding.py",
)
#: The files and folders behind the numbers of each stage. What reads or renders images is not among them:
#: their fingerprints stand in the keys.
SOURCES = {
    "pretraining": (*_TRAINING, *_IMAGES),
    "target": (*_TRAINING, *_IMAGES),
    "evaluator_pretraining": (*_TRAINING, *_IMAGES),
    "evaluator": (*_TRAINING, *_IMAGES),
    "features": ("midre_exp/metrics", *_IMAGES),
    "deployment": (
        "midre_exp/stages/deployment.py",
        "midre_exp/targets",
        "midre_exp/defense.py",
        "defenses",
        *_IMAGES,
    ),
    "prior": ("midre_exp/priors", *_IMAGES),
    "candidates": ("attacks/parts/initial_selection.py", "midre_exp/priors", *_IMAGES),
    "surrogates": ("midre_exp/surrogates", *_IMAGES),
    "tuned_prior": ("midre_exp/tuning", "midre_exp/loop.py", "midre_exp/priors", *_IMAGES),
    "attack": (
        "attacks",
        "midre_exp/attack.py",
        "midre_exp/attack_run.py",
        "midre_exp/loop.py",
        "midre_exp/threat.py",
        "midre_exp/priors",
        *_IMAGES,
    ),
    "metrics": ("midre_exp/metrics", *_IMAGES),
    "verdicts": ("midre_exp/metrics", "midre_exp/priors", *_IMAGES),
    "jury": ("midre_exp/metrics", *_IMAGES),
    "verifier": ("midre_exp/leakage", *_IMAGES),
    "open_set": ("midre_exp/leakage", *_IMAGES),
    "trait_reader": ("midre_exp/leakage", *_IMAGES),
    "traits": ("midre_exp/leakage", *_IMAGES),
    "diagnostics": ("midre_exp/diagnostics", "midre_exp/targets", *_IMAGES),
    **dict.fromkeys(("extraction", "extraction_ceiling"), ("midre_exp/diagnostics", *_TRAINING, *_IMAGES)),
    "trap": ("midre_exp/diagnostics", "midre_exp/targets", *_IMAGES),
    "lira": ("midre_exp/diagnostics", "midre_exp/targets", *_IMAGES),
    "alignment": ("midre_exp/diagnostics", "midre_exp/targets", "midre_exp/priors", *_IMAGES),
}


def source_digest(stage: str) -> str:
    """16 hex digits of a stage's code without comments, docstrings and layout."""
    digest = hashlib.sha256()
    for place in SOURCES[stage]:
        path = ROOT / place
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(normalised(file.read_text()).encode())
    return digest.hexdigest()[:16]


def current() -> dict[str, dict[str, object]]:
    """Version and digest of every stage as the code stands."""
    return {s.name: {"version": s.version, "source": source_digest(s.name)} for s in STAGES}


def main(names: list[str]) -> None:
    """Take the code of some stages as it is."""
    known = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
    for name, now in current().items():
        if name in names or "all" in names:
            known[name] = now
    GOLDEN.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
