"""A finished run's record as a run of Weights & Biases: its numbers as summary, its config, job type
``metrics``, the last stage of a run.

The id of the W&B run is made of the record's key, so that a record is there once however often it is pushed;
private images are never sent, reconstructions of people only with ``publish.people=true``.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError, UserError
from midre_exp.plan.config import digest, without
from midre_exp.plan.publication import may_show, people_of
from midre_exp.plan.spelling import attack_name
from midre_exp.store.files import read_json, write_json
from midre_exp.store.store import Places, Store
from midre_exp.tracking.pictures import grid
from midre_exp.tracking.tracker import goes_online, wandb_run

_PICTURES = 64  # identities of which one reconstruction is shown


def show_record(settings: Mapping[str, Any], record: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Push the record of a run that has just finished, unless tracking is off. The run is done whatever comes
    of it, so trouble is only a sentence.
    """
    if settings["tracking"]["mode"] == "off":
        return
    try:
        push_record(record, settings)
    except UserError as error:
        say(f"the record is not in W&B: {error}; python -m midre_exp.report wandb does it later")


def push_record(record: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Push one record; False when this very record was pushed before from these folders, to the same place.

    Of ``settings`` count ``tracking``, not off; ``paths``, whose store may still have the reconstructions;
    and ``publish``, without which nobody real is shown or named. Raises ConfigError as ``wandb_run``.
    """
    tracking, paths = settings["tracking"], settings["paths"]
    shown = may_show({**record["config"], "publish": settings["publish"]})
    folder = Path(paths["runs"]) / "wandb" / f"record-{record['key']}"
    state = {
        "record": digest(record),
        "online": goes_online(tracking),
        **{key: tracking[key] for key in ("project", "entity")},
        **({"people": True} if shown and people_of(record["config"]) != "synthetic" else {}),
    }
    note = folder / "pushed.json"
    try:
        if read_json(note) == state:
            return False
    except StoreError:  # never pushed, or nobody knows
        pass
    shutil.rmtree(folder, ignore_errors=True)  # an older state of it must not be synchronised after this one
    setup, defense = str(record["setup"]["id"]), record["defense"]["label"]
    with wandb_run(
        tracking,
        stage="metrics",
        group=setup,
        tags=(record["attack"], defense, record["scale"]),
        config={
            **without(record["config"], "plan"),
            "stage": {"name": "metrics", "key": record["key"], "defense": defense},
        },
        folder=folder,
        name=f"{setup} {attack_name(record['attack'])} {defense} seed {record['seed']}",
        identity=f"record-{record['key']}",
    ) as run:
        left_out = ("config", "per_identity", "test_per_identity", "claims", "classes")
        run.summary.update(without(record, *left_out))
        run.log(_tables(record) | (_pictures(record, paths["store"]) if shown else {}))
    write_json(note, state)
    return True


def _tables(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row for each attacked identity; records from before these were stored have none."""
    import wandb  # a run that is not tracked never loads it

    columns: Mapping[str, Sequence[float]] = record.get("per_identity") or {}
    if not columns:
        return {}
    rows = [[label, *values] for label, values in enumerate(zip(*columns.values(), strict=True))]
    return {"identities": wandb.Table(columns=["identity", *columns], data=rows)}


def _pictures(record: Mapping[str, Any], store: Places) -> dict[str, Any]:
    """The first reconstruction of the first identities, as one picture."""
    import wandb

    key = record["artifacts"].get("attack")  # a suite of attacks has none of its own
    attack = None if key is None else Store(store).find("attack", key)
    if attack is None:
        return {}
    tensors = attack.tensors("reconstructions")
    first = (tensors["restarts"] == 0) & (tensors["labels"] < _PICTURES)
    return {"reconstructions": wandb.Image(grid(tensors["images"][first]))} if bool(first.any()) else {}
