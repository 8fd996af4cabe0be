"""``python -m midre_exp.report TABLE [OVERRIDES]``: run what a table still lacks, then render it as text, Markdown, CSV, LaTeX and HTML.

A table is a yaml in conf/table: a title and the overrides of a sweep. Further overrides (scale, data, seeds, launcher) are added to the
sweep. ``--no-run`` renders what is there and shows the command for every missing run.
"""

from __future__ import annotations

import argparse
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from midre_exp.config import CONF_DIR, plain
from midre_exp.errors import ConfigError, UserError
from midre_exp.explain import explain
from midre_exp.files import read_json
from midre_exp.keys import fingerprints_once, make_plan
from midre_exp.planning import expand, packaged_configs, settings_of
from midre_exp.records import record_path


def load_table(name: str) -> dict[str, Any]:
    """The definition of a table. Raises ConfigError listing the tables there are."""
    path = CONF_DIR / "table" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise ConfigError(f"there is no table {name}; tables: {known}")
    table: dict[str, Any] = plain(OmegaConf.load(path))
    return table


def run_missing(sweep: Sequence[str]) -> int:
    """Launch the sweep as a user would; it plans, skips what is finished and reports. Returns its exit code."""
    return subprocess.run([sys.executable, "-m", "midre_exp", "-m", *sweep]).returncode


def collect(jobs: Sequence[Sequence[str]]) -> tuple[list[dict[str, Any]], list[str], Path, str]:
    """The records of the jobs in order, the commands of those without one, the results folder of their scale, and their data's name."""
    records, missing = [], []
    with packaged_configs(), fingerprints_once():
        for job in jobs:
            settings = settings_of([part for part in job if not part.startswith("hydra")])
            path = record_path(settings["paths"]["results"], settings, make_plan(settings))
            if path.exists():
                records.append(read_json(path))
            else:
                missing.append("python -m midre_exp " + shlex.join(job))
    return records, missing, Path(settings["paths"]["results"]) / settings["scale"], settings["data"]["name"]


def render(name: str, title: str, sweep: Sequence[str]) -> None:
    """Print the table and write its files under ``results/<scale>/``. Raises ConfigError when no run of the table has a record."""
    from midre_exp.report import page, tables

    records, missing, folder, data = collect(expand(sweep))
    if not records:
        raise ConfigError(f"table {name} has no finished run yet; leave out --no-run to run it")
    stem = name if data == "synthfaces" else f"{name}-{data}"
    comparison = tables.comparison(records)
    shown = tables.printable(comparison)
    text = tables.caption(title, records)
    written = tables.write_tables(folder, stem, comparison, text)
    html = folder / f"{stem}.html"
    page.write_page(html, title=title, caption=text, table=shown, rows=page.gallery(records), missing=missing)
    print(f"\n{shown.to_markdown(index=False, disable_numparse=True, tablefmt='simple')}\n\n{text}\n")
    for command in missing:
        print(f"not run yet: {command}")
    print("written: " + ", ".join(str(path) for path in [*written, html]))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m midre_exp.report", description=__doc__)
    parser.add_argument("table", help="a file of conf/table without .yaml")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides added to the table's sweep")
    parser.add_argument("--no-run", action="store_true", help="render what is there, launch nothing")
    options = parser.parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        table = load_table(options.table)
        sweep = [*table["sweep"], *options.overrides]
        code = 0 if options.no_run else run_missing(sweep)
        if code in (0, 2) and (code == 0 or _any_finished(sweep)):
            render(options.table, table["title"], sweep)
        return code
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, options.overrides)}", file=sys.stderr)
        return 2


def _any_finished(sweep: Sequence[str]) -> bool:
    """After a sweep with failures: whether there is anything to show."""
    try:
        return bool(collect(expand(sweep))[0])
    except (UserError, HydraException, OmegaConfBaseException):
        return False


if __name__ == "__main__":
    sys.exit(main())
