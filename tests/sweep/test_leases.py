"""GPUs are leased by real processes, on machines that are pretended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from midre_exp.errors import ConfigError
from midre_exp.machine.gpus import FAKE, VISIBLE
from midre_exp.sweep import leases
from midre_exp.sweep.leases import FOLDER, leased

#: Leases, says what it got, and keeps it until its stdin is closed.
HOLDER = """
import os, sys
from midre_exp.sweep.leases import leased
with leased(sys.argv[1], int(sys.argv[2]), run=sys.argv[3], tell=lambda text: print(text, flush=True)):
    print("has", os.environ.get("CUDA_VISIBLE_DEVICES", "all"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Two GPUs, of which the second has more memory free."""
    monkeypatch.setenv(FAKE, "GPU-a:1000:100,GPU-b:1000:900")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setattr(leases, "_POLL_SECONDS", 0.05)
    monkeypatch.setattr(leases, "_masked", [])
    monkeypatch.setattr(leases, "_cuda_has_started", lambda: False)  # another test of this process may have


@pytest.fixture
def hold():
    started = []

    def start(device="auto", count=1, run="S01 nodef seed 0"):
        command = [sys.executable, "-c", HOLDER, device, str(count), run]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_runs_get_different_gpus_and_the_third_waits_until_one_has_died(hold):
    first = hold()
    assert first.stdout.readline() == "has GPU-b\n"  # where most memory is free
    second = hold()
    assert second.stdout.readline() == "has GPU-a\n"
    third = hold()
    waiting = third.stdout.readline()
    assert waiting.startswith(
        "waiting for a GPU of this machine; in use: GPU 1 (pretended) for S01 nodef seed 0"
    )
    assert f"(process {first.pid} on " in waiting and f"(process {second.pid} on " in waiting
    second.send_signal(signal.SIGKILL)
    second.wait()
    assert third.stdout.readline() == "has GPU-a\n"
    first.stdin.close()
    first.wait()
    with leased("auto") as gpus:
        assert [gpu.uuid for gpu in gpus] == ["GPU-b"]


def test_a_lease_ends_and_leaves_the_environment_as_it_was(tmp_path):
    with leased("auto"):
        assert os.environ[VISIBLE] == "GPU-b"
    assert VISIBLE not in os.environ and not list(tmp_path.glob("*.lock"))
    os.environ[VISIBLE] = "0"
    with leased("cuda") as gpus:
        assert [gpu.uuid for gpu in gpus] == ["GPU-a"] and os.environ[VISIBLE] == "0"
    assert os.environ[VISIBLE] == "0"


def test_a_run_on_several_gpus_leases_all_or_none(hold, tmp_path):
    one = hold()
    assert one.stdout.readline() == "has GPU-b\n"
    both = hold(count=2, run="a wide run")
    assert both.stdout.readline().startswith("waiting for 2 GPUs")
    with leased("auto") as gpus:  # what the wide run does not hold while it waits
        assert gpus[0].uuid == "GPU-a"
    one.stdin.close()
    assert both.stdout.readline() == "has GPU-a,GPU-b\n"
    with pytest.raises(ConfigError, match=r"runtime.devices=3, but there are 2 GPUs here"), leased("auto", 3):
        pass


def test_a_named_gpu_waits_for_nobody_but_keeps_others_away(hold):
    assert hold("cuda:1").stdout.readline() == "has all\n"
    said = []
    with leased("cuda:1", tell=said.append) as gpus:
        assert gpus[0].uuid == "GPU-b" and VISIBLE not in os.environ  # cuda:1 is still the second of two
    assert said == ["GPU 1 (pretended) is shared with another run, as runtime.device=cuda:1 asks"]
    with leased("auto") as gpus:
        assert gpus[0].uuid == "GPU-a"


def test_a_process_that_has_started_cuda_keeps_its_gpu(monkeypatch):
    started = SimpleNamespace(cuda=False)
    monkeypatch.setattr(leases, "_cuda_has_started", lambda: started.cuda)
    with leased("auto") as first:
        started.cuda = True
    assert os.environ[VISIBLE] == "GPU-b"
    monkeypatch.setenv(FAKE, "GPU-a:1000:999,GPU-b:1000:1")
    with leased("auto") as second:
        assert [gpu.uuid for gpu in second] == [gpu.uuid for gpu in first] == ["GPU-b"]
    with pytest.raises(ConfigError, match=r"runtime.devices=2, but this process has started CUDA on GPU 1"):
        leased("auto", 2).__enter__()
    with pytest.raises(
        ConfigError, match=r"runtime.device=cuda:1 counts all GPUs, but this process was given"
    ):
        leased("cuda:1").__enter__()


def test_what_is_not_leased(monkeypatch):
    with leased("cpu") as gpus:
        assert gpus == []
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv(VISIBLE, "1")
    with leased("auto"), leased("auto") as gpus:  # the cluster's decision
        assert gpus == [] and os.environ[VISIBLE] == "1"
    monkeypatch.setenv(FAKE, "")
    with leased("auto") as gpus:
        assert gpus == []


def test_cuda_gives_a_process_one_mig_instance(monkeypatch):
    monkeypatch.setenv(FAKE, "MIG-a,MIG-b")
    with pytest.raises(ConfigError, match="only one MIG instance"):
        leased("auto", 2).__enter__()
