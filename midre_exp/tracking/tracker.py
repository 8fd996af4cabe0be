"""Live views of a run: nothing, or Weights & Biases. Records are the truth; a tracker only shows.

Each stage is one W&B run (job type = stage) in the group of its setup, and is always finished, also when the
stage fails: a second ``wandb.init`` in one process would otherwise be handed the first run. The run of the
last stage, ``metrics``, holds the record (`tracking/record.py`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.runtime import NoTracker, Tracker
from midre_exp.tracking.pictures import grid

if TYPE_CHECKING:
    import wandb

_NETRC = (Path("~/.netrc"), Path("~/_netrc"))
_HOSTS = ("api.wandb.ai", "api.forge.coreweave.com")  # W&B's own server, by its old and its new name
_BY_EPOCH = ("target", "evaluator", "pretraining", "evaluator_pretraining")  # stages that log by epoch
_LONGEST_TAG = 64  # characters that W&B takes


class WandbTracker:
    """Reports to one W&B run; ``pictures``: those of people too (``publish.people``)."""

    def __init__(self, run: wandb.Run, *, pictures: bool = False):
        self.run = run
        self.pictures = pictures

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at a step."""
        self.run.log({**values, "step": step})

    def images(self, name: str, images: Tensor, step: int) -> None:
        """One picture holding the whole grid, where it may be shown."""
        if not self.pictures:
            return
        import wandb  # slow; only needed here

        self.run.log({name: wandb.Image(grid(images)), "step": step})


def has_key() -> bool:
    """Whether there is a key to W&B: WANDB_API_KEY, or what ``wandb login`` left in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    file = Path(os.environ.get("NETRC") or next((p for p in _NETRC if p.expanduser().exists()), _NETRC[0]))
    base = os.environ.get("WANDB_BASE_URL")
    hosts = (urlsplit(base).hostname or "",) if base else _HOSTS
    try:
        known = netrc(file.expanduser())
        return any(known.authenticators(host) is not None for host in hosts)
    except (OSError, NetrcParseError):
        return False


def goes_online(settings: Mapping[str, Any]) -> bool:
    """Whether the ``mode`` of ``settings`` (conf/tracking) sends runs to the server: ``online``, which needs
    a key, and ``auto`` if there is one; ``offline`` does not.

    Raises ConfigError for another mode, and for ``online`` without a key.
    """
    mode = settings["mode"]
    if mode not in ("auto", "offline", "online"):
        raise ConfigError(f"tracking.mode={mode} is unknown; use off, offline, online or auto")
    if mode == "online" and not has_key():
        raise ConfigError(
            "tracking.mode=online needs a key; run wandb login, set WANDB_API_KEY, or use "
            "tracking.mode=offline"
        )
    return mode != "offline" and has_key()


@contextmanager
def wandb_run(
    settings: Mapping[str, Any],
    *,
    stage: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    folder: Path,
    name: str | None = None,
    identity: str | None = None,
) -> Iterator[wandb.Run]:
    """One W&B run, with its files in ``folder``; finished with the exit code 0 or 1 when the block ends.

    ``identity``: a run of this id is continued if the server has it, so that nothing is there twice. Raises
    ConfigError as ``goes_online`` and when the server cannot be reached.
    """
    online = goes_online(settings)
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(
            project=settings["project"],
            entity=settings["entity"],
            group=group,
            job_type=stage,
            name=name or f"{stage} {group}",
            tags=[tag if len(tag) <= _LONGEST_TAG else f"{tag[: _LONGEST_TAG - 3]}..." for tag in tags],
            config=dict(config),
            dir=str(folder),
            id=identity,
            resume="allow" if identity and online else None,
            mode="online" if online else "offline",
            reinit="finish_previous",
            settings=wandb.Settings(console="off", silent=True),
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"W&B cannot be reached ({reason}); use tracking.mode=offline and wandb sync later, or "
            "tracking=none"
        ) from error
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.finish(exit_code=int(failed))


@contextmanager
def track(
    settings: Mapping[str, Any],
    *,
    stage: str,
    group: str,
    tags: Sequence[str],
    config: Mapping[str, Any],
    folder: Path,
    pictures: bool = False,
) -> Iterator[Tracker]:
    """The tracker of one stage, as ``settings`` (conf/tracking) asks, with ``pictures`` where they may be
    shown. Closed when the block ends, with the exit code of its outcome.

    ``mode``: ``off``; ``offline``; ``online`` (needs a key); ``auto`` is online with a key and offline
    without.
    """
    if settings["mode"] == "off":
        yield NoTracker()
        return
    with wandb_run(settings, stage=stage, group=group, tags=tags, config=config, folder=folder) as run:
        run.define_metric("*", step_metric="epoch" if stage.partition(".")[0] in _BY_EPOCH else "step")
        yield WandbTracker(run, pictures=pictures)
