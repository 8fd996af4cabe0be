"""``midre-exp judge RESULTS... [jury=[NAME,...]] [KEY=VALUE ...]``: let judges look at the reconstructions of
every record of a results folder again, such as results/mini. Attacks are not repeated: a run whose attack,
prior or evaluator the store has no more is passed over.

Each record gets the verdicts of the judges of ``jury``, how far they agree, and negative controls; without
``jury`` the controls alone. ``open_set=verifier`` and ``traits=default`` add what these say. Other
``KEY=VALUE`` are of evaluator, paths and runtime, for all of them. How long a record took, and about how long
the others will take, is printed as it goes on; the first of a kind also trains its judges.

A record is data: the settings of its run are composed of today's configs, under the values that it tells, and
must have its key.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs
from midre_exp.plan.config import config_files
from midre_exp.plan.explain import explain, settings_of_job
from midre_exp.plan.keys import fingerprints_once
from midre_exp.plan.overrides import quote, readable
from midre_exp.records import Record, record_files, try_record
from midre_exp.records.comparable import EXECUTION
from midre_exp.stages import make_plan
from midre_exp.store.progress import duration, log_to_stderr
from midre_exp.store.store import Store
from midre_exp.sweep.job import carry_out

#: What may be said on the command line: nothing by which a run would be another.
_ALLOWED = (
    *("jury", "open_set", "traits", "diagnostics", "paths", "runtime"),
    *("evaluator.recipe", "evaluator.pretraining", "evaluator.floor"),
)
#: What of a config a record need not agree about.
_BESIDE = (*EXECUTION, "jury")
#: Groups of which a run chooses one or none, and which say more about it and change nothing.
_MORE = ("open_set", "traits", "diagnostics")


class _PassedOver(Exception):
    """A record that is not judged; the text says why."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"judge: {message}; see midre-exp judge --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 2 after a mistake, and where a record could not be judged."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    parser = _Parser(
        prog="midre-exp judge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="RESULTS|KEY=VALUE")
    log_to_stderr()
    overrides: list[str] = []
    try:
        words = parser.parse_args(given).words
        overrides = readable([word for word in words if "=" in word], sweeps=False)
        folders = [Path(word) for word in words if "=" not in word]
        if not folders:
            raise ConfigError("judge: no results folder is named; give one such as results/mini")
        return judge_again(folders, overrides)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"midre_exp: {explain(error, overrides)}", file=sys.stderr)
        return 2


def _check_allowed(overrides: Sequence[str]) -> None:
    for text in overrides:
        key = text.partition("=")[0]
        if not f"{key}.".startswith(tuple(f"{name}." for name in _ALLOWED)):
            raise ConfigError(
                f"{text}: the runs are those of the records; give keys of {', '.join(_ALLOWED)} alone"
            )


def _records(folder: Path) -> list[Path]:
    found = record_files(folder)
    if not found:
        raise ConfigError(f"{folder / 'records'} holds no records; give a folder such as results/mini")
    return found


def judge_again(folders: Sequence[Path], overrides: Sequence[str], done: str = "judged") -> int:
    """Carry out the run of every record below the folders once more, under overrides that leave it the same
    one; returns the exit code. Raises ConfigError for a folder without records, or another override.
    """
    _check_allowed(overrides)
    paths = [path for folder in folders for path in _records(folder)]
    left: list[str] = []
    took: list[float] = []
    with packaged_configs(), fingerprints_once():
        composer = packaged_composer()
        for number, path in enumerate(paths, start=1):
            record = try_record(path)
            if record is None:
                left.append(f"{path.name}: it cannot be read")
                continue
            print(f"{number} of {len(paths)}: {path.name}", flush=True)
            began = time.monotonic()
            try:
                carry_out(_settings(composer, record, path, overrides))
                took.append(time.monotonic() - began)
                print(f"  {_pace(took, len(paths) - number)}", flush=True)
            except _PassedOver as reason:
                left.append(f"{path.name}: {reason}")
            except UserError as error:
                left.append(f"{path.name}: {error}")
    spent = f" in {duration(sum(took))}, {median(took):.1f} s a record in the median" if took else ""
    print(f"{len(paths) - len(left)} of {len(paths)} records {done}{spent}")
    for text in left:
        print(f"passed over: {text}")
    return 2 if left else 0


def _pace(took: Sequence[float], left: int) -> str:
    """How long the last record took, and how long so many more will by the median of all so far."""
    more = f", {left} more in about {duration(left * median(took))}" if left else ""
    return f"{took[-1]:.1f} s{more}"


def _settings(composer: Composer, record: Record, path: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a record's run with the judges that are asked for, which leave nothing to do but to
    judge. Raises _PassedOver.
    """
    if "suite" in record:
        raise _PassedOver("it is of a suite of attacks, whose members have records of their own")
    results = f"paths.results={quote(str(path.absolute().parents[2]))}"
    given = [group for group in _MORE if any(text.startswith(f"{group}=") for text in overrides)]
    choices = [text for text in _choices(record) if text.partition("=")[0] not in given]
    job = [*choices, *overrides, results]
    told = {name: node for name, node in record["config"].items() if name not in (*_BESIDE, *given)}
    values = list(_differences(told, settings_of_job(composer, [*choices, results])))
    settings = settings_of_job(composer, [*job, *values])
    plan = make_plan(settings)
    if plan.key != record["key"]:
        changed = [
            name
            for name, key in record["artifacts"].items()
            if (stage := plan.of(name)) is not None and stage.key != key and stage.in_run_key
        ]
        what = f"its {changed[0]} has another key" if changed else "its run has another key"
        raise _PassedOver(f"it is of other code, data or configs than there are now ({what})")
    store = Store(settings["paths"]["store"])
    needed = (stage for stage in plan.stages.values() if stage.in_run_key)
    lacking = [stage for stage in needed if not store.peek(stage.name, stage.key)]
    if lacking:
        raise _PassedOver(f"the store {store} has no {lacking[0].name} {lacking[0].key}")
    return settings


def _choices(record: Record) -> list[str]:
    """The choices of groups that a record tells, where there are such."""
    config = record["config"]
    named = {
        "setup": record["setup"]["id"],
        "scale": record["scale"],
        "data": record["data"]["name"],
        "target": record["target"],
        "evaluator": record["evaluator"],
        "attack": record["attack"],
    }
    known = [f"{group}={name}" for group, name in named.items() if name in config_files(group)]
    parts = [name for name in record["defense"]["parts"] if name in config_files("defense")]
    prior = (config["attack"].get("prior") or {}).get("name")
    known += [f"attack/prior={prior}"] if prior in config_files("attack/prior") else []
    for group in _MORE:
        name = (config.get(group) or {}).get("name")
        known += [f"{group}={name}"] if name in config_files(group) else []
    return [*known, f"defense=[{','.join(parts)}]"]


def _differences(told: Any, made: Any, place: str = "") -> Iterator[str]:
    """The overrides under which a composed config has the values that a record tells; what it does not know
    is as today. Raises _PassedOver for classes, and for what is there in one of the two alone.
    """
    if isinstance(told, Mapping) and isinstance(made, Mapping):
        for key, value in told.items():
            if key in made:
                yield from _differences(value, made[key], f"{place}.{key}" if place else str(key))
            elif value not in (None, False, {}):
                raise _PassedOver(f"its config has {place}.{key}, which configs of today have not")
    elif told != made:
        name = place.rpartition(".")[2]
        if name == "_target_" or not _is_plain(told) or isinstance(made, Mapping):
            raise _PassedOver(f"its {place} is another than that of today's configs")
        yield f"{place}={_written(told)}"


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, list) else not isinstance(value, Mapping)


def _written(value: Any) -> str:
    """A plain value as Hydra's grammar reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str):
        return quote(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


if __name__ == "__main__":
    sys.exit(main())
