"""Which GPUs a process may use, from what nvidia-smi says of invented machines."""

from __future__ import annotations

import pytest

from midre_exp.errors import ConfigError
from midre_exp.machine import gpus, memory
from midre_exp.machine.gpus import FAKE, VISIBLE, chosen, visible_gpus

LISTED = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-b1b2b3b4-0001)
  MIG 3g.20gb     Device  0: (UUID: MIG-aaaa-1)
  MIG 1g.5gb      Device  1: (UUID: MIG-bbbb-2)
"""
MEMORY = "GPU-5c89852c-d268, 40960, 40000\nGPU-b1b2b3b4-0001, 40960, [N/A]"


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """An nvidia-smi that lists two cards, the second one divided."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\ncase $1 in -L) cat <<'E'\n{LISTED}E\n;; *) cat <<'E'\n{MEMORY}\nE\n;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv(FAKE, raising=False)
    monkeypatch.delenv(VISIBLE, raising=False)
    monkeypatch.setattr(gpus, "torch_uses_cuda", lambda: True)
    return program


def test_a_divided_card_is_its_instances(smi):
    whole, *parts = visible_gpus()
    assert (whole.uuid, whole.index, whole.name) == ("GPU-5c89852c-d268", 0, "NVIDIA A100-SXM4-40GB")
    assert (whole.total, whole.free) == (40960 * 2**20, 40000 * 2**20)
    assert [(part.uuid, part.index, part.is_instance) for part in parts] == [
        ("MIG-aaaa-1", 1, True),
        ("MIG-bbbb-2", 1, True),
    ]
    assert str(parts[1]) == "GPU 1 (NVIDIA A100-SXM4-40GB, MIG 1g.5gb)"


def test_a_failing_nvidia_smi_leaves_what_the_driver_says(smi, tmp_path, monkeypatch):
    smi.write_text("#!/bin/sh\necho Failed to initialize NVML\nexit 18\n")
    monkeypatch.setattr(gpus, "_DRIVER", tmp_path / "driver")
    assert visible_gpus() == []
    for name, uuid, minor in (("0000:07:00.0", "GPU-abc", 9999), ("0000:08:00.0", "GPU-????", 0)):
        (tmp_path / "driver" / name).mkdir(parents=True)
        text = f"Model: \t\t NVIDIA A100\nGPU UUID: \t {uuid}\nDevice Minor: \t {minor}\n"
        (tmp_path / "driver" / name / "information").write_text(text)
    assert visible_gpus() == []  # the machine has them, this container has no /dev/nvidia*


def test_a_torch_without_cuda_has_no_gpu(smi, monkeypatch):
    monkeypatch.setattr(gpus, "torch_uses_cuda", lambda: False)
    assert visible_gpus() == []


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (None, "abc"),
        ("", ""),
        ("-1", ""),
        ("NoDevFiles", ""),
        ("2,0", "ca"),
        ("0,7,1", "a"),  # as in CUDA, what comes after an unknown one is not seen
        ("1,1", "b"),
        ("GPU-b", "b"),
        ("GPU-c0, GPU-a", "ca"),
        ("GPU-", ""),  # of which there are several
    ],
)
def test_cuda_visible_devices_chooses(mask, expected):
    every = gpus._pretended("GPU-a,GPU-b,GPU-c0")
    found = chosen(every, mask)
    assert "".join(gpu.uuid[4] for gpu in found) == expected
    if mask is not None:  # what is set for a run is what the user wrote
        assert [gpu.visible_as for gpu in found] == [part.strip() for part in mask.split(",")][: len(found)]


def test_pretended_gpus(monkeypatch):
    monkeypatch.setenv(FAKE, "GPU-a:81920:1024,GPU-b")
    monkeypatch.setenv(VISIBLE, "1,0")
    second, first = visible_gpus()
    assert (first.free, second.free, second.index) == (1024 * 2**20, None, 1)
    monkeypatch.setenv(FAKE, "GPU-a:x")
    with pytest.raises(ConfigError, match="MIDRE_FAKE_GPUS=GPU-a:x is no list"):
        visible_gpus()


def test_free_memory_is_what_the_narrowest_group_leaves(tmp_path, monkeypatch):
    free = memory.free_host_memory()
    assert free is None or free > 0
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "_machine", lambda: [10 * 2**30])
    for folder, limit in ((tmp_path, "max"), (tmp_path / "job", 4 * 2**30)):
        folder.mkdir(exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{3 * 2**30}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {2**30}\n")
    monkeypatch.setattr(memory, "_own_groups", lambda: ["0::/job/step"])
    assert memory.free_host_memory() == 2 * 2**30
