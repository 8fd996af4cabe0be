"""The work of a rank that fails, in a module that is quickly imported by a new process."""

from __future__ import annotations

import os
import time

import torch.distributed as dist


def fail(how, rank, sender):
    """Rank 1 raises ``how``, or sends itself the signal ``how``, while rank 0 waits for it."""
    if rank == 0:
        dist.barrier()
    elif isinstance(how, Exception):
        raise how
    else:
        os.kill(os.getpid(), how)
        time.sleep(60)
