"""How many runs of a sweep this machine works on at a time: a GPU each, where there are GPUs, and as many as
its cores and its free memory carry.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from midre_exp.errors import ConfigError
from midre_exp.machine.gpus import visible_gpus
from midre_exp.machine.memory import free_host_memory
from midre_exp.plan.suite import is_suite, runs_of
from midre_exp.store.streams import tell
from midre_exp.sweep.leases import check_count

#: Bytes of main memory of a run besides its pictures: torch, a training, what reads ahead (measured at mini:
#: 1 to 1.5 GB). Images of data sets are memory-mapped and count for nothing.
RUN_MEMORY = 2 * 10**9


def at_a_time(launcher: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> int | None:
    """How many of the ``runs`` (resolved configs) a launcher of this machine works on at a time; None for a
    cluster, where waiting jobs keep nobody else from running. Says what bounds them. Raises ConfigError for
    ``local_gpus`` where there is no GPU for each run, or where runs name one themselves.
    """
    kind = str(launcher["_target_"]).rpartition(".")[2]
    if kind == "BasicLauncher":
        _tell_of_idle_gpus(runs)
        return 1
    if kind == "LocalGpusLauncher":
        check_leased(runs)
    elif kind != "LocalLauncher" and "n_jobs" not in launcher:  # LocalLauncher: submitit's
        return None
    asked = int(launcher.get("n_jobs", -1) or 1)  # joblib: -1 is one for each core, -2 one less
    wanted = asked if asked > 0 else max(1, (os.cpu_count() or 1) + 1 + asked)
    bounds = {"GPUs": gpu_bound(runs), "free memory": memory_bound(runs)}
    if asked > 0:  # somebody has said how many, but only ``cuda:N`` puts several runs on one GPU
        bounds = {"GPUs": bounds["GPUs"] if not all(map(_names_gpu, runs)) else None}
    found = {name: bound for name, bound in bounds.items() if bound is not None}
    if kind == "LocalGpusLauncher":
        wanted = found["GPUs"]
    name = min(found, key=lambda name: found[name], default="")
    most = min(wanted, found.get(name, wanted))
    if name and most < min(wanted, len(runs)):
        tell(f"{most} at a time: more is not possible with the {name} of this machine")
    return most


def gpu_bound(runs: Sequence[Mapping[str, Any]]) -> int | None:
    """How many of the runs can have GPUs of their own at the same time; None where they need none, or nobody
    knows of any.
    """
    devices = {str(run["runtime"]["device"]) for run in runs}
    named = {device for device in devices if device.startswith("cuda:")}
    gpus = visible_gpus() if named or not devices.isdisjoint({"auto", "cuda"}) else []
    if not gpus:
        return None
    if devices.isdisjoint({"auto", "cuda"}):
        return len(named)
    return max(1, len(gpus) // max(int(run["runtime"]["devices"]) for run in runs))


def memory_bound(runs: Sequence[Mapping[str, Any]]) -> int | None:
    """How many of the runs fit into the main memory that is free; at least one. None where nobody tells."""
    free = free_host_memory()
    return None if free is None else max(1, int(free // max(map(host_memory, runs))))


def host_memory(run: Mapping[str, Any]) -> float:
    """Bytes of main memory that a run may take: at the end of an attack its reconstructions are there twice,
    in parts and as a whole.
    """
    if is_suite(run):
        return max(map(host_memory, runs_of(run)))
    attack = run["attack"]
    sizes = [step["size"] for step in attack.get("picture") or [] if "size" in step]
    size = int(sizes[-1] if sizes else run["resolution"])
    return RUN_MEMORY + 2 * 3 * size**2 * int(attack["identities"]) * int(attack["restarts"])


def check_leased(runs: Sequence[Mapping[str, Any]]) -> None:
    """Raise ConfigError for runs that cannot be given a GPU each."""
    for run in runs:
        device = str(run["runtime"]["device"])
        if device not in ("auto", "cuda"):
            raise ConfigError(
                f"runtime.device={device} contradicts hydra/launcher=local_gpus, which gives each run "
                "a GPU of its own; leave out runtime.device, or use hydra/launcher=joblib"
            )
    gpus = visible_gpus()
    if not gpus:
        raise ConfigError(
            "hydra/launcher=local_gpus finds no GPU that torch could use here (nvidia-smi -L, "
            "CUDA_VISIBLE_DEVICES); use hydra/launcher=joblib"
        )
    for run in runs:
        check_count(gpus, int(run["runtime"]["devices"]))


def _names_gpu(run: Mapping[str, Any]) -> bool:
    return str(run["runtime"]["device"]).startswith("cuda:")


def _tell_of_idle_gpus(runs: Sequence[Mapping[str, Any]]) -> None:
    possible = gpu_bound(runs) or 1
    if min(possible, len(runs)) > 1:
        tell(
            f"these runs go one after another, though GPUs for {possible} at a time are here; "
            "hydra/launcher=local_gpus uses them all"
        )
