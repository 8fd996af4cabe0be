"""Memory that is short in any stage of a run is one sentence with the remedy, and loses nothing."""

from __future__ import annotations

from functools import wraps

import pytest
import torch

from attacks.gmi import GMI
from midre_exp.errors import OutOfMemory
from midre_exp.priors.gan.training import GanTraining
from midre_exp.run import run
from midre_exp.store import progress
from midre_exp.surrogates.student import Student
from midre_exp.targets.base import Classifier
from midre_exp.targets.training.module import ClassifierModule

#: The stage, where its memory ends, and what is said; in the order in which a run builds them.
CASES = [
    ("target", ClassifierModule, "training_step", r"lower target\.recipe\.batch_size \(now \d+\)"),
    ("evaluator", ClassifierModule, "training_step", r"lower evaluator\.recipe\.batch_size \(now \d+\)"),
    ("prior", GanTraining, "critic_step", r"lower attack\.prior\.batch_size \(now \d+\)"),
    ("surrogates", Student, "forward", r"lower attack\.surrogates\.batch_size \(now \d+\)"),
    ("attack", GMI, "losses", r"GMI: 1 item\(s\), which cannot be divided further: not enough memory"),
    ("metrics", Classifier, "__call__", r"not enough memory for one of the images"),
]


def test_a_stage_without_memory_is_a_sentence_and_the_next_attempt_goes_on(tiny, monkeypatch):
    surrogates = [f"attack.surrogates.{key}=8" for key in ("batch_size", "statistics_images", "steps")]
    settings = tiny("attack=lomma_gmi", *surrogates)
    for stage, place, name, sentence in CASES:
        original = getattr(place, name)

        @wraps(original)
        def short(*inputs, original=original, stage=stage, **options):
            if progress._display.stage.startswith(f"{stage} "):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return original(*inputs, **options)

        with monkeypatch.context() as patch:
            patch.setattr(place, name, short)
            with pytest.raises(
                OutOfMemory, match=rf"^{stage} \w+: .*{sentence}.*; what is finished is kept$"
            ):
                run(settings)
    assert run(settings).exists()
