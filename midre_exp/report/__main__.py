"""``python -m midre_exp.report TABLE ... [OVERRIDES]``: run what tables still lack, then render them as text,
Markdown, CSV, LaTeX, HTML.

A table is a yaml in midre_exp/report/conf/table: a title and the overrides of its sweeps. Further overrides (scale, data,
seeds, launcher) are added to each. A figure is a yaml in midre_exp/report/conf/figure and works alike. What several tables
lack is launched as one sweep. ``--no-run`` renders what is there and shows the command for every missing run,
``--plan`` only tells what would be built and how long that may take.

``claims`` tells what the records of a scale say to the paper's claims; it runs nothing. ``wandb`` pushes the
records of a scale to Weights & Biases (docs/wandb.md); those that are there are left alone. ``workspace``
saves the dashboard of that project, or prints it (``--json``).
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.compose import expand
from midre_exp.plan.config import digest, use_own_configs
from midre_exp.plan.explain import explain
from midre_exp.report.figures.figures import FigureDefinition, figure_names, load_figure, render_figure
from midre_exp.report.runs.planned_runs import Cell, plan_tables, read_again
from midre_exp.report.tables.definitions import Definition, load_definition
from midre_exp.store.files import write_json
from midre_exp.store.lock import sigterm_as_exit


def run_missing(tables: Sequence[Sequence[Cell]], overrides: Sequence[str]) -> int:
    """Launch everything unfinished as one sweep, as a user would with ``-m``; it plans again, reports, and
    leaves records.

    Returns its exit code: 0, 2 when some runs failed, or that of what broke off. Raises DataError when a run
    has no data here.
    """
    distinct: dict[str, Cell] = {}
    for cell in (cell for cells in tables for cell in cells):
        if cell.obstacle is not None:
            raise cell.obstacle
        distinct.setdefault(cell.name, cell)
    cells = list(distinct.values())
    todo = [cell for cell in cells if not cell.finished]
    print(f"{len(cells)} runs: {len(cells) - len(todo)} finished before, {len(todo)} to do", flush=True)
    if not todo:
        return 0
    jobs = [list(cell.job) for cell in todo]
    file = Path(todo[0].settings["paths"]["runs"]).absolute() / "planned" / f"sweep-{digest(jobs)}.json"
    write_json(file, jobs)
    how = [part for part in overrides if part.startswith("hydra")]
    return launch(["-m", f"hydra.sweeper.jobs={quoted(str(file))}", *how])


def quoted(text: str) -> str:
    """A value that Hydra's grammar takes as this very text."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def launch(arguments: Sequence[str]) -> int:
    """Run ``python -m midre_exp`` and return its exit code. Whatever ends this process early, SIGTERM too,
    ends that one first.
    """
    process = subprocess.Popen([sys.executable, "-m", "midre_exp", *arguments])
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def load(name: str) -> Definition | FigureDefinition:
    """The table or figure of that name. Raises ConfigError naming those there are."""
    return load_figure(name) if name in figure_names() else load_definition(name)


def jobs_of(definition: Definition | FigureDefinition, overrides: Sequence[str]) -> list[list[str]]:
    """The runs a table or figure shows, each as its overrides."""
    return [job for sweep in definition.sweeps for job in expand([*sweep, *overrides])]


def make(names: Sequence[str], overrides: Sequence[str], *, run: bool) -> int:
    """Run what tables and figures lack, if asked to, and render them, one after the other; returns the exit
    code.

    When runs failed, what has none at all is not rendered.
    """
    definitions = [load(name) for name in names]
    tables = plan_tables([jobs_of(definition, overrides) for definition in definitions])
    code = run_missing(tables, overrides) if run else 0
    if code in (0, 2):
        other_data = "data" in [text.partition("=")[0] for text in overrides]
        for definition, cells in zip(definitions, tables, strict=True):
            now = read_again(cells)
            if code == 0 or any(cell.record is not None for cell in now):
                show(definition, now, other_data=other_data)
    return code


def show(definition: Definition | FigureDefinition, cells: Sequence[Cell], *, other_data: bool) -> None:
    """Write the files of a table or figure."""
    from midre_exp.report.tables.listing import render_listing
    from midre_exp.report.tables.render import render
    from midre_exp.runtime import one_thread

    with one_thread():
        if isinstance(definition, FigureDefinition):
            render_figure(definition, cells, other_data=other_data)
        elif definition.rows == "setups":
            render_listing(definition, cells, other_data=other_data)
        else:
            render(definition, cells, other_data=other_data)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.report", description=__doc__)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="TABLE|OVERRIDE",
        help="a table or figure (a yaml of midre_exp/report/conf, or of yours), claims; or wandb, or workspace; Hydra overrides added to every sweep",
    )
    parser.add_argument("--no-run", action="store_true", help="render what is there, launch nothing")
    parser.add_argument("--plan", action="store_true", help="only tell what would be built")
    parser.add_argument("--json", action="store_true", help="of workspace: print what would be saved")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        use_own_configs(options.config_dir)
        with sigterm_as_exit():
            if options.json and options.words[0] != "workspace":
                raise ConfigError("--json goes with workspace only; leave it out")
            if options.words[0] == "wandb":
                from midre_exp.report.wandb.push import push_records

                push_records(options.words[1:])
                return 0
            if options.words[0] == "workspace":
                from midre_exp.report.wandb.workspace import save_workspace

                save_workspace(options.words[1:], as_json=options.json)
                return 0
            names = [word for word in options.words if "=" not in word and not word.startswith("~")]
            overrides = [word for word in options.words if word not in names]
            if not names:
                raise ConfigError(
                    "no table is named; put one first, as in python -m midre_exp.report table1 seed=0,1"
                )
            tables = [name for name in names if name != "claims"]
            if options.plan:
                from midre_exp.sweep.estimate import show

                show([job for name in tables for job in jobs_of(load(name), overrides)])
                return 0
            code = make(tables, overrides, run=not options.no_run) if tables else 0
            if "claims" in names and code in (0, 2):
                from midre_exp.report.claims.claims import report_claims

                report_claims(overrides)
            return code
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, options.words)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
