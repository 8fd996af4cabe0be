"""A SLURM cluster of one node in a temporary folder: munged, slurmctld and slurmd as children of this
process, under its own user.

Nothing of the system's own configuration is read or changed; all commands find this cluster by
``SLURM_CONF``.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from getpass import getuser
from pathlib import Path

DAEMONS = ("munged", "slurmctld", "slurmd")
COMMANDS = ("sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")
#: Where Debian keeps daemons; not on every user's PATH.
PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in (*DAEMONS, *COMMANDS) if shutil.which(name, path=PATH) is None]


def configuration(folder: Path, ports: tuple[int, int]) -> str:
    """The text of slurm.conf: four pretended CPUs, two pretended GPUs, and a partition that may preempt the
    other.
    """
    name, user = socket.gethostname().partition(".")[0], getuser()
    return f"""
ClusterName=midre
SlurmctldHost={name}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
# cred_expire is also how long a requeued job has to wait; two minutes unless set
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=3
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
MaxArraySize=4
GresTypes=gpu
NodeName={name} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 Gres=gpu:2
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=25 MaxTime=60
PartitionName=high Nodes=ALL PriorityTier=10 MaxTime=60
"""


def free_ports() -> tuple[int, int]:
    """Two ports nobody listens on now."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


@contextmanager
def single_node() -> Iterator[dict[str, str]]:
    """The environment in which every SLURM command speaks to a cluster that exists within the block."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short, for a socket's path has 107 bytes
    daemons: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")}
    try:
        for name in ("state", "spool"):
            (folder / name).mkdir()
        (folder / "slurm.conf").write_text(configuration(folder, free_ports()))
        (folder / "gres.conf").write_text("Name=gpu File=/dev/null\nName=gpu File=/dev/zero\n")
        key = folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
        munge += [f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed", "--num-threads=2"]
        munge += [f"--log-file={folder}/munged.log"]
        for command in (munge, ["slurmctld", "-D", "-c"], ["slurmd", "-D"]):
            with (folder / f"{command[0]}.out").open("wb") as output:
                daemons.append(
                    subprocess.Popen(
                        command,
                        env=environment,
                        stdout=output,
                        stderr=output,
                        stdin=subprocess.DEVNULL,
                        start_new_session=True,
                    )
                )
            if command is munge:
                _until(lambda: (folder / "munge.socket").exists(), 30, folder)
        _until(lambda: _is_up(environment), 90, folder)
        yield environment
    finally:
        if len(daemons) == 3:
            subprocess.run(["scancel", "--signal=KILL", "--full", "--user", getuser()], env=environment)
            subprocess.run(["scancel", "--user", getuser()], env=environment)
            time.sleep(1)
        for daemon in reversed(daemons):
            _end(daemon)
        shutil.rmtree(folder, ignore_errors=True)


def _is_up(environment: dict[str, str]) -> bool:
    said = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True
    )
    return said.returncode == 0 and "idle" in said.stdout


def _until(condition: Callable[[], bool], seconds: float, folder: Path) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            logs = "\n".join(f"--- {file.name}\n{file.read_text()[-3000:]}" for file in folder.glob("*.log"))
            raise RuntimeError(f"SLURM did not start within {seconds} s\n{logs}")
        time.sleep(0.2)


def _end(daemon: subprocess.Popen[bytes]) -> None:
    if daemon.poll() is None:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(timeout=15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
