"""``python -m midre_exp.doctor [SETUPS] [OVERRIDES]``: which setups can run on this machine, and what is
missing for the others, with the card of each data set and weight file: what it is, its page, how one gets it,
where it goes.

Looks at data, weights, GPU, disk and installed packages without running anything. Folders and lists are
looked at, not every image. S02 and setup=S02 mean the same; S13 means both variants, S13a and S13b. The exit
code is 0 when it could tell, ready or not (--strict: 1 unless all are ready), 2 for a mistake in the words.
Memory and disk are estimates.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from midre_exp.cost.forecast import read_measured
from midre_exp.cost.runs import MANY_HOURS, RunCost, remedy, run_costs
from midre_exp.doctor.checks import Checks
from midre_exp.doctor.environment import environment, has
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.code import sources_once
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.plan.config import Settings, trusted_packages, use_own_configs
from midre_exp.plan.explain import explain
from midre_exp.plan.suite import runs_of
from midre_exp.runtime import choose_device
from midre_exp.stages import STAGES, Requirement, behind
from midre_exp.stages.classifier import ClassifierStage
from midre_exp.store.artifact import readable
from midre_exp.store.progress import log_to_stderr

_HEADERS = ("setup", "", "ready", "missing", "hours", "memory")
#: LOMMA on GMI and on KedMI, which the paper has under one number.
_VARIANTS = {f"S{number}": (f"S{number}a", f"S{number}b") for number in range(13, 19)}
#: Those of the paper.
SETUPS = tuple(
    name for number in range(1, 38) for name in _VARIANTS.get(f"S{number:02d}", (f"S{number:02d}",))
)


@dataclass
class Diagnosis:
    """One setup: whether it can run here, and everything found."""

    setup: str
    title: str
    requirements: list[Requirement] = field(default_factory=list)
    cost: RunCost | None = None
    composed: bool = True  #: False: a mistake in the words, told as its one requirement

    @property
    def ready(self) -> bool:
        """Whether nothing that it cannot do without is missing."""
        return not any(requirement.blocks for requirement in self.requirements)


def diagnose(setups: Sequence[str], overrides: Sequence[str], scale: str) -> list[Diagnosis]:
    """The diagnosis of each setup. Never raises: a config that cannot be composed is a requirement."""
    composed: list[tuple[Diagnosis, Settings]] = []
    shared = [part for part in overrides if not part.startswith("hydra")]
    common = _launcher(overrides)
    diagnoses = []
    with packaged_configs():
        composer, checks = packaged_composer(), Checks()
        for setup in setups:
            try:
                settings = composer.settings([f"setup={setup}", f"scale={scale}", *shared])
            except Exception as error:
                cause = explain(error, [f"setup={setup}", *shared])
                told = [Requirement(True, "config", cause)]
                diagnoses.append(Diagnosis(setup, "", told, composed=False))
                continue
            needed = [need for run in runs_of(settings) for need in checks.requirements(run)]
            found = [*dict.fromkeys(needed), *common]
            diagnoses.append(Diagnosis(setup, str(settings["setup"]["title"]), found))
            composed.append((diagnoses[-1], settings))
        _tell_costs(composed, checks)
    return diagnoses


def _tell_costs(composed: Sequence[tuple[Diagnosis, Settings]], checks: Checks) -> None:
    """Put into each diagnosis what its run would take, as far as that was counted or measured before."""
    every = [settings for _, settings in composed]
    places = {(Path(one["paths"]["results"]) / one["scale"], trusted_packages(one)) for one in every}
    measured = [stage for place, trusted in sorted(places) for stage in read_measured(place, trusted)]
    try:
        with sources_once():
            costs = run_costs(every, checks.remember, measured=measured)
    except UserError:  # a part that cannot be described; what is wrong with it is a requirement already
        return
    for (diagnosis, settings), cost in zip(composed, costs, strict=True):
        diagnosis.cost = cost
        diagnosis.requirements += _gpu_memory(settings, cost)
        if cost.hours is not None and cost.hours > MANY_HOURS:
            text = f"about {cost.hours:.0f} hours of one {cost.device}: {remedy(settings, cost)}"
            diagnosis.requirements.append(Requirement(False, "many hours", text))


def _gpu_memory(settings: Settings, cost: RunCost) -> list[Requirement]:
    """Stages that take more memory than the GPU of this machine has, or has free, by their count. An attack
    counts with the chunk that fits.
    """
    try:
        device = choose_device(settings["runtime"]["device"])
    except ConfigError:  # a requirement already
        return []
    if device.type != "cuda":
        return []
    free, total = torch.cuda.mem_get_info(device)
    found = []
    for name, stage in cost.stages.items():
        if stage.memory is not None and stage.memory > free:
            trained = next((one for one in STAGES if one.name == behind(name, settings)[0]), None)
            other = ""
            if isinstance(trained, ClassifierStage):
                other = f", or a smaller {trained.recipe}.batch_size, which changes the training"
            text = (
                f"the {name} takes about {readable(int(stage.memory))} of GPU memory (counted) and "
                f"{readable(free)} of {readable(total)} are free; use a larger GPU{other}"
            )
            found.append(Requirement(stage.memory > total, "GPU memory", text))
    return found


def _launcher(overrides: Sequence[str]) -> list[Requirement]:
    """What a chosen SLURM launcher lacks."""
    chosen = [part.partition("=")[2] for part in overrides if part.startswith("hydra/launcher=")]
    if not chosen or not ("slurm" in chosen[-1] or "submitit" in chosen[-1]):
        return []
    found = []
    if not has("hydra_plugins.hydra_submitit_launcher"):
        found.append(
            Requirement(
                True, "submitit", "the SLURM launcher is not installed; pip install hydra-submitit-launcher"
            )
        )
    if shutil.which("sbatch") is None:
        found.append(
            Requirement(True, "sbatch", "sbatch is not in PATH; start sweeps on a login node of the cluster")
        )
    return found


def report(diagnoses: Sequence[Diagnosis], facts: dict[str, str], scale: str) -> str:
    """The text for a terminal: this machine, a row per setup, and what to do, each distinct problem once."""
    rows = [
        [
            one.setup,
            one.title,
            "yes" if one.ready else "no",
            ", ".join(
                dict.fromkeys(requirement.name for requirement in one.requirements if requirement.blocks)
            )
            or "-",
            *_of_cost(one.cost),
        ]
        for one in diagnoses
    ]
    ready = sum(one.ready for one in diagnoses)
    parts = [
        "\n".join(f"{name:<18}{fact}" for name, fact in facts.items()),
        tabulate(rows, headers=_HEADERS, tablefmt="simple", disable_numparse=True),
        f"{ready} of {len(diagnoses)} setups are ready at scale {scale}; memory and disk are estimates",
        *_about_costs(diagnoses),
    ]
    for blocks, heading in ((True, "missing"), (False, "remarks")):
        concerned: dict[Requirement, list[str]] = {}
        for one in diagnoses:
            for requirement in one.requirements:
                if requirement.blocks is blocks:
                    concerned.setdefault(requirement, []).append(one.setup)
        if concerned:
            parts.append(f"{heading}:")
        parts += [_entry(requirement, names, len(diagnoses)) for requirement, names in concerned.items()]
    return "\n\n".join(parts)


def _of_cost(cost: RunCost | None) -> tuple[str, str]:
    """Hours and memory of a run."""
    if cost is None:
        return "-", "-"
    hours = "-" if cost.hours is None else f"{cost.hours:.1f}"
    return hours, "-" if cost.memory is None else readable(int(cost.memory))


def _about_costs(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """Of what the hours are, and how to get those that are missing."""
    costs = [one.cost for one in diagnoses if one.cost is not None]
    devices = dict.fromkeys(cost.device for cost in costs)
    missing = [one.setup for one in diagnoses if one.cost is not None and one.cost.hours is None]
    found = f"hours and memory: of a whole run on one {' or '.join(devices)}"
    words = dict.fromkeys(cost.basis for cost in costs if cost.hours is not None)
    if words:
        found += f", {' or '.join(words)}"
    if missing:
        found += f"; not counted yet: {_ranges(missing)} (python -m midre_exp.cost with the same words, once)"
    return [found] if costs else []


def _entry(requirement: Requirement, names: Sequence[str], asked: int) -> str:
    first, *tree = requirement.text.splitlines()
    who = f"all {asked}" if len(names) == asked > 1 else _ranges(names)
    wrapped = textwrap.fill(
        f"{requirement.name} ({who}): {first}",
        120,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
    )
    return "\n".join([wrapped, *tree])


def _ranges(names: Sequence[str]) -> str:
    """S01, S02, S03, S07 as S01-S03, S07."""
    runs: list[list[str]] = []
    for name in names:
        if (
            runs
            and name in SETUPS
            and runs[-1][-1] in SETUPS
            and SETUPS.index(name) == SETUPS.index(runs[-1][-1]) + 1
        ):
            runs[-1].append(name)
        else:
            runs.append([name])
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def as_json(diagnoses: Sequence[Diagnosis], facts: dict[str, str], scale: str) -> str:
    """The same for programs."""
    entries = [
        {
            "setup": one.setup,
            "title": one.title,
            "ready": one.ready,
            "requirements": [asdict(f) for f in one.requirements],
            "hours": None if one.cost is None else one.cost.hours,
            "device_memory": None if one.cost is None else one.cost.memory,
        }
        for one in diagnoses
    ]
    whole: dict[str, Any] = {
        "scale": scale,
        "ready": all(one.ready for one in diagnoses),
        "machine": facts,
        "setups": entries,
    }
    return json.dumps(whole, indent=1, ensure_ascii=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.doctor", description=__doc__)
    parser.add_argument(
        "setups",
        nargs="*",
        metavar="SETUP|OVERRIDE",
        help="S01 ... S37, none: all; and Hydra overrides, KEY=VALUE",
    )
    parser.add_argument("--scale", default="paper", help="paper (default), synth or mini")
    parser.add_argument("--strict", action="store_true", help="exit code 1 unless every setup is ready")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    options = parser.parse_intermixed_args(arguments)
    log_to_stderr()
    try:
        use_own_configs(options.config_dir)
    except ConfigError as error:
        print(f"midre_exp: {error}", file=sys.stderr)
        return 2
    words = [part.removeprefix("setup=") for part in options.setups]
    overrides = [part for part in words if "=" in part or part.startswith("~")]
    named = [name for part in words if part not in overrides for name in part.split(",") if name]
    setups = [one for name in named for one in _VARIANTS.get(name, (name,))] or SETUPS
    setups = list(dict.fromkeys(setups))
    scale = next((part[6:] for part in reversed(overrides) if part.startswith("scale=")), options.scale)
    overrides = [part for part in overrides if not part.startswith("scale=")]
    diagnoses = diagnose(setups, overrides, scale)
    facts = environment(Path.cwd())
    print(as_json(diagnoses, facts, scale) if options.json else report(diagnoses, facts, scale))
    if not all(one.composed for one in diagnoses):
        return 2
    return int(options.strict and not all(one.ready for one in diagnoses))


if __name__ == "__main__":
    sys.exit(main())
