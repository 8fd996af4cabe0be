"""``midre-exp diagnose [RESULTS...] [KEY=VALUE ...]``: what targets are like, without an attack.

With overrides alone, as of a run or a sweep (diagnose setup=demo defense=nodef,midre): each target is trained
if the store lacks it, measured, and its numbers are printed; a later run with the same ``diagnostics`` takes
them from the store. With results folders, such as results/mini: every record there gets the block
``diagnostics``; attacks are not repeated, and a run of which the store lacks a stage is passed over.
``diagnostics`` is default unless it is given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.answers import kept_answers
from midre_exp.plan.compose import expand, packaged_composer, packaged_configs
from midre_exp.plan.explain import explain, settings_of_job
from midre_exp.plan.keys import Plan, fingerprints_once
from midre_exp.plan.overrides import readable
from midre_exp.plan.suite import runs_of
from midre_exp.stages import make_plan
from midre_exp.store.lock import sigterm_as_exit
from midre_exp.store.progress import configure, log_to_stderr
from midre_exp.sweep.judge import judge_again
from midre_exp.sweep.leases import leased

#: The stages behind the diagnostics of a target; what needs a prior or an attack is measured in runs.
_STAGES = ("pretraining", "target", "diagnostics")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ConfigError(f"diagnose: {message}; see midre-exp diagnose --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 2 after a mistake, and where a record was passed over."""
    parser = _Parser(
        prog="midre-exp diagnose", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("words", nargs="+", metavar="RESULTS|KEY=VALUE")
    given = sys.argv[1:] if arguments is None else list(arguments)
    log_to_stderr()
    words: list[str] = []
    try:
        words = parser.parse_args(given).words
        if not any(word.startswith("diagnostics=") for word in words):
            words = ["diagnostics=default", *words]
        folders = [Path(word) for word in words if "=" not in word]
        texts = [word for word in words if "=" in word]
        with sigterm_as_exit(), kept_answers():
            if folders:
                return judge_again(folders, readable(texts, sweeps=False), "diagnosed")
            return _diagnose(texts)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"midre_exp: {explain(error, words)}", file=sys.stderr)
        return 2


def _diagnose(words: Sequence[str]) -> int:
    with packaged_configs(), fingerprints_once():
        composer, seen = packaged_composer(), set[str]()
        for job in _jobs(words):
            settings = runs_of(settings_of_job(composer, job))[0]  # members of a suite share the target
            plan = make_plan(settings)
            if "diagnostics" not in plan.stages:
                raise ConfigError(
                    "diagnose: nothing is to be measured of the target; give diagnostics=default, and no "
                    "attack.shard"
                )
            key = plan["diagnostics"].key
            if key not in seen:
                seen.add(key)
                for line in _of_target(settings, plan):
                    print(line, flush=True)
    return 0


def _jobs(words: Sequence[str]) -> list[list[str]]:
    """The jobs of a sweep. Raises ConfigError also for what Hydra takes for a bug: a group set to null."""
    empty = [word for word in words if word == "diagnostics=null"]
    if empty:
        raise ConfigError("diagnose: diagnostics=null measures nothing; give diagnostics=default")
    return expand(words)


def _of_target(settings: Mapping[str, Any], plan: Plan) -> Iterator[str]:
    """Build what the store lacks, and what is known of the target then, line by line."""
    configure(settings["runtime"])
    runtime = settings["runtime"]
    name = f"{settings['target']['name']} with {'+'.join(settings['defense'])}, seed {settings['seed']}"
    with leased(str(runtime["device"]), int(runtime["devices"]), run=name):
        # load torch, to which only the leased GPUs are visible
        from midre_exp import stages
        from midre_exp.cards.named import with_files
        from midre_exp.executor import Executor
        from midre_exp.stages.parts import make_parts

        wanted = Plan(plan.key, {stage: key for stage, key in plan.stages.items() if stage in _STAGES})
        found = with_files(settings)
        parts = make_parts(found)
        with Executor(found, wanted, parts) as build:
            start = build(stages.pretraining, parts.pretraining, parts.undefended)
            target = build(stages.target, parts.private, parts.trained, start)
            diagnosed = build(stages.diagnostics, target, parts.private)
    assert diagnosed.artifact is not None
    told = diagnosed.artifact.metrics
    yield f"{name}: {diagnosed.artifact.path}"
    numbers = told["numbers"]
    for metric, value in numbers.items():
        if metric.endswith(("_low", "_high")):
            continue
        ends = [numbers.get(f"{metric}_{end}") for end in ("low", "high")]
        interval = "" if None in ends else f"  [{ends[0]:.4g}, {ends[1]:.4g}]"
        yield f"  {metric:18} {value:8.4g}{interval}"
    for metric, reason in told["missing"].items():
        yield f"  {metric:18} not measured: {reason}"
