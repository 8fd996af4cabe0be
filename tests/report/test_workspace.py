from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from attacks.rlbmi import Throughput
from midre_exp.errors import ConfigError
from midre_exp.metrics.fid import Fid
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.report.__main__ import main
from midre_exp.report.definitions import REPORT_CONF
from midre_exp.report.tables.comparison import COLUMNS
from midre_exp.report.wandb.dashboard import Name, Panel, Section, View, load_views
from midre_exp.report.wandb.workspace import save_workspace
from midre_exp.run import run
from midre_exp.runtime import Runtime
from tests.attacks import test_lomma
from tests.conftest import tiny_overrides
from tests.priors.small import public, small, victim

ROOT = Path(__file__).parents[2]
VIEWS = {view.name: view for view in load_views()}


# names


class Notes:
    """A tracker that keeps the names it is told."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def log(self, values, step):
        self.names |= set(values)

    def images(self, name, images, step):
        self.names.add(name)


def told(path: Path) -> Iterator[Any]:
    """The messages in the file of an offline run: a head of 7 bytes, then blocks of 32 KiB with parts of
    messages, each with a sum, a length and a kind (1: whole, 2, 3: more follows, 4: the last).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        end = at + 7 + int.from_bytes(data[at + 4 : at + 6], "little")
        whole += data[at + 7 : end]
        if data[at + 6] in (1, 4):
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""
        at = end


def flat(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """The dotted names of everything in nested mappings."""
    for key, value in values.items():
        yield f"{before}{key}"
        if isinstance(value, dict):
            yield from flat(value, f"{before}{key}.")


def names_in(path: Path) -> tuple[str, set[str]]:
    """The job type of an offline run, and every PLACE:NAME in its file."""
    job_type, found = "", set()
    for record in told(path):
        if record.HasField("run"):
            job_type = record.run.job_type
            settings = {item.key: json.loads(item.value_json) for item in record.run.config.update}
            found |= {f"config:{name}" for name in flat(settings)}
            found |= {f"run:{fact}" for fact, value in facts(record.run).items() if value}
        for item in record.history.item:
            path_of = [item.key] if item.key else list(item.nested_key)
            found |= {f"history:{path_of[0]}", f"history:{'.'.join(path_of)}"}
        for item in record.summary.update:
            key = item.key or ".".join(item.nested_key)
            found |= {f"summary:{name}" for name in flat({key: json.loads(item.value_json)})}
    return job_type, found


def facts(told_run: Any) -> dict[str, Any]:
    # state, time and duration are the server's own
    given = {"displayName": told_run.display_name, "group": told_run.run_group, "jobType": told_run.job_type}
    return {**given, "tags": list(told_run.tags), "state": True, "createdAt": True, "duration": True}


@pytest.fixture(scope="module")
def logged(tmp_path_factory) -> dict[str, set[str]]:
    """Every PLACE:NAME of a tiny tracked run, read from its offline files, by job type."""
    folder = tmp_path_factory.mktemp("tracked")
    with pytest.MonkeyPatch.context() as patch, packaged_configs():
        patch.setenv("NETRC", str(folder / "netrc"))
        patch.delenv("WANDB_API_KEY", raising=False)
        for name in ("LOG_EVERY", "SAMPLES_EVERY"):
            patch.setattr(f"midre_exp.priors.gan.training.{name}", 6)
        patch.chdir(folder)
        chosen = ["tracking=wandb", "defense=[midre,bido,mid]", "target.recipe.epochs=1"]
        run(settings_of([*tiny_overrides(folder), *chosen]))
    return dict(names_in(path) for path in folder.glob("runs/wandb/*/wandb/offline-run-*/run-*.wandb"))


@pytest.fixture(scope="module")
def logged_elsewhere(tmp_path_factory) -> set[str]:
    """What trainings and attacks tell the tracker that are not part of the tiny run, by the tests of each."""
    notes = Notes()
    runtime = Runtime(tracker=notes)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("LOG_EVERY", "SAMPLES_EVERY"):
            patch.setattr(f"midre_exp.priors.gan.training.{name}", 2)
        for name in ("kedmi", "plgmi", "stylegan2"):
            prior, work = small(name, steps=2), tmp_path_factory.mktemp(name)
            prior.fit(public(40, prior.image_size), victim(), seed=0, work=work, runtime=runtime)
        patch.setattr("midre_exp.surrogates.lomma.LOG_EVERY", 1)
        students = test_lomma.small(steps=1, students=["b0", "b1", "b2"])
        work = tmp_path_factory.mktemp("lomma")
        students.fit(test_lomma.public(), test_lomma.victim(), seed=0, work=work, runtime=runtime)
    Throughput(2, 0).report(runtime, torch.ones(2), 1, 2)
    shown = {
        name
        for path in ROOT.glob("attacks/*.py")
        for name in re.findall(r"loop\.show\((\w+)=", path.read_text())
    }
    return {f"history:{name}" for name in notes.names | shown}


def recorded() -> set[str]:
    """Names in the summaries of records: of those kept with the project, and the measured columns of tables,
    for metrics whose weights no test has.
    """
    records = [json.loads(path.read_bytes()) for path in ROOT.glob("results/mini/records/*.json")]
    fid = Fid(weights=None, images="successful", official_range=False).name
    columns = {f"summary:metrics.{name}" for name in (fid, *(column for column, _, _ in COLUMNS))}
    return columns | {f"summary:{name}" for record in records for name in flat(record)}


def unlogged(view: View, logged: Mapping[str, set[str]], further: set[str]) -> set[str]:
    """What the view names and nobody logs."""
    known = further.union(*(logged.get(job_type, set()) for job_type in view.job_types))
    history = [name.removeprefix("history:") for name in known if name.startswith("history:")]
    patterns = {panel.match for section in view.sections for panel in section.panels if panel.match}
    dead = {text for text in patterns if not any(re.fullmatch(text, name) for name in history)}
    return {str(name) for name in view.names()} - known | dead


@pytest.mark.parametrize("name", VIEWS)
def test_every_name_of_the_dashboard_is_one_that_is_logged(name, logged, logged_elsewhere):
    further = recorded() if "metrics" in VIEWS[name].job_types else logged_elsewhere
    assert unlogged(VIEWS[name], logged, further) == set()


def test_a_name_that_nobody_logs_is_noticed(logged, logged_elsewhere):
    panel = Panel("lines", "t", {"y": (Name("history", "test_accuracy"),)}, match="mifd/.*")
    wrong = replace(VIEWS["stages"], sections=(Section("s", "a", 1, (panel,)),))
    assert unlogged(wrong, logged, logged_elsewhere) == {"history:test_accuracy", "mifd/.*"}


def test_runs_are_of_job_types_that_some_view_selects(logged):
    assert set(logged) == {"target", "evaluator", "prior", "attack", "metrics"}
    assert set(logged) <= {job_type for view in VIEWS.values() for job_type in view.job_types}


def test_the_page_about_wandb_tells_of_every_view_and_section():
    page = (ROOT / "docs" / "wandb.md").read_text()
    for view in VIEWS.values():
        assert f"**{view.title}**" in page
        for section in view.sections:
            assert f"| {section.title} |" in page, section.title


# the definition


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """``mine(change)``: load a good view of one panel after ``change`` was applied to it."""

    def load(change) -> list[View]:
        panel = {"kind": "lines", "title": "p", "x": "history:epoch", "y": ["history:loss"]}
        view = {
            "title": "Mine",
            "runs": {"job_types": ["target"], "columns": ["run:group"]},
            "sections": [{"title": "s", "about": "a", "panels": [panel]}],
        }
        change(view, panel)
        (tmp_path / "dashboard").mkdir(exist_ok=True)
        (tmp_path / "dashboard" / "mine.yaml").write_text(yaml.safe_dump(view))
        monkeypatch.setattr("midre_exp.report.definitions.REPORT_CONF", tmp_path)
        return load_views()

    return load


def test_a_good_view_is_read(mine):
    (view,) = mine(lambda view, panel: None)
    assert (view.name, view.title, view.job_types) == ("mine", "Mine", ("target",))
    assert view.sections[0].panels[0].names["y"] == (Name("history", "loss"),)
    assert [str(name) for name in view.names()] == ["run:group", "history:epoch", "history:loss"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda view, panel: view.pop("title"),
            r"mine.yaml needs title, runs, sections; it has runs, sections",
        ),
        (
            lambda view, panel: view["runs"].update(order="x"),
            r"runs needs job_types and may have group_by, columns; it has .*order",
        ),
        (lambda view, panel: view["runs"].update(job_types=["targets"]), r"targets is no stage; use some of"),
        (
            lambda view, panel: view["runs"].update(columns=["run:owner"]),
            r"knows no run:owner .* createdAt",
        ),
        (
            lambda view, panel: view["runs"].update(group_by=["defense.label"]),
            r"runs.group_by: defense.label is no name of this kind; write summary or config or run, a colon",
        ),
        (lambda view, panel: view.update(sections=[]), r"mine.yaml: sections is a list with something in it"),
        (
            lambda view, panel: view["sections"][0].update(columns=9),
            r"sections\[0\].columns is a number from 1 to 4, not 9",
        ),
        (
            lambda view, panel: panel.update(kind="pie"),
            r"sections\[0\].panels\[0\]: kind is one of lines, .*not pie",
        ),
        (lambda view, panel: panel.pop("x"), r"needs kind, title, x, y and may have log_y, match; it has"),
        (lambda view, panel: panel.update(y=["summary:loss"]), r"y: summary:loss .* write history, a colon"),
        (lambda view, panel: panel.update(y=[3]), r"panels\[0\].y: 3 is no text"),
        (
            lambda view, panel: panel.update(x=["history:a", "history:b"]),
            r"x is one name in a panel of kind lines",
        ),
        (lambda view, panel: panel.update(log_y="no"), r"log_y is true or false, not no"),
        (
            lambda view, panel: (panel.pop("y"), panel.update(match="(")),
            r"match: \( is no regular expression",
        ),
    ],
)
def test_a_mistake_in_a_view_is_one_sentence(mine, change, sentence):
    with pytest.raises(ConfigError, match=sentence) as caught:
        mine(change)
    assert "/dashboard/mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


# the command


@pytest.fixture
def no_key(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def printed(*overrides: str) -> dict[str, Any]:
    with redirect_stdout(io.StringIO()) as told:
        save_workspace(overrides, as_json=True)
    found: dict[str, Any] = json.loads(told.getvalue())
    return found


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    """What is printed for the mini scale of a team's project, with the project's own records."""
    pytest.importorskip("wandb_workspaces")
    results = f"paths.results={ROOT / 'results'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("WANDB_API_KEY", raising=False)
        return printed("mini", "tracking.project=faces", "tracking.entity=team", results)


def test_without_a_key_the_command_says_so_and_ends_with_2(no_key, capsys):
    assert main(["workspace"]) == 2
    told = capsys.readouterr()
    assert told.out == "" and len(told.err.splitlines()) == 1
    assert "wandb login" in told.err and "--json" in told.err
    with pytest.raises(ConfigError, match=r"tracking.mode=online needs a key"):
        save_workspace(["tracking.mode=online"])


def test_tracking_that_is_off_or_offline_saves_nothing(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for mode in ("off", "offline"):
        with pytest.raises(ConfigError, match="saved on the W&B server"):
            save_workspace([f"tracking.mode={mode}"])


def test_without_the_client_library_the_command_names_what_to_install(monkeypatch, capsys):
    for name in ("wandb_workspaces", "wandb_workspaces.workspaces", "wandb_workspaces.reports.v2"):
        monkeypatch.setitem(sys.modules, name, None)  # an import raises
    assert main(["workspace", "--json"]) == 2
    assert "pip install 'midre-exp[dashboard]'" in capsys.readouterr().err


def test_json_goes_with_the_workspace_only(capsys):
    assert main(["table1", "--json"]) == 2
    assert "--json" in capsys.readouterr().err


def test_the_printed_definition_is_what_the_yaml_says(definition):
    assert (definition["entity"], definition["project"]) == ("team", "faces")
    by_title = {view["displayName"]: view["spec"]["section"] for view in definition["views"]}
    assert set(by_title) == {f"{view.title} (mini)" for view in VIEWS.values()}
    section = by_title["Results (mini)"]
    (runs,) = section["runSets"]
    leaves = [(leaf["key"]["name"], leaf["op"], leaf["value"]) for leaf in runs["filters"]["filters"]]
    assert leaves == [("jobType", "IN", ["metrics"]), ("tags", "IN", ["mini"])]
    assert [tuple(key.values()) for key in runs["grouping"]] == [
        ("summary", "defense.label"),
        ("run", "group"),
    ]
    assert list(runs["runFeed"]["columnPinned"])[:2] == ["run:displayName", "run:group"]
    first = section["panelBankConfig"]["sections"][0]
    assert first["name"] == "Results" and first["isOpen"]
    axes = [
        (panel["config"]["xAxis"], panel["config"]["yAxis"])
        for panel in first["panels"]
        if panel["viewType"] == "Scatter Plot"
    ]
    assert axes[0] == ("summary:metrics.acc", "summary:metrics.att_acc1")
    kinds = {panel["viewType"] for panel in first["panels"]}
    assert kinds == {"Markdown Panel", "Scatter Plot", "Bar Chart"}
    assert not section["settings"]["shouldAutoGeneratePanels"]


def test_config_keys_are_written_as_the_server_keeps_them(definition):
    text = json.dumps(definition)
    assert "config:defense.value.midre.a_l" in text and "config:defense.midre" not in text


def test_a_defense_has_the_colour_it_has_in_the_figures(definition):
    views = {view["displayName"]: view["spec"] for view in definition["views"]}
    colours = views["Results (mini)"]["section"]["customRunColors"]
    undefended = {colour for key, colour in colours.items() if "NoDef" in key}
    assert undefended == {"#000000"} and len(set(colours.values())) > 4
    assert views["Stages (mini)"]["section"]["customRunColors"] == {}


def test_another_scale_has_views_of_its_own(definition):
    names = [view["name"] for view in (*definition["views"], *printed("scale=paper")["views"])]
    assert len(set(names)) == 2 * len(VIEWS)
    assert all(re.fullmatch(r"nw-[0-9a-f]{11}-v", name) for name in names)


# a server


class Server(BaseHTTPRequestHandler):
    """Answers what the client asks on the way to a saved view, and keeps the views."""

    views: dict[str, dict[str, Any]]
    told: list[dict[str, Any]]
    projects: tuple[str, ...]
    refuses: bool

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        asked = json.loads(body) if self.path == "/graphql" and body.startswith(b"{") else {"query": ""}
        query, variables = asked["query"], asked.get("variables") or {}
        answer: dict[str, Any] = {"data": {"viewer": {"id": "VXNlcjox", "entity": "me", "username": "me"}}}
        if "upsertView" in query and self.refuses:
            answer = {"errors": [{"message": "permission denied"}], "data": None}
        elif "upsertView" in query:
            self.told.append(variables)
            self.views[variables["name"]] = {"id": f"id-{variables['name']}", **variables}
            kept = {"id": f"id-{variables['name']}", "name": variables["name"]}
            answer = {"data": {"upsertView": {"view": kept, "inserted": True}}}
        elif "allViews" in query:
            view = self.views.get(variables["viewName"])
            edges = [{"node": {key: view[key] for key in ("id", "displayName", "spec")}}] if view else []
            there = variables["name"] in self.projects
            answer = {"data": {"project": {"allViews": {"edges": edges}} if there else None}}
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server(monkeypatch):
    pytest.importorskip("wandb_workspaces")

    class Own(Server):
        views, told, projects, refuses = {}, [], ("midre",), False

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{listening.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    yield Own
    listening.shutdown()
    listening.server_close()


def test_views_are_saved_as_printed_and_the_second_time_refreshed(server, capsys, definition):
    where = f"paths.results={ROOT / 'results'}"
    assert main(["workspace", "mini", where]) == 0
    assert capsys.readouterr().out == f"{len(VIEWS)} views of me/midre saved for scale mini\n"
    assert not any("id" in told for told in server.told)
    assert all((told["entityName"], told["projectName"]) == ("me", "midre") for told in server.told)
    specs = {told["name"]: told["spec"] for told in server.told}
    assert {name: json.loads(spec) for name, spec in specs.items()} == {
        view["name"]: view["spec"] for view in definition["views"]
    }
    server.told.clear()
    save_workspace(["mini", "tracking.entity=team", where])
    assert [told["id"] for told in server.told] == [f"id-{name}" for name in specs]
    assert {told["name"]: told["spec"] for told in server.told} == specs
    assert {told["entityName"] for told in server.told} == {"team"}


def test_a_project_that_is_not_there_and_a_server_that_refuses_are_sentences(server, capsys):
    assert main(["workspace", "tracking.project=nowhere"]) == 2
    assert "W&B has no project me/nowhere" in capsys.readouterr().err
    server.refuses = True
    assert main(["workspace"]) == 2
    assert "W&B did not take the dashboard (" in capsys.readouterr().err
    assert not server.told


def test_a_view_that_a_newer_page_has_saved_is_told(server):
    save_workspace(["mini"])
    for view in server.views.values():
        view["spec"] = json.dumps({**json.loads(view["spec"]), "version": 9})
    with pytest.raises(ConfigError, match=r"the view Pictures \(mini\) .*pip install --upgrade"):
        save_workspace(["mini"])


def test_the_dashboard_is_packaged_with_the_configs():
    assert {path.stem for path in (REPORT_CONF / "dashboard").glob("*.yaml")} == set(VIEWS)
