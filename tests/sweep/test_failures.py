"""A failure is told whatever else fails: memory, the report's own folder, the terminal."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from midre_exp.errors import ConfigError, OutOfMemory, is_out_of_memory
from midre_exp.executor import Executor
from midre_exp.plan.explain import explain
from midre_exp.stages import STAGES
from midre_exp.store import files
from midre_exp.store.files import sha256
from midre_exp.store.streams import lasting_stderr, tell
from midre_exp.sweep.job import report_failure


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_short_memory_is_known_by_its_many_names(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error", [RuntimeError("shapes differ"), ValueError("out of memory"), OSError(5, "x"), None]
)
def test_other_errors_are_not(error: Exception | None) -> None:
    assert not is_out_of_memory(error)


SETTINGS: dict[str, Any] = {
    "runtime": {"chunk": 512},
    "target": {"recipe": {"batch_size": 64}},
    "evaluator": {"recipe": {"batch_size": 32}},
    "attack": {"prior": {"batch_size": 16}, "surrogates": {"batch_size": 8}, "search": {"batch": 25}},
}


@pytest.mark.parametrize(
    ("stage", "remedy"),
    [
        ("target", "lower target.recipe.batch_size (now 64), or set runtime.image_placement=mapped"),
        ("evaluator", "lower evaluator.recipe.batch_size (now 32)"),
        ("prior", "lower attack.prior.batch_size (now 16)"),
        ("surrogates", "lower attack.surrogates.batch_size (now 8)"),
        ("attack", "lower runtime.chunk (now 512) or attack.search.batch (now 25)"),
        ("metrics", "end other programs there, or set runtime.device=cpu"),
    ],
)
def test_each_stage_has_a_remedy_for_short_memory(stage: str, remedy: str) -> None:
    made = next(one for one in STAGES if one.name == stage)
    run = cast(
        Executor, SimpleNamespace(settings=SETTINGS, runtime=SimpleNamespace(device=torch.device("cpu")))
    )
    planned: Any = SimpleNamespace(name=stage, key="0123")
    with pytest.raises(OutOfMemory) as caught, Executor._memory_told(run, made, planned):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
    assert f"{stage} 0123: not enough memory on" in str(caught.value) and remedy in str(caught.value)
    with pytest.raises(ConfigError, match="as it was"), Executor._memory_told(run, made, planned):
        raise ConfigError("as it was")
    with pytest.raises(RuntimeError, match="a bug"), Executor._memory_told(run, made, planned):
        raise RuntimeError("a bug")


def test_a_report_that_cannot_be_kept_is_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "runs").write_text("a file where the folder should be")
    settings = {"setup": {"id": "demo"}}
    report_failure(tmp_path / "runs/failed/0123.json", settings, ConfigError("the cause"), trace="")
    assert "the report of this failure cannot be kept" in capsys.readouterr().err
    report_failure(tmp_path / "good/0123.json", settings, ConfigError("the cause"), trace="")
    assert "the cause" in (tmp_path / "good/0123.json").read_text()


def test_a_place_that_may_not_be_read_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "you may not read this" in explain(PermissionError(errno.EACCES, "denied", str(tmp_path)))
    assert "a folder you can write" in explain(PermissionError(errno.EACCES, "denied", str(tmp_path / "new")))


def test_a_file_that_cannot_be_read_to_its_end_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    file = tmp_path / "weights.pth"
    file.write_bytes(b"x")
    monkeypatch.setattr(files.Path, "open", lambda *_, **__: Broken())
    with pytest.raises(OSError) as caught:
        sha256(file)
    assert caught.value.filename == str(file)


class Gone(io.StringIO):
    """A stream whose reader has left."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")


def test_lost_output_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    tell("nobody reads this", Gone())
    monkeypatch.setattr(sys, "stderr", Gone())
    with lasting_stderr():
        print("progress", file=sys.stderr, flush=True)
    with pytest.raises(BrokenPipeError):
        print("outside", file=sys.stderr)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_stdout_or_stderr_changes_no_exit_code() -> None:
    code = (
        "from midre_exp.store.streams import lasting_stderr, tell\n"
        "import sys\n"
        "with lasting_stderr():\n"
        "    tell('done'); print('x', file=sys.stderr, flush=True); print('y', file=sys.stderr)\n"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, check=False)
    assert done.returncode == 0
