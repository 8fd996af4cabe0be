"""``make rehearse``: what needs a GPU, on a pretended one: `python -m tests.rehearsal [PYTEST-ARGUMENTS]`.

Compiles a stub of six lines that answers for a driver and starts pytest behind it. Without arguments: the
setups of tests/rehearsal and all tests marked ``gpu``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from tests.rehearsal.machine import STUB

HERE = Path(__file__).parent


def obstacle() -> str | None:
    """Why there can be no pretended GPU here; None if there can."""
    if not sys.platform.startswith("linux"):
        return "the rehearsal preloads a stub of the CUDA driver, which works on Linux alone"
    if not torch.backends.cuda.is_built():
        return f"the rehearsal needs torch with CUDA (but no GPU), which torch {torch.__version__} is not"
    if torch.cuda.is_available():
        return "there is a GPU here, nothing to pretend; run python -m pytest -m gpu"
    if compiler() is None:
        return "the rehearsal compiles a stub of six lines of C and finds no cc, gcc or clang; install one"
    return None


def compiler() -> str | None:
    """The first C compiler on the path."""
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def rehearse(arguments: Sequence[str]) -> int:
    """Pytest's exit code on a pretended GPU. ``obstacle`` is None."""
    with TemporaryDirectory(prefix="midre-rehearsal-") as folder:
        stub = Path(folder) / "libcuda.so.1"  # by its name the loader takes it for the driver
        build = [str(compiler()), "-shared", "-fPIC", f"-Wl,-soname,{stub.name}", "-o", str(stub)]
        subprocess.run([*build, str(HERE / "stub.c")], check=True)
        environment = {**os.environ, STUB: str(stub), "LD_PRELOAD": str(stub), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-p", "tests.rehearsal.plugin", *arguments]
        return subprocess.run(command, env=environment, cwd=HERE.parents[1]).returncode


def main(arguments: Sequence[str]) -> int:
    """Exit code: pytest's, or 2 with one sentence where there can be no pretended GPU."""
    if reason := obstacle():
        print(reason, file=sys.stderr)
        return 2
    marks = [] if "-m" in arguments else ["-m", "(rehearsal or gpu) and not slow"]
    return rehearse([*marks, *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
