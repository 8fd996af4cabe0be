"""``python -m midre_exp.report TABLE ... [OVERRIDES]``: run what tables still lack, then render them as text,
Markdown, CSV, LaTeX, HTML.

A table is a yaml in midre_exp/report/conf/table: a title and the overrides of its sweeps. Further overrides
(scale, data, seeds, launcher) are added to each. A figure is a yaml in midre_exp/report/conf/figure and works
alike. What several tables lack is launched as one sweep. ``--no-run`` renders the records there are, those of
an earlier version of the code too, and shows the command for every missing run; ``--plan`` only tells what
would be built and how long that may take; ``--cite`` only prints the BibTeX of what is shown. Files of before
that show more runs or pictures than there are now stay (``--replace``); nobody real is shown unless
``publish.people=true``. ``--metrics`` shows further numbers of the records in tables, your own metrics'
too; ``--columns`` chooses what their LaTeX form shows, by headings.

``claims`` tells what the records of a scale say to the paper's claims, ``forest`` draws the effects behind
their answers, and ``summary`` makes one page of them; none runs anything. ``runs`` lists the runs there are
records of (``report runs results/mini defense=midre attack=ppa,gmi``; ``--json``), and ``site`` makes a
folder of pages of them with leaderboards (``report site results --out DIR``; docs/site.md). ``wandb`` pushes
the records of a scale to Weights & Biases (docs/wandb.md); those that are there are left alone. ``workspace``
saves the dashboard of that project, or prints it (``--json``).
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace as replaced
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.answers import kept_answers
from midre_exp.plan.compose import expand
from midre_exp.plan.config import digest, use_own_configs
from midre_exp.plan.explain import explain
from midre_exp.report.definitions import (
    WITH_METRICS,
    FigureDefinition,
    TableDefinition,
    known_definitions,
    load_definition,
)
from midre_exp.report.output import REPLACE
from midre_exp.report.runs.listing import render_runs
from midre_exp.report.runs.planned_runs import (
    PlannedRun,
    at_lengths,
    diverged,
    plan_runs,
    plan_tables,
    with_current_records,
)
from midre_exp.report.site.build import OUT, render_site
from midre_exp.store.files import write_json
from midre_exp.store.lock import sigterm_as_exit
from midre_exp.store.progress import log_to_stderr

# What draws, pushes or estimates is imported where it is used: torch, pandas and matplotlib take seconds,
# which neither --help nor a mistake in a name waits for.


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_intermixed_args(arguments)
    log_to_stderr()
    try:
        use_own_configs(options.config_dir)
        with sigterm_as_exit(), kept_answers():
            return _run(options)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, options.words)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m midre_exp.report", description=__doc__)
    parser.add_argument(
        "words",
        nargs="*",
        metavar="TABLE|OVERRIDE",
        help="a table or figure, claims, forest, summary; or site, runs, wandb, workspace; Hydra overrides "
        "added to all",
    )
    parser.add_argument("--no-run", action="store_true", help="render what is there, launch nothing")
    parser.add_argument("--plan", action="store_true", help="only tell what would be built")
    parser.add_argument("--cite", action="store_true", help="only print the BibTeX of what it rests on")
    parser.add_argument("--device", metavar="KIND", help="with --plan: the GPU it is for: A100, H200, ...")
    parser.add_argument("--count", action="store_true", help="with --plan: count what was never measured")
    parser.add_argument(
        "--rebuild", metavar="STAGE,...", help="make these stages, and all that rests on them, anew"
    )
    parser.add_argument(REPLACE, action="store_true", help="write also over files that show more")
    parser.add_argument("--metrics", metavar="NAME,...", help="show these metrics of the records as well")
    parser.add_argument("--columns", metavar="HEADING,...", help="the columns of the LaTeX table")
    parser.add_argument(
        "--json", action="store_true", help="of runs: as JSON; of workspace: print what would be saved"
    )
    parser.add_argument("--out", metavar="DIR", help="of site: where it goes; leaderboard")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    return parser


def _run(options: argparse.Namespace) -> int:
    first, *rest = options.words or ("",)
    if options.json and first not in ("workspace", "runs"):
        raise ConfigError("--json goes with runs and workspace only; leave it out")
    if options.out and first != "site":
        raise ConfigError("--out goes with site only; leave it out")
    if first == "runs":
        render_runs(rest, as_json=options.json)
        return 0
    if first == "site":
        if wrong := [word for word in rest if "=" in word]:
            raise ConfigError(f"site takes results folders and --out DIR, not {wrong[0]}; leave it out")
        render_site(rest, options.out or OUT)
        return 0
    if first == "wandb":
        from midre_exp.report.wandb.push import push_records

        push_records(rest)
        return 0
    if first == "workspace":
        from midre_exp.report.wandb.workspace import save_workspace

        save_workspace(rest, as_json=options.json)
        return 0
    if options.device and not options.plan:
        raise ConfigError("--device goes with --plan; what runs use is runtime.device")
    if options.count and not options.plan:
        raise ConfigError("--count goes with --plan; leave it out")
    names = [word for word in options.words if "=" not in word and not word.startswith("~")]
    overrides = [word for word in options.words if word not in names]
    if options.rebuild:
        overrides.append(f"runtime.rebuild=[{options.rebuild}]")
    if not names:
        raise ConfigError(
            "no table is named; put one first, as in python -m midre_exp.report table1 seed=0,1. There are "
            f"{known_definitions()}; and claims, forest, summary, site, runs, wandb, workspace"
        )
    tables = [name for name in names if name not in ("claims", "forest", "summary")]
    if options.cite:
        from midre_exp.references import bibliography, cited_by

        if tables != names:
            raise ConfigError("--cite goes with tables and figures; leave claims and summary out")
        shown = [job for name in tables for job in jobs_of(load_definition(name), overrides)]
        print(bibliography(cited_by(shown)), end="")
        return 0
    if options.plan:
        from midre_exp.sweep import estimate

        jobs = [job for name in tables for job in jobs_of(load_definition(name), overrides)]
        estimate.show(jobs, count=options.count, device=options.device)
        for line in diverged(plan_runs(jobs)):
            print(line)
        return 0
    code = (
        make(
            tables,
            overrides,
            launch_missing=not options.no_run,
            replace=options.replace,
            metrics=_names(options.metrics),
            columns=_names(options.columns),
        )
        if tables
        else 0
    )
    if "claims" in names and code in (0, 2):
        from midre_exp.report.claims.render import render_claims

        render_claims(overrides)
    if "forest" in names and code in (0, 2):
        from midre_exp.report.figures.forest import render_forest

        render_forest(overrides)
    if "summary" in names and code in (0, 2):
        from midre_exp.report.summary import render_summary

        render_summary(overrides)
    return code


def make(
    names: Sequence[str],
    overrides: Sequence[str],
    *,
    launch_missing: bool,
    replace: bool = False,
    metrics: Sequence[str] = (),
    columns: Sequence[str] = (),
) -> int:
    """Render tables and figures, one after the other; returns the exit code.

    ``replace`` as in ``render_table``. With ``launch_missing`` what they lack is run before; when runs
    failed, what has neither a record nor an outcome is not rendered. Without it records of an earlier version
    of the code serve as well. ``metrics`` and ``columns`` as in ``TableDefinition``, of every table.
    """
    definitions = [_with(load_definition(name), metrics, columns) for name in names]
    jobs = [jobs_of(definition, overrides) for definition in definitions]
    tables = plan_tables(jobs, earlier=not launch_missing)
    if former := len({run.name for runs in tables for run in runs if run.earlier}):
        logging.warning("%d runs are shown by records of an earlier version of the code, see commit", former)
    if notes := {run.name: run.numerics_note for runs in tables for run in runs if run.numerics_note}:
        logging.warning(
            "%d runs are shown by records of other numerics: %s", len(notes), next(iter(notes.values()))
        )
    if old := {run.name: run.stale for runs in tables for run in runs if run.stale}:
        logging.warning(
            "%d runs rest on what other code made, such as: %s; runtime.stale=rebuild makes them anew",
            len(old),
            next(iter(old.values())),
        )
    code = 0
    if launch_missing:
        code = run_missing(tables, overrides)
        tables = [with_current_records(runs) for runs in tables]
    if code in (0, 2):
        other_data = "data" in [text.partition("=")[0] for text in overrides]
        for definition, runs in zip(definitions, tables, strict=True):
            if code == 0 or any(run.record is not None or run.diverged is not None for run in runs):
                render(definition, runs, other_data=other_data, replace=replace)
    return code


def _with(
    definition: TableDefinition | FigureDefinition, metrics: Sequence[str], columns: Sequence[str]
) -> TableDefinition | FigureDefinition:
    """A definition with further metrics, and the LaTeX columns asked for. Raises ConfigError where it shows
    neither.
    """
    if not metrics and not columns:
        return definition
    if isinstance(definition, FigureDefinition):
        raise ConfigError(f"{definition.name} is a figure; --metrics and --columns go with tables")
    if metrics and definition.rows not in WITH_METRICS:
        raise ConfigError(
            f"{definition.name} has rows of {definition.rows}; --metrics goes with tables of defenses"
        )
    return replaced(
        definition,
        metrics=(*definition.metrics, *metrics),
        columns=tuple(columns) or definition.columns,
    )


def _names(text: str | None) -> list[str]:
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def jobs_of(definition: TableDefinition | FigureDefinition, overrides: Sequence[str]) -> list[list[str]]:
    """The runs a table or figure shows, each as its overrides."""
    jobs = [job for sweep in definition.sweeps for job in expand([*sweep, *overrides])]
    return at_lengths(jobs, definition.lengths) if definition.lengths else jobs


def run_missing(tables: Sequence[Sequence[PlannedRun]], overrides: Sequence[str]) -> int:
    """Launch everything unfinished as one sweep, as a user would with ``-m``; it plans again, reports, and
    leaves records.

    Returns its exit code: 0, 2 when some runs failed, or that of what broke off. Raises DataError when a run
    has no data here.
    """
    distinct: dict[str, PlannedRun] = {}
    for run in (run for runs in tables for run in runs):
        if run.obstacle is not None:
            raise run.obstacle
        distinct.setdefault(run.name, run)
    todo = [run for run in distinct.values() if not run.finished]
    for run in distinct.values():
        if run.refusal is not None:
            raise run.refusal
    finished, failed = len(distinct) - len(todo), sum(run.diverged is not None for run in todo)
    before = f", of which {failed} diverged before" if failed else ""
    print(f"{len(distinct)} runs: {finished} finished before, {len(todo)} to do{before}", flush=True)
    if not todo:
        return 0
    jobs = [list(run.job) for run in todo]
    file = Path(todo[0].settings["paths"]["runs"]).absolute() / "planned" / f"sweep-{digest(jobs)}.json"
    write_json(file, jobs)
    launcher = [text for text in overrides if text.startswith("hydra")]
    return launch(["-m", f"hydra.sweeper.jobs={quoted(str(file))}", *launcher])


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


def render(
    definition: TableDefinition | FigureDefinition,
    runs: Sequence[PlannedRun],
    *,
    other_data: bool,
    replace: bool,
) -> None:
    """Write the files of a table or figure."""
    from midre_exp.runtime import one_thread

    with one_thread():
        if isinstance(definition, FigureDefinition):
            from midre_exp.report.figures.render import render_figure

            render_figure(definition, runs, other_data=other_data, replace=replace)
        else:
            from midre_exp.report.tables.render import render_table

            render_table(definition, runs, other_data=other_data, replace=replace)


if __name__ == "__main__":
    sys.exit(main())
