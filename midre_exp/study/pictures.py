"""What a run shows people: its reconstructions, and the photographs of the people it attacked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, Part
from midre_exp.errors import ConfigError, StoreError
from midre_exp.metrics import only_selected
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build, config_files, trusted_packages
from midre_exp.plan.publication import is_kept_by_git, shows_people, withheld
from midre_exp.records import Record
from midre_exp.records.comparable import private_images
from midre_exp.store.artifact import Artifact
from midre_exp.store.store import Store


def check_comparable(records: Sequence[Record], files: Sequence[Path]) -> None:
    """Raises ConfigError for runs on different private images, and for one run given twice."""
    first = private_images(records[0]["config"])
    runs = {records[0]["key"]: files[0]}
    for record, file in zip(records[1:], files[1:], strict=True):
        if private_images(record["config"]) != first:
            raise ConfigError(
                f"{files[0]} and {file} attack different private images; choose runs on the same data and "
                "split"
            )
        if record["key"] in runs:
            raise ConfigError(f"{runs[record['key']]} and {file} are the same run; choose others")
        runs[record["key"]] = file


def own_settings(record: Record, file: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The user's own config of the setup, data and scale that a record names. Raises ConfigError when its
    private images are not those that the record describes.
    """
    names = {"setup": record["setup"]["id"], "data": record["data"]["name"], "scale": record["scale"]}
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    for group, name in names.items():
        if group not in given and name not in config_files(group):
            raise ConfigError(
                f"{file} is of {group} {name}, which is none of your configs; give {group}=NAME behind the "
                "records, with --config-dir if it is your own"
            )
    chosen = [f"{group}={name}" for group, name in names.items() if group not in given]
    with packaged_configs():
        settings = settings_of([*chosen, *overrides])
    recorded, own = (private_images(config, moved=True) for config in (record["config"], settings))
    if differing := [name for name, value in recorded.items() if own.get(name) != value]:
        name = differing[0]
        raise ConfigError(
            f"{file} attacked private images of which {', '.join(differing)} differ from those of your "
            f"config ({name}: {recorded[name]!r} there, {own.get(name)!r} here); give the overrides of its "
            f"run behind the records, for example data.private.{name}=VALUE"
        )
    return settings


def private_photographs(settings: Mapping[str, Any], part: Part, place: Path) -> ImageSet:
    """The photographs of a part of the private images, to be shown in a file or folder. Raises ConfigError
    for people that are not to be shown, and where git would keep them.
    """
    dataset = build(settings["data"]["private"], kind=Dataset, trusted=trusted_packages(settings))
    if reason := withheld(settings):
        raise ConfigError(f"{reason} Give it behind the records, if {place} may show them")
    if shows_people(settings) and is_kept_by_git(place):
        raise ConfigError(
            f"{place} would hold private photographs where git keeps it; give --out outside of the checkout "
            "or where git ignores it"
        )
    photographs: ImageSet = dataset.load(part)
    return photographs


def reconstructions_of(record: Record, store: Store, *, judged: bool = False) -> dict[str, Tensor]:
    """The reconstructions of a run that count, in the order of their restarts: ``images`` uint8
    [n, 3, h, w], ``labels`` and ``restarts`` int64 [n]; with ``judged`` also ``hits`` bool [n], whether the
    evaluator takes each for its identity. Raises StoreError when they are gone.
    """
    tensors = _artifact(record, store, "attack").tensors("reconstructions")
    names = ["images", "labels", "restarts"]
    kept = {name: tensors[name] for name in names}
    if judged:
        hits = _artifact(record, store, "metrics").tensors("judgement")["predicted"] == tensors["labels"]
        if "failed" in tensors:
            hits &= ~tensors["failed"].bool()
        kept["hits"] = hits
    if "selected" in tensors:
        kept = only_selected({**kept, "selected": tensors["selected"]})
        del kept["selected"]
    order = kept["restarts"].argsort(stable=True)
    return {name: value[order] for name, value in kept.items()}


def pictures_digest(record: Record, store: Store) -> str:
    """The checksum of a run's stored reconstructions: what a verdict on them is about."""
    files = _artifact(record, store, "attack").manifest["files"]
    return str(files["reconstructions.safetensors"]["sha256"])


def rows_by_label(labels: Tensor) -> dict[int, Tensor]:
    """By label its rows, in order: int64 [k]."""
    return {int(label): (labels == label).nonzero().squeeze(1) for label in labels.unique()}


def _artifact(record: Record, store: Store, stage: str) -> Artifact:
    if "suite" in record:
        raise ConfigError(
            f"run {record['key']} is of the suite {record['attack']}, whose members made the pictures; give "
            "the record of a member"
        )
    artifact = store.find(stage, record["artifacts"][stage])
    if artifact is None:
        what = "reconstructions" if stage == "attack" else "metrics"
        raise StoreError(
            f"the {what} of run {record['key']} are not in {store}; run it again, or give the right folder "
            "with --store"
        )
    return artifact
