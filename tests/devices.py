"""On which devices a contract holds: on the CPU in every suite, on a GPU with ``-m gpu``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
each_device = pytest.mark.parametrize(
    "device", [pytest.param(CPU, id="cpu"), pytest.param(CUDA, id="cuda", marks=pytest.mark.gpu)]
)


@contextmanager
def never_waiting() -> Iterator[None]:
    """Raise where the CPU waits for the GPU within."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
