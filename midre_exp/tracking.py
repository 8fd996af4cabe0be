"""Live views of a run: nothing, or Weights & Biases. Records are the truth; a tracker only shows.

Each stage is one W&B run (job type = stage) in the group of its setup, and is always finished, also when the stage fails: a second
``wandb.init`` in one process would otherwise be handed the first run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from torch import Tensor

from midre_exp.errors import ConfigError


_NETRC = (Path("~/.netrc"), Path("~/_netrc"))


class Tracker(Protocol):
    """What a stage may report while it runs."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at a step."""
        ...

    def images(self, name: str, images: Tensor, step: int) -> None:
        """A grid of images, float [n, 3, h, w] in [0, 1] or uint8."""
        ...


class NoTracker:
    """Reports nothing."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def images(self, name: str, images: Tensor, step: int) -> None:
        """Do nothing."""


class WandbTracker:
    """Reports to one W&B run."""

    def __init__(self, run: Any):
        self.run = run

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at a step."""
        self.run.log({**values, "step": step})

    def images(self, name: str, images: Tensor, step: int) -> None:
        """One picture holding the whole grid."""
        import wandb

        from midre_exp.report.pictures import grid

        self.run.log({name: wandb.Image(grid(images)), "step": step})


def has_key() -> bool:
    """Whether W&B can be reached in somebody's name: WANDB_API_KEY, or what ``wandb login`` left in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC") or next((p for p in _NETRC if p.expanduser().exists()), _NETRC[0]))
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc(file.expanduser()).authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


@contextmanager
def track(
    settings: Mapping[str, Any],
    *,
    stage: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    folder: Path,
) -> Iterator[Tracker]:
    """The tracker of one stage, as ``settings`` (conf/tracking) asks. Closed when the block ends, with the exit code of its outcome.

    ``mode``: ``off``; ``offline``; ``online`` (needs WANDB_API_KEY); ``auto`` is online with a key and offline without.
    """
    mode = settings["mode"]
    if mode == "off":
        yield NoTracker()
        return
    if mode not in ("auto", "offline", "online"):
        raise ConfigError(f"tracking.mode={mode} is unknown; use off, offline, online or auto")
    has_key = bool(os.environ.get("WANDB_API_KEY"))
    if mode == "online" and not has_key:
        raise ConfigError(
            "tracking.mode=online needs WANDB_API_KEY in the environment; set it or use tracking.mode=offline"
        )
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=settings["project"],
        entity=settings["entity"],
        group=group,
        job_type=stage,
        name=f"{stage} {group}",
        tags=list(tags),
        config=dict(config),
        dir=str(folder),
        mode="online" if has_key and mode != "offline" else "offline",
        reinit="finish_previous",
        settings=wandb.Settings(console="off", silent=True),
    )
    failed = True
    try:
        yield WandbTracker(run)
        failed = False
    finally:
        run.finish(exit_code=int(failed))
