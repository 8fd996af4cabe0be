"""A complete run small enough for every test that needs one."""

from __future__ import annotations

import gc
import os
import pickle
import re
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.config_repository import ConfigRepository, ConfigResult
from hydra.core.object_type import ObjectType

from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs, settings_of
from midre_exp.plan.config import OWN_CONFIGS, own_configs
from midre_exp.plan.overrides import readable
from midre_exp.run import run

#: The stages of every run.
STAGES = ("target", "evaluator", "features", "prior", "attack", "metrics", "verdicts")

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

#: Batch norm under averaged weights, half the time of a tiny prior: 2 batches of 8 latents, not 40 of 64.
SHORT_CALIBRATION = ("midre_exp.priors.gan.training._CALIBRATION", (2, 8))


def pytest_configure():
    """For fixtures of modules, which are made before the one of each test."""
    torch.set_num_threads(1)


def pytest_collection_finish():
    """Millions of objects of libraries and of thousands of tests stay to the end; collections of garbage need
    not look at them again and again.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item):
    """Who asks for the tests of a GPU where there is none is told so."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here; make rehearse pretends one")
    if item.get_closest_marker("rehearsal") and not torch.cuda.is_available():
        pytest.skip("needs a pretended GPU; run make rehearse")


@pytest.fixture(autouse=True)
def _own_configs_end_with_their_test():
    """A command that is called with ``--config-dir`` leaves the folder in the environment."""
    before = os.environ.get(OWN_CONFIGS)
    yield
    if before is None:
        os.environ.pop(OWN_CONFIGS, None)
    else:
        os.environ[OWN_CONFIGS] = before


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


@pytest.fixture(autouse=True, scope="session")
def _each_yaml_is_parsed_once():
    """Hydra parses every yaml of every config that it composes; here only those that are new or changed."""
    parse = ConfigRepository.load_config
    parsed: dict[tuple[object, ...], bytes] = {}

    def load_config(self: ConfigRepository, config_path: str) -> ConfigResult | None:
        source = self._find_object_source(config_path=config_path, object_type=ObjectType.CONFIG)
        if source is None or source.scheme() != "file":
            return parse(self, config_path)
        file = Path(source.path, source._normalize_file_name(config_path)).resolve()
        stat = file.stat()
        key = (str(file), config_path, source.provider, stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if key not in parsed:
            parsed[key] = pickle.dumps(parse(self, config_path))
        return pickle.loads(parsed[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigRepository, "load_config", load_config)
        yield


@cache
def _composer() -> Composer:
    return packaged_composer()


def resolved(job: Sequence[str]) -> dict[str, Any]:
    """The settings of a job, as in a sweep: choices of groups are composed once for all tests, values laid
    over them.
    """
    with packaged_configs():
        if own_configs() is not None:  # may change while a test runs
            return settings_of(job)
        return _composer().settings(readable(job, sweeps=False))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``tiny("defense=midre", ...)``: the resolved settings of a tiny run that writes under this test's
    folder.
    """

    monkeypatch.setattr(*SHORT_CALIBRATION)

    return lambda *overrides: resolved([*tiny_overrides(tmp_path), *overrides])


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the default tiny run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*SHORT_CALIBRATION)
        patch.setattr("midre_exp.plan.imported._imported", {})  # as for every test
        run(resolved(tiny_overrides(folder)))
    return folder / "store"


@pytest.fixture
def stocked(whole_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store of this test's tiny runs, which has all stages of the default one already: for what comes
    after a run, or beside it.
    """
    monkeypatch.setattr(*SHORT_CALIBRATION)
    return shutil.copytree(whole_run, tmp_path / "store")


def without_time(text: str) -> str:
    """What a command said, without the time before each line that it prints where there is no terminal."""
    return re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", "", text, flags=re.MULTILINE)


def tiny_overrides(folder: Path) -> list[str]:
    """The same as a command line."""
    paths = [f"paths.{name}={folder / name}" for name in ("store", "runs", "results")]
    return [*TINY, *paths]
