"""The registry of setups as a table (Table 2 of the paper), with what of each has been run at a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from midre_exp.config import CONF_DIR, plain
from midre_exp.planning import packaged_configs, settings_of
from midre_exp.report import page, tables
from midre_exp.report.arms import arm_of
from midre_exp.report.cells import read_records, results_folder
from midre_exp.report.definitions import Definition
from midre_exp.report.inconsistencies import INCONSISTENCIES

#: The comparison every setup is for; what a setup without it still lacks.
LEAST = ("nodef", "midre")


def list_setups(definition: Definition, overrides: Sequence[str]) -> list[Path]:
    """Print the listing and write its files under ``results/<scale>/``; returns the paths."""
    with packaged_configs():
        settings = settings_of([part for part in overrides if not part.startswith("hydra")])
    scale, folder = str(settings["scale"]), results_folder(settings)
    table, missing = listing(definition.setups, read_records(settings))
    kept = (
        [f"paths.results={settings['paths']['results']}"] if settings["paths"]["results"] != "results" else []
    )
    commands = [
        f"python -m midre_exp -m setup={name} defense={','.join(LEAST)} scale={scale} {' '.join(kept)}".rstrip()
        for name in missing
    ]
    shown = table.astype(str)
    text = (
        f"{definition.title}. Data and resolution are the paper's; certainty says how sure it is that the paper has this setup. "
        f"Runs: finished at scale {scale}{', on synthetic faces' if scale != 'paper' else ''}, counting defenses and seeds."
    )
    notes = [" ".join(INCONSISTENCIES[number] for number in definition.inconsistencies)]
    written = tables.write_tables(folder, definition.name, table, shown, text, notes)
    html = folder / f"{definition.name}.html"
    page.write_page(
        html, title=definition.title, caption=text, table=shown, rows=[], missing=commands, notes=notes
    )
    print(
        f"\n{shown.to_markdown(index=False, disable_numparse=True, tablefmt='simple')}\n\n{text}\n\n{notes[0]}\n"
    )
    if missing:
        print(
            f"without {' and '.join(LEAST)} at this scale: {len(missing)} setups; for the first: {commands[0]}"
        )
    print("written: " + ", ".join(str(path) for path in [*written, html]))
    return [*written, html]


def listing(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[pd.DataFrame, list[str]]:
    """One row for each setup, and the names of those that lack a run of the least comparison."""
    rows, missing = [], []
    for name in names:
        entry: dict[str, Any] = plain(OmegaConf.load(CONF_DIR / "setup" / f"{name}.yaml"))
        setup = entry["setup"]
        runs = [record for record in records if record["setup"]["id"] == setup["id"]]
        arms = {arm_of(record["defense"]["parts"]).names for record in runs}
        if not {(), ("MIDRE",)} <= arms:
            missing.append(name)
        rows.append(
            {
                "setup": name,
                "attack": setup["attack"],
                "sees": setup["attack_type"],
                "target": setup["target"],
                "private": setup["private"],
                "public": setup["public"],
                "px": entry["resolution"],
                "MIDRE": " ".join(f"[{low:g}, {high:g}]" for low, high in setup["midre_ranges"]),
                "certainty": setup["certainty"],
                "runs": len(runs),
            }
        )
    return pd.DataFrame(rows), missing
