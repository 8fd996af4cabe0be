"""The dashboard at W&B: the views of midre_exp/report/conf/dashboard as saved views of the project, created
or refreshed.

Run by ``python -m midre_exp.report workspace``; ``--json`` prints what the server would be told, without a
key or a network. Each view and scale has an id of its own, so that a refreshed view keeps its address. Needs
the package wandb-workspaces, which nothing else here does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from matplotlib.colors import to_hex

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import digest
from midre_exp.plan.explain import one_line
from midre_exp.records import Record, read_records, results_folder
from midre_exp.report.figures.marks import mark_of
from midre_exp.report.runs.defense_names import published_name
from midre_exp.report.wandb.dashboard import Name, Panel, Section, View, load_views
from midre_exp.tracking.tracker import goes_online

_TIMEOUT = 20  # seconds the server may take to answer
_ID_LENGTH = 11  # characters of the ids W&B gives to views
_MOST_RUNS = 100  # lines, points or bars in a panel
_COLOURED = (Name("summary", "defense.label"), Name("run", "group"))  # groups in this order get colours


def save_workspace(overrides: Sequence[str], *, as_json: bool = False) -> None:
    """Save the views of one scale in the project the config names, or print them; ``overrides`` are Hydra's,
    a word alone is a scale.

    Raises ConfigError when midre_exp/report/conf/dashboard has a mistake, without wandb-workspaces, and,
    unless ``as_json``, without a key, a project or an answer of the server.
    """
    overrides = [part if "=" in part else f"scale={part}" for part in overrides]
    with packaged_configs():
        settings = settings_of(["tracking=wandb", *overrides])
    tracking, scale, views = settings["tracking"], str(settings["scale"]), load_views()
    if not as_json and (tracking["mode"] == "off" or not goes_online(tracking)):
        raise ConfigError(
            "a dashboard is saved on the W&B server, which takes a key and tracking.mode=auto or online; run "
            "wandb login or set WANDB_API_KEY, or see with --json what would be saved"
        )
    client = _client()
    colours = _colours(read_records(results_folder(settings)).records)
    workspaces = [
        _workspace(client, view, tracking["project"], scale, colours if _by_defense(view) else {})
        for view in views
    ]
    if as_json:
        print(json.dumps(_as_sent(workspaces, tracking), indent=1))
        return
    with _answers():
        entity = tracking["entity"] or _default_entity()
        for workspace in workspaces:
            workspace.entity = entity
            workspace._internal_id = _found(workspace)
            workspace.save()  # names the address
    print(f"{len(workspaces)} views of {entity}/{tracking['project']} saved for scale {scale}")


class _Client(NamedTuple):
    """W&B's client library: its module of views and its module of panels."""

    ws: Any
    wr: Any


def _client() -> _Client:
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise ConfigError(
            "a dashboard needs the package wandb-workspaces; pip install 'midre-exp[dashboard]' (in a "
            "checkout '.[dashboard]')"
        ) from error
    return _Client(ws, wr)


def _workspace(
    client: _Client, view: View, project: str, scale: str, colours: Mapping[tuple[str, ...], str]
) -> Any:
    """The view as an object of the client library, of no entity yet, with ids that are the same each time."""
    ws, name = client.ws, digest([view.name, scale])
    workspace = ws.Workspace(
        entity="",
        project=project,
        name=f"{view.title} ({scale})",
        sections=[
            _section(client, section, f"{name}-{place}") for place, section in enumerate(view.sections)
        ],
        settings=ws.WorkspaceSettings(max_runs=_MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            # the scale is a tag, and numbers of two scales do not belong in one panel
            filters=ws.And(
                ws.Metric("jobType").isin(list(view.job_types)),
                ws.Tags().isin([scale]),
            ),
            groupby=[_metric(client, name) for name in view.group_by],
            pinned_columns=[_column(name) for name in view.columns],
            group_colors={
                path[0] if len(path) == 1 else ws.GroupPath(*path): colour for path, colour in colours.items()
            },
        ),
    )
    # The library has no public way to choose them. It reads a view of the address ?nw=abc under the name
    # nw-abc-v.
    workspace._internal_name = f"nw-{name[:_ID_LENGTH]}-v"
    workspace._internal_runset_id = f"{name[:_ID_LENGTH]}r"
    return workspace


def _section(client: _Client, section: Section, name: str) -> Any:
    panels = [client.wr.MarkdownPanel(markdown=section.about)]
    panels += [_panel(client, panel) for panel in section.panels]
    for place, panel in enumerate(panels):
        panel._id = digest([name, place])[:_ID_LENGTH]
    return client.ws.Section(
        name=section.title,
        panels=panels,
        is_open=True,
        layout_settings=client.ws.SectionLayoutSettings(
            columns=section.columns, rows=-(-len(panels) // section.columns)
        ),
    )


def _panel(client: _Client, panel: Panel) -> Any:
    """A panel of the kind of ``dashboard.KINDS``; what W&B has no title for shows none."""
    wr, names = client.wr, {key: [name.key for name in found] for key, found in panel.names.items()}
    if panel.kind == "lines":
        return wr.LinePlot(
            title=panel.title,
            x=names["x"][0],
            y=names.get("y", []),
            metric_regex=panel.match,
            log_y=panel.log_y or None,
            legend_template="${run:displayName} ${run:tags}",
            max_runs_to_show=_MOST_RUNS,
        )
    if panel.kind == "bars":
        return wr.BarPlot(
            title=panel.title,
            metrics=names["y"],
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=_MOST_RUNS,
        )
    if panel.kind == "images":
        return wr.MediaBrowser(title=panel.title, media_keys=names["names"])
    if panel.kind == "table":
        return wr.WeavePanelSummaryTable(table_name=names["names"][0])
    axes = {key: [_axis(client, name) for name in found] for key, found in panel.names.items()}
    if panel.kind == "scatter":
        return wr.ScatterPlot(
            title=panel.title,
            x=axes["x"][0],
            y=axes["y"][0],
            log_x=panel.log_x or None,
            legend_template="${run:group} ${summary:defense.label}",
        )
    columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes["columns"]]
    return wr.ParallelCoordinatesPlot(title=panel.title, columns=columns)


def _axis(client: _Client, name: Name) -> Any:
    kind = client.wr.SummaryMetric if name.place == "summary" else client.wr.Config
    return kind(name.key)


def _metric(client: _Client, name: Name) -> Any:
    kinds = {"summary": client.ws.Summary, "config": client.ws.Config, "run": client.ws.Metric}
    return kinds[name.place](name.key)


def _column(name: Name) -> str:
    return "tags:__ALL__" if name == Name("run", "tags") else str(name)


def _by_defense(view: View) -> bool:
    return view.group_by == _COLOURED


def _colours(records: Sequence[Record]) -> dict[tuple[str, ...], str]:
    """The colour of each defense, and of its setups below it, as the figures have it; of those that have
    records here.
    """
    colours: dict[tuple[str, ...], str] = {}
    for record in records:
        label, setup = record["defense"]["label"], record["setup"]["id"]
        colour = to_hex(mark_of(published_name(record["defense"]["parts"])).colour)
        colours[label,] = colours[label, setup] = colour
    return colours


def _as_sent(workspaces: Sequence[Any], tracking: Mapping[str, Any]) -> dict[str, Any]:
    """What the server would be told, as plain values."""
    models = [workspace._to_model() for workspace in workspaces]
    return {
        "entity": tracking["entity"],
        "project": tracking["project"],
        "views": [
            {
                "name": model.name,
                "displayName": model.display_name,
                "spec": model.spec.model_dump(mode="json", by_alias=True, exclude_none=True),
            }
            for model in models
        ],
    }


def _default_entity() -> str:
    import wandb

    entity = wandb.Api(timeout=_TIMEOUT).default_entity
    if not entity:
        raise ConfigError("the W&B key has no default entity; give tracking.entity=TEAM")
    return str(entity)


def _found(workspace: Any) -> str:
    """The server's id of the view saved before, empty when there is none. Raises ConfigError without the
    project.
    """
    from wandb_workspaces.workspaces.errors import SpecVersionError
    from wandb_workspaces.workspaces.internal import get_view_dict

    entity, project, name = workspace.entity, workspace.project, workspace._internal_name
    try:
        return str(get_view_dict(entity, project, name.removeprefix("nw-").removesuffix("-v"))["id"])
    except SpecVersionError as error:
        raise ConfigError(
            f"the view {workspace.name} was last saved in a form that the installed wandb-workspaces does "
            "not read; pip install --upgrade wandb-workspaces, or delete the view"
        ) from error
    except ValueError as error:
        if str(error).startswith("Workspace"):  # the project is there, the view is not
            return ""
        raise ConfigError(
            f"W&B has no project {entity}/{project} that the key can see; push records with "
            "python -m midre_exp.report wandb, or mend tracking.project and tracking.entity"
        ) from error


@contextmanager
def _answers() -> Iterator[None]:
    """Turns what the client library raises when the server does not answer, or not as hoped, into a
    ConfigError.
    """
    import wandb
    from wandb.sdk.lib.service.service_connection import WandbApiFailedError

    try:
        yield
    except (wandb.Error, WandbApiFailedError) as error:
        raise ConfigError(
            f"W&B did not take the dashboard ({one_line(str(error)).rstrip('.')}); try again, or see with "
            "--json what would be saved"
        ) from error
