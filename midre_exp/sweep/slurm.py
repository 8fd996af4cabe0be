"""What SLURM says of jobs, by ``squeue`` and ``scontrol``: not every site has accounting."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence

#: States from which a job does not come back unless it is requeued, which shows it as pending again.
ENDED = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    }
)

#: What the daemon that watches a job's processes writes into its log when they need too much memory.
_MEMORY = re.compile(r"^slurmstepd.*(memory limit|oom.kill)", re.IGNORECASE | re.MULTILINE)

#: What a user can do about a job that ended so; for all others there is AGAIN.
REMEDIES = {
    "OUT_OF_MEMORY": "raise hydra.launcher.mem_gb or lower runtime.chunk",
    "TIMEOUT": "raise hydra.launcher.timeout_min",
    "DEADLINE": "raise hydra.launcher.timeout_min",
}
AGAIN = "launch the same sweep again to go on where it stopped"


def states() -> dict[str, str] | None:
    """The state of every job of this user that SLURM remembers, by id (``12``, of an array ``12_3``); None
    when it does not answer.
    """
    command = ["squeue", "--noheader", "--states=all", "--array", "--format=%i %T", f"--user={os.getuid()}"]
    answer = _ask(command, seconds=60)
    if answer is None:
        return None
    return {name: state for name, _, state in (row.partition(" ") for row in answer.splitlines())}


def is_being_preempted(job: str) -> bool:
    """Whether a running job has been told to make room: SLURM requeues it only if it is still there when its
    grace is over.

    False also when SLURM does not answer within three seconds.
    """
    answer = _ask(["scontrol", "show", "job", job], seconds=3)
    facts = dict(fact.partition("=")[::2] for fact in (answer or "").split())
    return facts.get("JobState") == "RUNNING" and facts.get("PreemptTime", "None") != "None"


def ending(state: str, log: str) -> str:
    """The state in which a job ended, more precisely by its log: where SLURM cannot count kills for memory it
    says FAILED.
    """
    return "OUT_OF_MEMORY" if state == "FAILED" and _MEMORY.search(log) else state


def remedy(state: str) -> str:
    """What to do about a job that ended in ``state`` without a result."""
    return REMEDIES.get(state, AGAIN)


def _ask(command: Sequence[str], *, seconds: float) -> str | None:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds).stdout
    except (OSError, subprocess.SubprocessError):
        return None
