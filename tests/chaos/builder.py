"""``python -m tests.chaos.builder STORE LOG GO [elsewhere]``: a process that builds one artifact, as slowly
as the file GO takes to appear.

LOG gets a line when building begins and when it ends. ``elsewhere``: its lock says that it lives on another
machine, where nobody can ask for its process, so that only its heartbeat tells.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from midre_exp.store import lockfile as lockfiles
from midre_exp.store.store import Store, Workspace

BEAT_SECONDS, STALE_SECONDS = 0.1, 2.0
STAGE, KEY = "target", "0123456789abcdef"


def main() -> None:
    """Build, or wait for whoever builds; print the checksum of what there is in the end."""
    store, log, go, *elsewhere = sys.argv[1:]
    if elsewhere:
        lockfiles._machine = lambda: "elsewhere"  # type: ignore[assignment]

    def make(work: Workspace) -> None:
        note(log, "begins")
        until = time.monotonic() + 60
        while not Path(go).exists() and time.monotonic() < until:
            time.sleep(0.02)
        work.save_json("content", {"value": 1})
        note(log, "ends")

    place = Store(store, beat_seconds=BEAT_SECONDS, stale_seconds=STALE_SECONDS)
    built = place.build(STAGE, KEY, config={}, upstream={}, make=make)
    print(built.manifest["files"]["content.json"]["sha256"])


def note(log: str, what: str) -> None:
    """One line, whole whoever else writes."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{os.getpid()} {what}\n".encode())
    os.close(descriptor)


if __name__ == "__main__":
    main()
