"""What a stage of a run is: one step from settings and earlier artifacts to an artifact of its own.

Every stage answers the same questions under the same names, in one file of this folder: what enters its key
(``inputs``, ``upstream``), whether its settings can work (``check``), how it is made (``make``) and taken up
again (``load``, where later stages do), what to call it (``describe``) and what it lacks on this machine
(``needs``). Plan, preflight, estimate, doctor and executor loop over the stages and know none of them.

Planning imports the stages and must not wait for torch: packages such as ``priors`` load what they hold when
it is first used.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from midre_exp.plan.config import Settings, Trusted, trusted_packages
from midre_exp.plan.keys import StageKey
from midre_exp.store.artifact import Artifact, Workspace
from midre_exp.store.store import Store

if TYPE_CHECKING:  # torch
    from midre_exp.numerics import Numerics
    from midre_exp.runtime import Runtime
    from midre_exp.stages.parts import Parts

#: The fingerprint of the ``private``, ``public`` or ``evaluation`` images of a run.
Fingerprint = Callable[[str], Mapping[str, object]]
#: The value that a key stands for: looked up once, by calling the second, and remembered.
Remember = Callable[[object, Callable[[], Any]], Any]


@dataclass(frozen=True)
class Requirement:
    """Something that a run needs and that is not here (``blocks``: it would fail, or take forever), or that
    is worth knowing. ``name`` is for a table, ``text`` one sentence or more with the remedy.
    """

    blocks: bool
    name: str
    text: str


@dataclass(frozen=True)
class Job:
    """A stage that is being made: settings and parts of the run, its key, the folder to fill, how to execute
    it.
    """

    settings: Settings
    parts: Parts
    planned: StageKey
    store: Store
    work: Workspace
    runtime: Runtime

    @property
    def numerics(self) -> Numerics:
        """How its networks compute."""
        return self.runtime.numerics

    @property
    def trusted(self) -> Trusted:
        """Packages of the user's own whose classes a config may name."""
        return trusted_packages(self.settings)


class Stage(ABC):
    """Base of all stages."""

    #: Its name in plans, records and the store.
    name: str
    #: Raised by one when the code computes something else from the same settings: older artifacts are then
    #: not reused.
    version: int = 1
    #: Modules of ours that compute it, whatever classes its settings name: with these and what both import,
    #: the code it is made by. Its digest stands in the manifest, and tells older artifacts from new ones.
    makers: tuple[str, ...] = ()
    #: Numbers of a finished artifact that are worth a word, each with its text.
    highlights: Mapping[str, str] = {}
    #: Whether its artifact only spares later stages what they would compute themselves, number for number: no
    #: key but its own names it, and it is made only where one of them is about to be.
    is_intermediate: bool = False
    #: Of an intermediate one, whether what later stages compute depends on it, so that their keys name it; it
    #: is still made only where one of them is about to be.
    changes_later: bool = False
    #: Whether the key of a run names it: not what only says more about what the others have made, so that a
    #: run is the same one with it and without.
    in_run_key: bool = True
    #: Whether it is followed by a tracker of its own.
    is_tracked: bool = True
    #: Fill ``job.work`` with the result: ``make(job, *inputs)``, the inputs being those that run.py names,
    #: stages as their artifacts (None for a stage that the run has not, or that this one does not build on).
    make: Callable[..., None]

    def planned(self, settings: Settings, key: StageKey) -> StageKey:
        """Under which name and key a run with these settings makes it; ``key``: as its inputs give it."""
        return key

    def sees(self, settings: Settings) -> Settings:
        """The settings by whose data it is made."""
        return settings

    def is_part_of(self, settings: Settings) -> bool:
        """Whether a run with these settings has it."""
        return True

    @abstractmethod
    def inputs(self, settings: Settings, fingerprint: Fingerprint) -> dict[str, Any]:
        """What enters its key besides the keys of the stages it builds on: settings, seeds, fingerprints."""

    def upstream(self, settings: Settings) -> tuple[str, ...]:
        """The names of the stages it builds on, those that the run has not included."""
        return ()

    @abstractmethod
    def check(self, settings: Settings, parts: Parts) -> None:
        """Preflight: make what it is going to need once, without memory for weights. Raises UserError for
        what cannot be made; what only images or weights show, ``make`` finds out.
        """

    @abstractmethod
    def describe(self, settings: Settings) -> str:
        """What it is, in a few words: stages described alike take about the same time. ``settings`` may come
        from a record.
        """

    def needs(self, settings: Settings, remember: Remember) -> Iterator[Requirement]:
        """What it lacks on this machine. Raises UserError for settings that cannot be looked at."""
        return iter(())

    def accept(self, settings: Settings, artifact: Artifact) -> None:
        """Raise UserError for a finished artifact that these settings do not let later stages build on."""
        return

    def memory_remedy(self, settings: Settings) -> str:
        """What to do when making it takes more memory than there is, though what goes in batches was halved:
        what to lower, with its value.
        """
        return lower(settings, "runtime.chunk")

    def summary(self, artifact: Artifact) -> str:
        """One line about a finished artifact."""
        facts = [
            text.format(artifact.metrics[name])
            for name, text in self.highlights.items()
            if name in artifact.metrics
        ]
        return ", ".join([f"{artifact.stage} {artifact.key}: ready ({artifact.seconds:.0f} s)", *facts])


def lower(settings: Settings, *keys: str) -> str:
    """The keys of a run that can be lowered, each with its value."""
    found = []
    for key in keys:
        node: Any = settings
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        if node is not None:
            found.append(f"{key} (now {node})")
    return f"lower {' or '.join(found)}" if found else "use a device with more memory"
