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


#: What keeps a job pending, by the beginnings or ends of SLURM's names for it: what that means and what to
#: change, and whether it may go away by itself. The first that fits counts.
_REASONS: tuple[tuple[str, bool, str], ...] = (
    (
        r"PartitionTimeLimit|.*MaxWall.*|.*TimeLimit.*",
        False,
        "they ask for more time than is allowed there and will never start; lower "
        "hydra.launcher.timeout_min (sinfo -o '%P %l' shows the limits) or choose another "
        "hydra.launcher.partition",
    ),
    (
        r"PartitionNodeLimit|.*MaxNode.*",
        False,
        "they ask for more nodes than are allowed there; set hydra.launcher.nodes=1 or choose another "
        "hydra.launcher.partition",
    ),
    (
        r"PartitionDown|PartitionInactive",
        False,
        "their partition takes no jobs now; choose another hydra.launcher.partition (sinfo lists them)",
    ),
    (
        r"BadConstraints",
        False,
        "no node has what they ask for; change hydra.launcher.constraint, mem_gb, cpus_per_task or "
        "gpus_per_node",
    ),
    (
        r"InvalidAccount|AccountNotAllowed|.*AccountLimit",
        False,
        "the account may not be used there; correct hydra.launcher.account",
    ),
    (r"InvalidQOS|QOSNotAllowed", False, "this QOS may not be used there; correct hydra.launcher.qos"),
    (
        r"QOSUsageThreshold|QOSTimeLimit",
        False,
        "the QOS has used up what it may; choose another hydra.launcher.qos or account",
    ),
    (
        r"(QOS|Assoc)(Max|Min)(Cpu|CPU).*",
        False,
        "they are beyond the CPUs that the QOS or account allows; lower hydra.launcher.cpus_per_task or, "
        "where all jobs of a user count together, wait for the others",
    ),
    (
        r"(QOS|Assoc)(Max|Min)(GRES|Gres).*",
        False,
        "they are beyond the GPUs that the QOS or account allows; lower hydra.launcher.gpus_per_node or, "
        "where all jobs of a user count together, wait for the others",
    ),
    (
        r"(QOS|Assoc)(Max|Min)Mem.*",
        False,
        "they are beyond the memory that the QOS or account allows; lower hydra.launcher.mem_gb or, where "
        "all jobs of a user count together, wait for the others",
    ),
    (
        r"(QOS|Assoc)(Max|Grp).*(Jobs|Submit).*|JobArrayTaskLimit",
        True,
        "as many jobs run as are allowed at a time; they start when others end "
        "(hydra.launcher.array_parallelism is the sweep's own limit)",
    ),
    (
        r"(QOS|Assoc)(Max|Grp).*",
        True,
        "the QOS, account or group uses all that it may at a time; they start when others end, or "
        "choose another hydra.launcher.qos or account",
    ),
    (
        r"JobHeld.*",
        False,
        "somebody holds them; scontrol release JOB lets them go, if it was you",
    ),
    (
        r"Reservation|ReqNodeNotAvail.*|MaintenanceDown|NodeDown|Nodes_required_for_job.*",
        True,
        "the nodes they could use are down or reserved, often for maintenance; they start when these come "
        "back (scontrol show reservation)",
    ),
    (r"Resources", True, "they are next, and wait for nodes to become free"),
    (r"Priority", True, "jobs of higher priority go first (squeue --start may say until when)"),
    (r"BeginTime|Cleaning", True, "they were queued again and start within two minutes"),
    (r"Licenses|BurstBuffer.*|Dependency.*", True, "they wait for something else to be free or done"),
)


def reason(name: str) -> tuple[str, bool]:
    """What SLURM's name for why a job is pending means and what to do, and whether it goes away by itself."""
    for pattern, passes, text in _REASONS:
        if re.fullmatch(pattern, name):
            return text, passes
    return "see man squeue, JOB REASON CODES", True


def states() -> dict[str, str] | None:
    """The state of every job of this user that SLURM remembers, by id (``12``, of an array ``12_3``); None
    when it does not answer.
    """
    found = queue()
    return None if found is None else {name: state for name, (state, _) in found.items()}


def queue() -> dict[str, tuple[str, str]] | None:
    """As ``states``, with the reason for which a job is pending."""
    wanted = "--format=%i %T %r"
    answer = _ask(
        ["squeue", "--noheader", "--states=all", "--array", wanted, f"--user={os.getuid()}"], seconds=60
    )
    if answer is None:
        return None
    rows = [row.split(None, 2) for row in answer.splitlines() if len(row.split()) > 1]
    return {row[0]: (row[1], row[2].strip() if len(row) > 2 else "") for row in rows}


def rename(job: str, name: str) -> None:
    """Give a job a name of its own, which those of an array have in common at first. A SLURM that refuses is
    left alone: it is only a name.
    """
    _ask(["scontrol", "update", f"jobid={job}", f"jobname={name}"], seconds=10)


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
