"""How many runs of a sweep go on at a time on pretended machines."""

from __future__ import annotations

import os

import pytest

from midre_exp.errors import ConfigError
from midre_exp.machine.gpus import FAKE, VISIBLE
from midre_exp.sweep import workers
from midre_exp.sweep.workers import RUN_MEMORY, at_a_time

JOBLIB = {"_target_": "x.JoblibLauncher", "n_jobs": -1}
GPUS = {"_target_": "hydra_plugins.midre_launchers.LocalGpusLauncher"}
BASIC = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
LOCAL = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"}


def runs(count: int = 20, device: str = "auto", devices: int = 1) -> list[dict]:
    attack = {"identities": 10, "restarts": 1, "picture": [{"size": 100}]}
    return [{"runtime": {"device": device, "devices": devices}, "attack": attack, "resolution": 64}] * count


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """Sixteen cores, three GPUs, no shortage of memory."""
    monkeypatch.setenv(FAKE, "GPU-a,GPU-b,GPU-c")
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(workers, "free_host_memory", lambda: 500 * RUN_MEMORY)
    return monkeypatch


@pytest.mark.parametrize(
    ("launcher", "jobs", "expected"),
    [
        (JOBLIB, runs(), 3),
        (JOBLIB, runs(devices=2), 1),
        (JOBLIB, runs(device="cpu"), 16),
        ({**JOBLIB, "n_jobs": 4}, runs(), 3),
        ({**JOBLIB, "n_jobs": 2}, runs(), 2),
        (JOBLIB, runs(device="cuda:0"), 1),
        (JOBLIB, runs(device="cuda:0") + runs(device="cuda:2"), 2),
        ({**JOBLIB, "n_jobs": 4}, runs(device="cuda:0"), 4),  # who shares a GPU says so
        (GPUS, runs(), 3),
        (LOCAL, runs(), 3),
        (LOCAL, runs(device="cpu"), 16),
        (BASIC, runs(), 1),
        ({"_target_": "hydra_plugins.midre_launchers.SlurmLauncher"}, runs(), None),
    ],
)
def test_a_gpu_for_each_run(launcher, jobs, expected):
    assert at_a_time(launcher, jobs) == expected


def test_without_gpus_cores_and_memory_count(machine, capsys):
    machine.setenv(FAKE, "")
    assert at_a_time(JOBLIB, runs()) == 16 and capsys.readouterr().out == ""
    machine.setattr(workers, "free_host_memory", lambda: 5 * RUN_MEMORY)
    assert at_a_time(JOBLIB, runs()) == 4  # the pictures take their part
    assert "4 at a time: more is not possible with the free memory of this machine" in capsys.readouterr().out
    assert at_a_time({**JOBLIB, "n_jobs": 9}, runs()) == 9
    machine.setattr(workers, "free_host_memory", lambda: 1)
    assert at_a_time(LOCAL, runs()) == 1


def test_gpus_that_stay_idle_are_told_of(capsys):
    at_a_time(BASIC, runs())
    assert "GPUs for 3 at a time are here; hydra/launcher=local_gpus" in capsys.readouterr().out
    at_a_time(BASIC, runs(1))
    assert capsys.readouterr().out == ""


def test_local_gpus_needs_gpus_and_the_choice_of_them(machine):
    with pytest.raises(ConfigError, match=r"runtime.device=cuda:1 contradicts hydra/launcher=local_gpus"):
        at_a_time(GPUS, runs(device="cuda:1"))
    with pytest.raises(ConfigError, match=r"runtime.devices=4, but there are 3 GPUs here"):
        at_a_time(GPUS, runs(devices=4))
    machine.setenv(VISIBLE, "")
    with pytest.raises(ConfigError, match="local_gpus finds no GPU"):
        at_a_time(GPUS, runs())
