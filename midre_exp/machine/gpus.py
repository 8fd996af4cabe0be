"""The GPUs that this process may use, found without torch and without starting CUDA: what nvidia-smi lists,
or the driver's files in /proc, as far as CUDA_VISIBLE_DEVICES allows.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from midre_exp.errors import ConfigError

VISIBLE = "CUDA_VISIBLE_DEVICES"
#: For tests, and to see what a launcher would do elsewhere: GPUs in place of this machine's, separated by
#: commas, each ``NAME`` or ``NAME:TOTAL:FREE`` with its memory in MiB; empty: none.
FAKE = "MIDRE_FAKE_GPUS"

_MIB = 2**20
_DRIVER = Path("/proc/driver/nvidia/gpus")
_CARD = re.compile(r"GPU (\d+): (.+) \(UUID: (GPU-[^)]+)\)")
_INSTANCE = re.compile(r"\s+MIG (\S+)\s+Device\s+\d+: \(UUID: (MIG-[^)]+)\)")


@dataclass(frozen=True)
class Gpu:
    """One GPU, or one MIG instance of a GPU, which CUDA treats alike except that a process can use only one
    of them.
    """

    uuid: str
    index: int  #: among the cards of the machine, as nvidia-smi counts
    name: str
    visible_as: str  #: what CUDA_VISIBLE_DEVICES is set to, so that a process has this one alone
    total: int | None = None  #: bytes of memory, None where nobody tells, as for MIG instances
    free: int | None = None  #: of them, not used by any process

    @property
    def is_instance(self) -> bool:
        """Whether it is a part of a GPU (MIG)."""
        return self.uuid.startswith("MIG-")

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.name})"


def visible_gpus() -> list[Gpu]:
    """What CUDA would show this process, in its order; none where nobody tells of any, or where the torch
    that is installed cannot use one.
    """
    return chosen(_all_gpus(), os.environ.get(VISIBLE))


def show_gpus(mask: str | None) -> None:
    """Set CUDA_VISIBLE_DEVICES of this process, which CUDA reads when it starts; None: unset it."""
    if mask is None:
        os.environ.pop(VISIBLE, None)
    else:
        os.environ[VISIBLE] = mask


def _all_gpus() -> list[Gpu]:
    fake = os.environ.get(FAKE)
    if fake is not None:
        return _pretended(fake)
    return (_by_smi() or _by_driver()) if torch_uses_cuda() else []


def chosen(gpus: Sequence[Gpu], mask: str | None) -> list[Gpu]:
    """Those that a value of CUDA_VISIBLE_DEVICES names, in its order: indices, or UUIDs of GPUs and MIG
    instances, which may be abbreviated. As in CUDA the first entry that names none, or one twice, ends the
    list.
    """
    if mask is None:
        return list(gpus)
    found: list[Gpu] = []
    for entry in (part.strip() for part in mask.split(",")):
        if re.fullmatch(r"\d+", entry):
            named = [gpu for gpu in gpus if gpu.index == int(entry)][:1]  # of a divided card, its first part
        else:
            named = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
        if len(named) != 1 or named[0].uuid in {gpu.uuid for gpu in found}:
            break
        found.append(replace(named[0], visible_as=entry))
    return found


@cache
def torch_uses_cuda() -> bool:
    """Whether the installed torch was built for CUDA, by its version file; torch is not loaded."""
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    try:
        text = Path(spec.origin).with_name("version.py").read_text()
    except OSError:
        return True  # a torch of one's own: who knows
    return re.search(r"^cuda\b.*=\s*None\s*$", text, re.MULTILINE) is None


def _by_smi() -> list[Gpu]:
    """By nvidia-smi, a divided card as its MIG instances."""
    listed = _ask("-L")
    memory = _memory_by_smi() if _CARD.search(listed) else {}
    found: list[Gpu] = []
    for line in listed.splitlines():
        if card := _CARD.match(line):
            index, name, uuid = int(card[1]), card[2], card[3]
            found.append(Gpu(uuid, index, name, uuid, *memory.get(uuid, (None, None))))
        elif (part := _INSTANCE.match(line)) and found:
            last = found[-1]
            if not last.is_instance:
                found.pop()
            name = f"{last.name.partition(', MIG')[0]}, MIG {part[1]}"
            found.append(Gpu(part[2], last.index, name, part[2]))
    return found


def _memory_by_smi() -> dict[str, tuple[int, int]]:
    """Bytes in all and free, by the UUID of a card."""
    found = {}
    for row in _ask(
        "--query-gpu=uuid,memory.total,memory.free", "--format=csv,noheader,nounits"
    ).splitlines():
        uuid, *sizes = (field.strip() for field in row.split(","))
        if len(sizes) == 2 and all(size.isdigit() for size in sizes):
            found[uuid] = (int(sizes[0]) * _MIB, int(sizes[1]) * _MIB)
    return found


def _by_driver() -> list[Gpu]:
    """By the driver's files, where there is no nvidia-smi: only cards whose device file is here, since a
    container sees the driver's list of the whole machine.
    """
    found: list[Gpu] = []
    for index, folder in enumerate(sorted(_DRIVER.glob("*"))):
        try:
            text = (folder / "information").read_text()
        except OSError:
            continue
        facts = {name.strip(): value.strip() for name, _, value in map(_colon, text.splitlines())}
        uuid, minor = facts.get("GPU UUID", ""), facts.get("Device Minor", str(index))
        if Path(f"/dev/nvidia{minor}").exists():
            known = uuid.startswith("GPU-") and "?" not in uuid
            name = facts.get("Model", "NVIDIA")
            found.append(Gpu(uuid if known else f"GPU-at-{folder.name}", len(found), name, ""))
    return [replace(gpu, visible_as=str(gpu.index) if "-at-" in gpu.uuid else gpu.uuid) for gpu in found]


def _colon(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def _ask(*arguments: str) -> str:
    """What nvidia-smi says; nothing where it is missing or fails."""
    try:
        done = subprocess.run(
            ["nvidia-smi", *arguments], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _pretended(text: str) -> list[Gpu]:
    """The GPUs that ``MIDRE_FAKE_GPUS`` names. Raises ConfigError for text of another form."""
    found = []
    for index, entry in enumerate(part.strip() for part in text.split(",") if part.strip()):
        uuid, *memory = entry.split(":")
        if len(memory) not in (0, 2) or not all(part.isdigit() for part in memory):
            raise ConfigError(
                f"{FAKE}={text} is no list of NAME or NAME:TOTAL:FREE (MiB); correct or unset it"
            )
        total, free = (int(part) * _MIB for part in memory) if memory else (None, None)
        found.append(Gpu(uuid, index, "pretended", uuid, total, free))
    return found
