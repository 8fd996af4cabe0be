"""One Hydra job: check that it is what was planned, carry it out, leave a report if it fails.

This module is what launchers pickle and import in other processes, so it holds no torch object and imports
torch only when a job runs.
"""

from __future__ import annotations

import multiprocessing
import pickle
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from midre_exp.cards.named import check_named
from midre_exp.errors import ConfigError, DivergedError, StoreError, UserError
from midre_exp.plan.compose import packaged_configs, settings_of_config
from midre_exp.plan.config import use_own_packages
from midre_exp.plan.digests import first_difference
from midre_exp.plan.imported import CodeChangedError, Snapshot, take_snapshot
from midre_exp.plan.keys import Plan, fingerprints_once
from midre_exp.plan.shards import SHARD
from midre_exp.plan.suite import members_of, runs_of
from midre_exp.plan.unread import check_read
from midre_exp.records import diverged_path, record_path, write_diverged
from midre_exp.stages import make_plan, stale
from midre_exp.store.files import read_json, remove_file, write_json
from midre_exp.store.lock import LockedError, end_with_parent
from midre_exp.store.progress import configure, log_to_stderr, say
from midre_exp.store.streams import lasting_stderr, tell
from midre_exp.sweep.finished import (
    check_stale,
    code_path,
    failure_path,
    is_finished,
    result_path,
    snapshot_path,
)
from midre_exp.sweep.leases import leased, told
from midre_exp.sweep.rebuild import fulfilled, request_of
from midre_exp.tracking.provenance import git_commit


class MemberFailed(UserError):
    """A run of a suite of attacks failed; of it there is a report of its own."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended: the path of its record, or the error that stopped it, or what another process is
    building for it (``locked``), so that it is to be queued again.
    """

    record: str | None = None
    error: BaseException | None = None
    locked: str | None = None

    def __reduce__(self) -> tuple[type[Outcome], tuple[str | None, BaseException | None, str | None]]:
        """Cross to another process whatever the error: one that cannot be pickled goes as its text."""
        return Outcome, (self.record, _portable(self.error), self.locked)


def _portable(error: BaseException | None) -> BaseException | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # errors of other people's libraries fail here in many ways
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


class Task:
    """What Hydra calls for each job. It never raises, so that a launcher goes on with the next job; ``last``
    is the newest outcome of this process.
    """

    last: Outcome | None = None

    def __call__(self, config: DictConfig) -> Outcome:
        """Carry out one composed config."""
        use_own_packages()  # in the process of whatever launcher
        log_to_stderr()
        if multiprocessing.current_process().name != "MainProcess":  # joblib's: of no use without its sweep
            _watch_parent()
        with _at_work(), lasting_stderr():
            self.last = self._outcome(config)
        return self.last

    def _outcome(self, config: DictConfig) -> Outcome:
        try:
            check_read(config)
            return Outcome(record=carry_out(_settings(config)))
        except LockedError as locked:
            tell(f"{locked}; this run is queued again behind the others")
            return Outcome(locked=str(locked))
        except Exception as error:
            return Outcome(error=error)


def _settings(config: DictConfig) -> dict[str, Any]:
    """The resolved settings of a composed config."""
    words = list(HydraConfig.get().overrides.task) if HydraConfig.initialized() else []
    with packaged_configs():
        return settings_of_config(config, words)


_working = threading.Event()


@contextmanager
def _at_work() -> Iterator[None]:
    _working.set()
    try:
        yield
    finally:
        _working.clear()


@cache
def _watch_parent() -> None:
    """Once in a process."""
    end_with_parent(_working.is_set)


def carry_out(settings: Mapping[str, Any]) -> str:
    """Run one resolved config; returns the path of its record. A failure leaves ``runs/failed/<key>.json``
    and is raised; a run that diverged leaves its outcome beside the records, until it succeeds.

    Raises LockedError, no failure, where ``plan.wait`` is off and another process is building one of its
    stages.
    """
    configure(settings["runtime"])
    with fingerprints_once():
        return _carry_out(settings)


def _carry_out(settings: Mapping[str, Any]) -> str:
    for one in runs_of(settings):
        check_named(one)
    plan = make_plan(settings)
    code = take_snapshot(plan.stages.values())
    check_frozen(settings, plan, code)
    request = None
    if settings["plan"]["rebuild"] is None and (request := request_of(settings, [plan.key], code.digest)):
        settings = {**settings, "plan": {**settings["plan"], "rebuild": request[0]}}
    failure = failure_path(settings, plan.key)
    diverged = diverged_path(record_path(settings["paths"]["results"], settings, plan))
    try:
        if is_finished(settings, plan):
            path = result_path(settings, plan)
            found = check_stale(settings, plan, git_commit())
            note = f", though not by today's code: {stale.told(found)}" if found else ""
            tell(f"nothing to do, {path} is complete{note}")
        else:
            _run_members(settings, plan)
            path = _run_on_leased_gpus(settings, plan)
            tell(f"{'shard' if SHARD in plan.stages else 'record'} written to {path}")
    except LockedError:
        raise
    except DivergedError as error:
        from midre_exp.stages.parts import make_parts  # loads torch, as the run did

        label = make_parts(runs_of(settings)[0]).defense.label
        write_diverged(diverged, settings, plan, error, defense_label=label)
        remove_file(failure)
        raise
    except Exception as error:
        report_failure(failure, settings, error, traceback.format_exc())
        raise
    remove_file(failure)
    remove_file(diverged)
    if request is not None:
        fulfilled(request[1])
    return str(path)


def _run_members(settings: Mapping[str, Any], plan: Plan) -> None:
    """Carry out every member of a suite as the run that it is alone. Raises MemberFailed for the first that
    fails, DivergedError for one that diverged: nothing is concluded of the others.
    """
    suite = settings["attack"]["name"]
    for name, member in members_of(settings).items():
        try:
            _carry_out(member)
        except LockedError:
            raise
        except DivergedError as error:
            raise DivergedError(f"member {name} of suite {suite}: {error}", "see its own outcome") from error
        except UserError as error:
            raise MemberFailed(
                f"member {name} of suite {suite} failed, so the suite has no record: {error}; what is "
                "finished is kept"
            ) from error


def _run_on_leased_gpus(settings: Mapping[str, Any], plan: Plan) -> Path:
    """Run a config on GPUs that no other run of this user on this machine has, where there are GPUs."""
    runtime = settings["runtime"]
    name = f"{settings['setup']['id']} {'+'.join(settings['defense'])} seed {settings['seed']}"
    with leased(str(runtime["device"]), int(runtime["devices"]), run=name) as gpus:
        from midre_exp.run import run  # loads torch, to which only the leased GPUs are visible
        from midre_exp.runtime import choose_device, pass_over_libraries
        from midre_exp.worst_case.conclude import conclude

        pass_over_libraries()
        if gpus and not runtime["quiet"]:
            say(f"{name} has {told(gpus)}")
        if gpus and choose_device(str(runtime["device"])).type != "cuda":
            say("but torch cannot use it and computes on the CPU; its driver may be too old for this torch")
        return run(settings) if not plan.members else conclude(settings, plan)


def report_failure(path: Path, settings: Mapping[str, Any], error: BaseException, trace: str) -> None:
    """Leave what is known of a failed run; ``path`` is named after its key. Where that cannot be written, a
    line says so, and the failure itself is what the user is told.
    """
    report = {
        "key": path.stem,
        "setup": settings["setup"]["id"],
        "error": f"{type(error).__name__}: {error}",
        "user_error": isinstance(error, UserError),
        "traceback": trace,
        "config": settings,
    }
    try:
        write_json(path, report)
    except (StoreError, OSError, ValueError) as second:  # ValueError: a value that JSON has not
        tell(f"midre_exp: the report of this failure cannot be kept: {second}", sys.stderr)


def check_frozen(settings: Mapping[str, Any], plan: Plan, code: Snapshot) -> None:
    """Compare a queued job and the source files as they are now with what was planned at launch: Hydra
    composes configs again when a job starts, and files may have changed since.

    Raises CodeChangedError naming the first file, or ConfigError naming the first difference.
    """
    planned = settings["plan"]
    if planned["code"] is not None and planned["code"] != code.digest:
        raise CodeChangedError(
            f"the code changed since the sweep was launched: {_changed_file(settings, code)}; launch the "
            "sweep again"
        )
    if planned["key"] is not None and planned["key"] != plan.key:
        snapshot = snapshot_path(settings, planned["key"])
        change = "the data changed"
        if snapshot.exists():
            ignore = ("plan", "runtime", "tracking", "paths", "publish")
            launched = read_json(snapshot)
            if not isinstance(launched, dict):
                raise StoreError(f"{snapshot} is no config of a job; delete it and launch the sweep again")
            old, new = ({k: v for k, v in s.items() if k not in ignore} for s in (launched, settings))
            change = first_difference(old, new) or change
        raise ConfigError(f"this job is not what was launched: {change}; launch the sweep again")
    if planned["commit"] is not None and planned["code"] is None and planned["commit"] != git_commit():
        raise ConfigError(
            f"this job was launched at commit {planned['commit']}, the code is now at {git_commit()}; launch "
            "the sweep again"
        )


def _changed_file(settings: Mapping[str, Any], code: Snapshot) -> str:
    try:
        launched = read_json(code_path(settings, settings["plan"]["code"]))
    except StoreError:
        launched = None
    if not isinstance(launched, dict):
        return "which file, nobody can tell any more"
    return code.difference(launched) or "the list of files"
