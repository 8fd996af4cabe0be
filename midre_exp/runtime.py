"""How a run is executed, as opposed to what it computes: devices, threads, progress, checkpoints. Nothing of
it enters a key but the numerics, a node of their own.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from midre_exp.errors import ConfigError
from midre_exp.machine.memory import free_host_memory
from midre_exp.numerics import Numerics
from midre_exp.store.progress import Progress, Values, configure, display_of, say

T = TypeVar("T")

#: ``runtime.chunk=auto``: reconstructions optimised together at most, however much memory there is.
MOST = 512

#: Where the images of a training set lie while batches are gathered from them; see ``place_images``.
Placement = Literal["auto", "mapped", "ram", "device"]


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


@dataclass(frozen=True)
class Runtime:
    """What every stage is given besides its inputs (the ``runtime`` node of conf/config.yaml)."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))  #: the first, and usually only
    numerics: Numerics = field(default_factory=Numerics)  #: how networks compute
    devices: int = 1  #: GPUs from ``device`` on, or CPU processes, that train one classifier together
    progress: bool = False  #: draw progress bars
    log_every: float = 0.0  #: without bars: seconds between two lines of a loop; 0: none
    image_placement: Placement = "auto"  #: memory from which training batches are gathered
    chunk: int = MOST  #: reconstructions optimised together, at most; never changes a result
    is_planned: bool = False  #: fewer, where by what a few of them take they would not fit into free memory
    checkpoint_seconds: float = 180.0  #: between checkpoints of long loops; 0: after every step
    clock: Callable[[], float] = time.monotonic  #: what these seconds are counted by
    tracker: Tracker = field(default_factory=NoTracker)  #: of the stage that is being made
    quiet: bool = False  #: print no line per stage

    def say(self, sentence: str) -> None:
        """Print one line on stderr without tearing a progress bar."""
        if not self.quiet:
            say(sentence)

    def bar(
        self,
        steps: Iterable[T],
        title: str,
        total: int | None = None,
        done: int = 0,
        values: Values | None = None,
    ) -> Iterator[T]:
        """Iterate with a progress bar and a time estimate; ``done`` steps of an earlier attempt count as
        finished. Without bars there is a line every ``log_every`` seconds, with the ``values`` of the moment,
        which are asked for only then.
        """
        if total is None and isinstance(steps, Sized):
            total = len(steps)
        with self.shown(title, total, done) as shown:
            for step in steps:
                yield step
                shown.update(values=values)

    def shown(self, title: str, total: int | None = None, done: int = 0) -> Progress:
        """The same for a loop that counts by itself."""
        return Progress(title, total, done, bars=self.progress, every=self.log_every, say=self.say)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread within: on small tensors beside a sweep that has all cores, torch's threads
    would mostly wait for each other.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@cache
def pass_over_libraries() -> None:
    """Once in a program, before its first run: the objects of libraries, hundreds of thousands, are never
    garbage, so that the collection after each stage need not look at them. Not for a notebook, where a user's
    models would count among them.
    """
    gc.collect()
    gc.freeze()


def give_memory_back(device: torch.device) -> None:
    """Free what nothing refers to any more: Python collects the reference cycles of a finished training, and
    torch gives its cache of GPU memory back to the driver, for other stages, ranks and programs.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Bytes that can be allocated on a device: what the driver, or the operating system, has free, and what
    torch keeps of its own without using it. None where nobody tells.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    return free_host_memory() if device.type == "cpu" else None


def choose_device(name: str, option: str = "runtime.device") -> torch.device:
    """The device called ``name``, any torch device string; ``auto`` is the first GPU if there is one, else
    the CPU. Raises ConfigError for a device that is not there; ``option``: where the name was given.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{option}={name} is no torch device; use auto, cpu, cuda or cuda:N") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{option}={name}, but torch sees no GPU here; use {option}=cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        last = torch.cuda.device_count() - 1
        raise ConfigError(
            f"{option}={name}, but the last GPU that torch sees is cuda:{last}; use {option}=auto"
        )
    return device


def check_devices(device: torch.device, count: int) -> None:
    """Raise ConfigError unless there are ``count`` devices from ``device`` on; a CPU takes any number of
    processes.
    """
    if count == 1 or device.type == "cpu":
        return
    if device.type != "cuda":
        raise ConfigError(
            f"runtime.devices={count} trains on GPUs or CPU processes, not on {device}; use runtime.devices=1"
        )
    first, available = device.index or 0, torch.cuda.device_count()
    if first + count > available:
        remedy = f"devices={available - first} or fewer" if first < available else "device=cuda"
        raise ConfigError(
            f"runtime.devices={count} from cuda:{first} on, but torch sees {available} "
            f"GPU{'s' * (available != 1)}; use runtime.{remedy}"
        )


def make_runtime(settings: Mapping[str, Any], numerics: Numerics | None = None) -> Runtime:
    """The runtime that a config's ``runtime`` node describes, with plain numerics unless some are given; sets
    torch's number of threads. Raises ConfigError for devices that are not there.
    """
    if settings["threads"]:
        torch.set_num_threads(int(settings["threads"]))
    configure(settings)
    progress, log_every = display_of(settings)
    device, devices = choose_device(settings["device"]), int(settings["devices"])
    check_devices(device, devices)
    return Runtime(
        device=device,
        numerics=numerics or Numerics(),
        devices=devices,
        progress=progress,
        log_every=log_every,
        image_placement=settings["image_placement"],
        chunk=MOST if settings["chunk"] == "auto" else int(settings["chunk"]),
        is_planned=settings["chunk"] == "auto",
        checkpoint_seconds=float(settings["checkpoint_seconds"]),
        quiet=bool(settings["quiet"]),
    )
