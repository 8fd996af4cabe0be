"""Ten setups of the paper on the pretended GPU, from official files to a record, with budgets of smoke."""

from __future__ import annotations

import pytest

from midre_exp.doctor.smoke import Ground, try_setup
from midre_exp.plan.compose import packaged_composer, packaged_configs

pytestmark = pytest.mark.rehearsal

#: Every attack, private set and kind of prior.
SETUPS = ("S01", "S07", "S13b", "S19", "S25", "S26", "S27", "S33", "S35", "S36")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Ground:
    return Ground(tmp_path_factory.mktemp("rehearsal"), device="cuda")


@pytest.mark.parametrize("name", SETUPS)
def test_a_setup_runs_without_mixed_devices_and_without_new_waits(
    ground: Ground, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with packaged_configs():
        assert try_setup(name, ground, packaged_composer()).error is None
