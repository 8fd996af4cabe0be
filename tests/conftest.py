"""A complete run small enough for every test that needs one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from midre_exp.plan.compose import packaged_configs, settings_of

#: The stages of every run.
STAGES = ("target", "evaluator", "features", "prior", "attack", "metrics")

#: Overrides under which one run takes a second or two: four identities, a few steps of everything.
TINY = (
    "data.identities=4",
    "data.train_per_identity=4",
    "data.test_per_identity=2",
    "data.public_identities=8",
    "data.public_images=32",
    "target.model.width=0.125",
    "evaluator.model.width=0.125",
    "target.recipe.epochs=2",
    "target.recipe.batch_size=8",
    "evaluator.recipe.epochs=1",
    "evaluator.recipe.batch_size=8",
    "evaluator.floor=0",
    "attack.prior.steps=6",
    "attack.prior.latent_dim=16",
    "attack.prior.batch_size=8",
    "attack.identities=4",
    "attack.restarts=2",
    "attack.steps=3",
    "runtime.checkpoint_seconds=0",
    "runtime.device=cpu",
    "runtime.threads=1",
    "runtime.progress=false",
)


def pytest_runtest_setup(item: pytest.Item):
    """Who asks for the tests of a GPU where there is none is told so."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here; make rehearse pretends one")
    if item.get_closest_marker("rehearsal") and not torch.cuda.is_available():
        pytest.skip("needs a pretended GPU; run make rehearse")


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums round alike wherever the tests run."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _code_may_be_edited(monkeypatch: pytest.MonkeyPatch):
    """While tests go on, somebody may edit the code that they have imported; a run refuses that."""
    monkeypatch.setattr("midre_exp.plan.imported._imported", {})


@pytest.fixture(autouse=True)
def _errors_as_sentences(monkeypatch: pytest.MonkeyPatch):
    """The command line sets this variable for its own process; a test that calls it must not change what the
    next test sees.
    """
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")


@pytest.fixture
def tiny(tmp_path: Path):
    """``tiny("defense=midre", ...)``: the resolved settings of a tiny run that writes under this test's
    folder.
    """

    def compose(*overrides: str):
        with packaged_configs():
            return settings_of([*tiny_overrides(tmp_path), *overrides])

    return compose


def without_time(text: str) -> str:
    """What a command said, without the time before each line that it prints where there is no terminal."""
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", text, flags=re.MULTILINE)


def tiny_overrides(folder: Path) -> list[str]:
    """The same as a command line."""
    paths = [f"paths.{name}={folder / name}" for name in ("store", "runs", "results")]
    return [*TINY, *paths]
