"""``python -m midre_exp.report TABLE [OVERRIDES]``: run what a table still lacks, then render it as text, Markdown, CSV, LaTeX and HTML.

A table is a yaml in conf/table: a title and the overrides of its sweeps. Further overrides (scale, data, seeds, launcher) are added to
each. ``--no-run`` renders what is there and shows the command for every missing run. A figure is a yaml in conf/figure and works alike.
``claims`` in place of a table tells what the records of a scale say to the paper's claims; it runs nothing. ``wandb`` pushes the records of
a scale to Weights & Biases (docs/wandb.md); those that are there are left alone. ``workspace`` saves the dashboard of that project, or
prints it (``--json``).
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.config import use_own_configs
from midre_exp.errors import ConfigError, UserError
from midre_exp.explain import explain
from midre_exp.locks import sigterm_as_exit
from midre_exp.planning import expand
from midre_exp.report.cells import Cell, plan_cells, read_again
from midre_exp.report.definitions import Definition, load_definition
from midre_exp.report.figures import FigureDefinition, figure_names, load_figure, render_figure


def run_missing(
    definition: Definition | FigureDefinition, overrides: Sequence[str], jobs: Sequence[Sequence[Cell]]
) -> int:
    """Launch the sweeps as a user would, one after the other; each plans, skips what is finished and reports.

    A record alone, as in a fresh clone, is no finished run, so every sweep is launched. Returns 0, or 2 when some runs failed, or the
    exit code of what broke off; after a sweep without any success no other is begun. Raises DataError when a run has no data here.
    """
    for cell in (cell for cells in jobs for cell in cells):
        if cell.obstacle is not None:
            raise cell.obstacle
    worst = 0
    for sweep, cells in zip(definition.sweeps, jobs, strict=True):
        code = launch(["-m", *sweep, *overrides])
        if code not in (0, 2) or (code == 2 and not finished(read_again(cells))):
            return code
        worst = max(worst, code)
    return worst


def launch(arguments: Sequence[str]) -> int:
    """Run ``python -m midre_exp`` and return its exit code. Whatever ends this process early, SIGTERM too, ends that one first."""
    process = subprocess.Popen([sys.executable, "-m", "midre_exp", *arguments])
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise


def finished(cells: Sequence[Cell]) -> int:
    """How many have a record."""
    return sum(cell.record is not None for cell in cells)


def table(definition: Definition | FigureDefinition, overrides: Sequence[str], *, run: bool) -> int:
    """Run what is missing if asked to, render what is there; returns the exit code."""
    from midre_exp.report.listing import render_listing
    from midre_exp.report.render import render

    jobs = [plan_cells(expand([*sweep, *overrides])) for sweep in definition.sweeps]
    code = run_missing(definition, overrides, jobs) if run else 0
    cells = read_again([cell for cells in jobs for cell in cells])
    if code == 0 or (code == 2 and finished(cells)):
        chosen = [text.partition("=")[0] for text in overrides]
        if isinstance(definition, FigureDefinition):
            render_figure(definition, cells, other_data="data" in chosen)
        elif definition.rows == "setups":
            render_listing(definition, cells, other_data="data" in chosen)
        else:
            render(definition, cells, other_data="data" in chosen)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.report", description=__doc__)
    parser.add_argument(
        "table", help="a file of conf/table or conf/figure without .yaml, claims, wandb or workspace"
    )
    parser.add_argument("overrides", nargs="*", help="Hydra overrides added to the table's sweeps")
    parser.add_argument("--no-run", action="store_true", help="render what is there, launch nothing")
    parser.add_argument("--json", action="store_true", help="of workspace: print what would be saved")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        use_own_configs(options.config_dir)
        with sigterm_as_exit():
            if options.table == "claims":
                from midre_exp.report.claims import report_claims

                report_claims(options.overrides)
                return 0
            if options.table == "wandb":
                from midre_exp.report.to_wandb import push_records

                push_records(options.overrides)
                return 0
            if options.table == "workspace":
                from midre_exp.report.workspace import save_workspace

                save_workspace(options.overrides, as_json=options.json)
                return 0
            if options.json:
                raise ConfigError("--json goes with workspace only; leave it out")
            if options.table in figure_names():
                return table(load_figure(options.table), options.overrides, run=not options.no_run)
            return table(load_definition(options.table), options.overrides, run=not options.no_run)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, options.overrides)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
