"""``midre-exp report site``: a folder of pages that opens from disk, made of records and of what was rendered
from them. Nothing is fetched and nothing is run.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from midre_exp.errors import ConfigError
from midre_exp.plan.config import without
from midre_exp.plan.publication import NOTICE
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.records import Record
from midre_exp.report.claims.intervals import ComparisonGroup
from midre_exp.report.runs.captions import alarms_of, passed_over
from midre_exp.report.runs.commands import command_of
from midre_exp.report.runs.convergence import verdicts
from midre_exp.report.runs.folders import FoundRecord, FoundRecords, ResultsFolder, read_folders
from midre_exp.report.runs.listing import is_informed
from midre_exp.report.site import charts
from midre_exp.report.site.contents import Answers, Exhibit, answers_of, exhibits_of
from midre_exp.report.site.leaderboard import (
    BROKEN,
    OPEN_SET,
    ROBUST,
    THREATS,
    Row,
    Track,
    TrackRow,
    over_seeds,
    rows_of,
    slug,
    tracks_of,
)
from midre_exp.report.site.protocol import budget_of, card_of, knowledge_of
from midre_exp.report.site.reported import ReportedTrack, reported_tracks
from midre_exp.report.templates import Column, templates_of
from midre_exp.store.files import remove_file, write_atomic

#: Where the site goes when no folder is given, and what is written there to know it again.
OUT, LIST = "leaderboard", "files.txt"
#: Of a record what pages do not show: names of people and folders of the machine that made it.
HIDDEN = ("classes", "found_in")
_ASSETS = ("site.css", "site.js")
_log = logging.getLogger(__name__)

#: A link: its words and where it leads.
Link = tuple[str, str]


def render_site(places: Sequence[str | Path], out: Path | str = OUT) -> Path:
    """Write the site of all records in ``places``; returns its first page. Raises ConfigError where a place
    holds no records, or ``out`` holds files that are not of a site.
    """
    out = Path(out)
    former = _former(out)
    files = Site(read_folders(places)).files()
    for name, content in files.items():
        write_atomic(out / name, content)
    for name in former - set(files):
        remove_file(out / name)
    write_atomic(out / LIST, "\n".join(sorted(files)) + "\n")
    print(f"written: {out / 'index.html'} and {len(files) - 1} files beside it")
    return out / "index.html"


def _former(out: Path) -> set[str]:
    """The files of a site that lies there already."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return set()
    try:
        names = (out / LIST).read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{out} is no site of ours, so nothing is written into it; give another --out"
        ) from None
    return {name for name in names if _is_plain(name)}


def _is_plain(name: str) -> bool:
    """Whether a name stays within its folder."""
    return bool(name) and all(re.fullmatch(r"[\w.+-]*[\w+-][\w.+-]*", part) for part in name.split("/"))


@dataclass(frozen=True)
class Site:
    """All pages of some records, by their paths."""

    found: FoundRecords

    def files(self) -> dict[str, str | bytes]:
        """Every file of the site, by its path."""
        here = Path(__file__).parent
        pages: dict[str, str | bytes] = {name: (here / name).read_bytes() for name in _ASSETS}
        pages["index.html"] = self._index()
        pages["runs.html"] = self._runs()
        pages["track/reported.html"] = self._page(
            "reported", "../", "Reported by the paper", tracks=self.reported
        )
        pages.update({f"track/{track.slug}.html": self._track(track) for track in self.tracks})
        pages.update({f"row/{row.slug}.html": self._row(row) for row in self.rows})
        pages.update({self.record_page(one): self._record(one) for one in self.found.records})
        for one in self.exhibits:
            folder = self._place(one.folder)
            pages[f"{folder}/{one.name}.html"] = self._exhibit(one)
            pages.update({f"{folder}/{path.name}": path.read_bytes() for path in one.files})
        for answers in self.answers:
            pages[f"{self._place(answers.folder)}/claims.html"] = self._claims(answers)
        return pages

    # what there is

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of all leaderboards."""
        known = {name: word for folder in self.found.folders for name, word in verdicts(folder.path).items()}
        return rows_of(self.found.records, known)

    @cached_property
    def tracks(self) -> list[Track]:
        """All leaderboards of records."""
        return tracks_of(self.rows)

    @cached_property
    def reported(self) -> list[ReportedTrack]:
        """Those of the paper's numbers."""
        return reported_tracks()

    @cached_property
    def exhibits(self) -> list[Exhibit]:
        """Tables and figures of all folders."""
        every = [one for folder in self.found.folders for one in exhibits_of(folder, self.found.records)]
        return [one for one in every if _is_plain(one.name)]

    @cached_property
    def answers(self) -> list[Answers]:
        """The claims of all folders that have them."""
        found = []
        for folder in self.found.folders:
            groups: dict[str, list[FoundRecord]] = {}
            for one in self.found.records:
                if one.folder == folder:
                    groups.setdefault(_group_name(one.record), []).append(one)
            answers = answers_of(folder, groups)
            found += [answers] if answers is not None else []
        return found

    @cached_property
    def _row_of(self) -> dict[tuple[str, str], str]:
        """The row of each record that is in one."""
        return {(row.scale, record["key"]): row.slug for row in self.rows for record in row.records}

    @cached_property
    def _used(self) -> dict[tuple[str, str], dict[str, str]]:
        """By record, the tables, figures and claims that show it, and their pages from the top."""
        used: dict[tuple[str, str], dict[str, str]] = {}

        def note(each: Iterable[FoundRecord], words: str, page: str) -> None:
            for one in each:
                used.setdefault(_name(one), {})[words] = page

        for exhibit in self.exhibits:
            note(
                exhibit.records,
                f"{exhibit.folder.label} {exhibit.name}",
                f"{self._place(exhibit.folder)}/{exhibit.name}.html",
            )
        for answers in self.answers:
            for number, claim in enumerate(answers.claims, start=1):
                page = f"{self._place(answers.folder)}/claims.html#{number}"
                for case in claim.cases:
                    note(case.records, f"claim: {claim.told['statement']}", page)
        return used

    # where it lies

    @cached_property
    def _places(self) -> dict[ResultsFolder, str]:
        found: dict[ResultsFolder, str] = {}
        for number, folder in enumerate(self.found.folders):
            name = slug(folder.label) or "results"
            found[folder] = name if name not in found.values() else f"{name}-{number}"
        return found

    def _place(self, folder: ResultsFolder) -> str:
        return f"shown/{self._places[folder]}"

    def record_page(self, one: FoundRecord) -> str:
        """The path of the page of a record."""
        return f"record/{self._places[one.folder]}-{one.record['key']}.html"

    def _used_links(self, each: Iterable[FoundRecord], root: str) -> list[Link]:
        pages = {words: page for one in each for words, page in self._used.get(_name(one), {}).items()}
        return [(words, root + page) for words, page in pages.items()]

    def _record_links(self, each: Iterable[FoundRecord], root: str, words: str) -> list[Link]:
        return [
            (words.format(r=one.record, run=_attack_on(one.record)), root + self.record_page(one))
            for one in each
        ]

    # pages

    @cached_property
    def _templates(self) -> Any:
        return templates_of("midre_exp.report.site")

    def _page(self, template: str, root: str, title: str, **values: Any) -> str:
        page: str = self._templates.get_template(f"{template}.html.j2").render(
            root=root, title=title, notice=NOTICE, **values
        )
        return page.lstrip()

    def _index(self) -> str:
        repeated, differing = self.found.repeated, self.found.differing
        again = f"{repeated} records of runs that an earlier folder has are left out" if repeated else ""
        again += f", {differing} of them with other numbers." if differing else "." if repeated else ""

        def entries(kind: str) -> list[dict[str, Any]]:
            return [
                {
                    "href": f"{self._place(one.folder)}/{one.name}.html",
                    "picture": one.picture and f"{self._place(one.folder)}/{one.picture}",
                    "folder": one.folder.label,
                    "name": one.name,
                    "title": one.title,
                }
                for one in self.exhibits
                if one.kind == kind
            ]

        return self._page(
            "index",
            "",
            "Results",
            count=len(self.found.records),
            folders=self.found.folders,
            remark=" ".join(filter(None, [passed_over(self.found.passed_over), again])),
            tracks=[_summary(track) for track in self.tracks],
            reported=self.reported,
            answers=[
                {
                    "place": self._places[one.folder],
                    "label": one.folder.label,
                    "counts": one.counts,
                }
                for one in self.answers
            ],
            tables=entries("table"),
            figures=entries("figure"),
        )

    def _track(self, track: Track) -> str:
        panels: dict[tuple[str, ...], list[TrackRow]] = {}
        for each in track.rows:
            panels.setdefault((each.row.target, each.row.protocol), []).append(each)
        return self._page(
            "track",
            "../",
            track.title,
            lines=[(each, command_of(each.worst.records)) for each in track.rows],
            views=", ".join(list(THREATS.values())[list(THREATS).index(track.threat) :]),
            robust=ROBUST,
            broken=BROKEN,
            charts=[
                charts.trade_off(
                    f"{own[0].row.target} ({', '.join(own[0].row.setups)})", own, "../row/{}.html"
                )
                for own in panels.values()
                if len(own) > 1
            ],
            width=charts.WIDTH,
            height=charts.HEIGHT,
        )

    def _row(self, row: Row) -> str:
        by_key = {one.record["key"]: one for one in row.found}
        lines = {f"{one.name} ({one.group.setup})": _by_identity(one.records) for one in row.attacks}
        known = {name: values for name, values in lines.items() if values}
        own = [(track, each) for track in self.tracks for each in track.rows if each.row is row]
        curves = [
            charts.exposure(known) if known else None,
            charts.acceptance({f"{a.name}, seed {r['seed']}": r for a in row.attacks for r in a.records}),
            charts.robustness(list(_once_by_target(row.records))),
        ]
        return self._page(
            "row",
            "../",
            f"{row.shown} on {row.target}, scale {row.scale}, {row.data} at {row.resolution} px",
            row=row,
            status=next(iter(dict.fromkeys(each.status for _, each in own)), ""),
            tracks=[(track.title, f"../track/{track.slug}.html") for track, _ in own],
            attacks=[
                {
                    "attacked": one,
                    "knowledge": knowledge_of(one.records[0]),
                    "all_judges": over_seeds(one.records, "att_acc1_all_judges"),
                    "open_set": over_seeds(one.records, OPEN_SET),
                    "budget": budget_of(one.records[0]),
                    "records": self._record_links(
                        (by_key[r["key"]] for r in one.records), "../", "{r[setup][id]} seed {r[seed]}"
                    ),
                    "command": command_of(one.records),
                }
                for one in row.attacks
            ],
            suites=[
                {
                    "name": one.name,
                    "seed": r["seed"],
                    "members": r["suite"]["members"],
                    "aggregates": r["suite"]["aggregates"],
                }
                for one in row.attacks
                if one.is_suite
                for r in one.records
            ],
            strips=[charts.strip(name, values) for name, values in known.items()],
            curves=[one for one in curves if one is not None],
            card=card_of(row),
            used=self._used_links(row.found, "../"),
            robust=ROBUST,
            width=charts.WIDTH,
            height=charts.HEIGHT,
        )

    def _record(self, one: FoundRecord) -> str:
        record = one.record
        shown = without(record, *HIDDEN)
        shown["config"] = without(record["config"], "paths")
        return self._page(
            "record",
            "../",
            f"{record['setup']['id']}: {_attack_on(record)}, {record['defense']['label']}",
            record=record,
            file=f"{one.folder.label}/records/{one.path.name}",
            origin=one.origin or "this project",
            row=self._row_of.get(_name(one)),
            command=command_of([record]),
            used=self._used_links([one], "../"),
            alarms=alarms_of(record),
            missing=list(record.get("missing", {}).items()),
            content=json.dumps(shown, indent=1, ensure_ascii=False),
        )

    def _exhibit(self, one: Exhibit) -> str:
        values = [list(column) for column in zip(*one.lines, strict=True)] or [[] for _ in one.headings]
        return self._page(
            "exhibit",
            "../../",
            f"{one.folder.label}: {one.name}. {one.title}",
            picture=one.picture,
            columns=[
                Column.of(heading, column or [""])
                for heading, column in zip(one.headings, values, strict=True)
            ],
            lines=one.lines,
            text=one.text,
            files=[(path.name, path.name) for path in one.files],
            records=self._record_links(
                one.records,
                "../../",
                "{r[setup][id]} {run}, {r[defense][label]}, seed {r[seed]}",
            ),
        )

    def _claims(self, answers: Answers) -> str:
        claims = [
            {
                "told": claim.told,
                "bar": claim.bar,
                "cases": [
                    {
                        "told": case.told,
                        "links": self._record_links(case.records, "../../", "{r[defense][label]} s{r[seed]}"),
                    }
                    for case in claim.cases
                ],
            }
            for claim in answers.claims
        ]
        return self._page(
            "claims",
            "../../",
            f"Claims at {answers.folder.label}",
            caption=answers.caption,
            claims=claims,
            forest=any(one.folder == answers.folder and one.name == "forest" for one in self.exhibits),
        )

    def _runs(self) -> str:
        headings = [
            ("Run", "words"),
            *((name, "words") for name in ("Scale", "Setup", "Attack", "Target", "Defense", "Seed")),
        ]
        headings += [("Acc", "numbers"), ("AttAcc", "numbers"), ("Made by", "words")]
        lines = []
        for one in self.found.records:
            record = one.record
            attack = f"{attack_name(record['attack'])}{', informed' if is_informed(record) else ''}"
            lines.append(
                {
                    "href": self.record_page(one),
                    "key": record["key"],
                    "words": [
                        record["scale"],
                        record["setup"]["id"],
                        attack,
                        network_name(record["target"]),
                        record["defense"]["label"],
                        record["seed"],
                    ],
                    "numbers": [record["metrics"]["acc"], record["metrics"].get("att_acc1")],
                    "status": one.origin or "this project",
                }
            )
        return self._page("runs", "", "All runs", headings=headings, lines=lines)


def _summary(track: Track) -> dict[str, Any]:
    attacks = [one.name for each in track.rows for one in each.attacks]
    return {
        "slug": track.slug,
        "title": track.title,
        "rows": track.rows,
        "targets": list(dict.fromkeys(each.row.target for each in track.rows)),
        "attacks": sorted(set(attacks)),
        "seeds": max(len(each.row.seeds) for each in track.rows),
    }


def _name(one: FoundRecord) -> tuple[str, str]:
    return one.record["scale"], one.record["key"]


def _attack_on(record: Record) -> str:
    return f"{attack_name(record['attack'])} on {network_name(record['target'])}"


def _group_name(record: Record) -> str:
    """What claims call the group of a record."""
    return str(
        ComparisonGroup(record["setup"]["id"], record["attack"], record["target"], record["data"]["name"], ())
    )


def _by_identity(records: Sequence[Record]) -> list[float]:
    """Percent of each identity's reconstructions that are recognised, the mean over seeds; empty unless all
    seeds tell of as many identities.
    """
    each = [record.get("per_identity", {}).get("att_acc1", []) for record in records]
    same = len({len(values) for values in each}) == 1
    return [fmean(values) for values in zip(*each, strict=True)] if same else []


def _once_by_target(records: Sequence[Record]) -> Iterable[Record]:
    """One record of each target."""
    known: Mapping[str, Record] = {
        str(record["artifacts"].get("target", record["key"])): record
        for record in records
        if "diagnostics" in record
    }
    return known.values()
