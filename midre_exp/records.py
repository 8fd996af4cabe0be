"""Run records: one JSON file per finished run, the only source of tables, figures and pages.

Beside the ``records`` folder, ``checksums`` holds one line of sha256sum for each record that was written
here, so that a damaged number is not taken for a result. A record that comes without (from another place, or
older) is believed.
"""

from __future__ import annotations

import logging
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from midre_exp.errors import StoreError
from midre_exp.plan.config import without
from midre_exp.plan.keys import Plan
from midre_exp.store.files import dump_json, explain, read_json, remove_file, sha256, write_atomic

SCHEMA = 1

_log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def git_commit() -> str | None:
    """The commit of the checkout this package runs from, with ``+changes`` when tracked code differs from it;
    None outside a checkout.
    """
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    code = ["midre_exp", "attacks", "defenses", "conf", "pyproject.toml"]
    try:
        head = subprocess.run(
            [*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        )
        dirty = subprocess.run(
            [*git, "status", "--porcelain", "--", *code], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head.stdout.strip() + ("+changes" if dirty.stdout.strip() else "")


@lru_cache(maxsize=1)
def versions() -> dict[str, str]:
    """Versions of what computes: python, torch and the libraries a result may depend on."""
    found = {"python": platform.python_version()}
    for name in ("midre-exp", "torch", "torchvision", "pytorch-lightning", "timm", "hydra-core"):
        found[name] = metadata.version(name)
    return found


def device_name(device: Any) -> str:
    """A readable name of a torch device: the GPU's, or the CPU's model and torch's thread count."""
    import torch

    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = re.findall(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        model = names[0] if names else model
    return f"{model}, {torch.get_num_threads()} threads"


def record_path(results: Path | str, settings: Mapping[str, Any], plan: Plan) -> Path:
    """Where a run's record lies: ``results/<scale>/records/<setup>-<defenses>-s<seed>-<key>.json``."""
    defenses = "+".join(settings["defense"])
    name = f"{settings['setup']['id']}-{defenses}-s{settings['seed']}-{plan.key}.json"
    return Path(results) / str(settings["scale"]) / "records" / name


def make_record(
    settings: Mapping[str, Any],
    plan: Plan,
    artifacts: Mapping[str, Any],
    *,
    defense_label: str,
    device: str,
) -> dict[str, Any]:
    """The record of a run from its finished artifacts. Percent are 0 to 100, times are seconds of the build
    that made each artifact.
    """
    target, attack, metrics = artifacts["target"], artifacts["attack"], artifacts["metrics"]
    data = settings["data"]
    return {
        "schema": SCHEMA,
        "key": plan.key,
        "setup": settings["setup"],
        "scale": settings["scale"],
        "seed": settings["seed"],
        "attack": settings["attack"]["name"],
        "target": settings["target"]["name"],
        "evaluator": settings["evaluator"]["name"],
        "defense": {"label": defense_label, "parts": settings["defense"]},
        "data": {"name": data["name"], "resolution": settings["resolution"]},
        "metrics": {
            **{k: v for k, v in target.metrics.items() if k in ("acc", "train_acc")},
            "evaluator_acc": artifacts["evaluator"].metrics["acc"],
            **{k: v for k, v in metrics.metrics.items() if k not in ("missing", "per_identity", "counts")},
        },
        "per_identity": metrics.metrics["per_identity"],
        "missing": metrics.metrics.get("missing", {}),
        "counts": {
            **target.metrics["counts"],
            **artifacts["prior"].metrics["counts"],
            **attack.metrics["counts"],
            **metrics.metrics["counts"],
        },
        "queries": attack.metrics["queries"],
        # absent from artifacts made before these were counted
        **{
            name: attack.metrics[name]
            for name in ("queries_per_identity", "threat")
            if name in attack.metrics
        },
        # an attack that was split took what its parts took
        "seconds": {
            name: round(artifact.seconds + artifact.metrics.get("shard_seconds", 0), 3)
            for name, artifact in artifacts.items()
        },
        "device": device,
        "versions": versions(),
        "commit": git_commit(),
        "artifacts": {name: stage.key for name, stage in plan.stages.items()},
        "config": without(settings, "plan"),
    }


def read_record(path: Path) -> dict[str, Any]:
    """A run record with everything that tables and claims rely on. StoreError for a file that cannot be read,
    is none, or is damaged.
    """
    record = read_json(path)
    check_record(path)
    if not _is_record(record):
        raise StoreError(f"{path} is no run record; remove it, or restore it from version control")
    found: dict[str, Any] = record
    return found


#: What every record has, by the names on the way to it.
_FIELDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("scale", "attack", "target", "setup.id", "data.name", "defense.label"), str),
    **dict.fromkeys(("artifacts", "defense.parts", "config.data", "config.metrics"), dict),
    "seed": int,
    "config.metrics.image_to_evaluator": list,
}


def _is_record(value: Any) -> bool:
    for place, kind in _FIELDS.items():
        if not isinstance(_at(value, place.split(".")), kind):
            return False
    metrics, counts = value.get("metrics"), value.get("counts")
    tested = _at(counts, ["private_test"])
    judged = value.get("per_identity", {})
    return (
        _are_numbers(metrics)
        and {"acc", "att_acc1", "att_acc1_low", "att_acc1_high"} <= metrics.keys()
        and _are_numbers(counts)
        and isinstance(tested, int)
        and tested > 0
        and isinstance(judged, dict)
        and all(isinstance(found, list) and _are_numbers(dict(enumerate(found))) for found in judged.values())
        and all(isinstance(part, dict) for part in value["defense"]["parts"].values())
    )


def _at(value: Any, names: Sequence[str]) -> Any:
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _are_numbers(value: Any) -> bool:
    """Whether a mapping has only finite numbers."""
    return isinstance(value, dict) and all(
        type(number) in (int, float) and abs(number) <= 1e300 for number in value.values()
    )


def checksum_path(path: Path) -> Path:
    """Where the checksum of a record lies."""
    return path.parent.parent / "checksums" / f"{path.stem}.sha256"


def check_record(path: Path) -> None:
    """Raises StoreError when a record is not byte for byte what was written; one without a checksum is
    believed.
    """
    file = checksum_path(path)
    while (known := _content(file)) is not None:
        if known == _checksum_line(path):
            return
        if _content(file) == known:  # else it was just written anew
            raise StoreError(
                f"{path} is damaged (it differs from {file.name}); run its command again to write it anew, or remove that file if you "
                "changed the record yourself"
            )


def _content(file: Path) -> bytes | None:
    """A checksum file; None if there is none."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return b""


def _checksum_line(path: Path) -> bytes:
    try:
        return f"{sha256(path)}  ../records/{path.name}\n".encode()
    except OSError as error:
        raise explain(error, path, "read") from error


def update_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record atomically, unless the one there already tells of the same artifacts.

    A record that came with a clone belongs to artifacts built elsewhere: times or numbers differ, and it is
    replaced. One of this very store keeps the commit and device of the run that made it. A damaged one is
    named by a warning and replaced.
    """
    results = ("metrics", "per_identity", "missing", "counts", "queries", "seconds", "artifacts")
    old: Any = {}
    if path.exists():
        try:
            old = read_record(path)
        except StoreError as error:
            _log.warning("record damaged, it is written anew: %s", str(error).partition(";")[0])
    if any(old.get(name) != record[name] for name in results):
        file = checksum_path(path)
        remove_file(file)  # a record without one is believed, should this process die in between
        write_atomic(path, dump_json(record))
        write_atomic(file, _checksum_line(path))


def read_records(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All records of a config's results folder and scale, in the order of their names."""
    return [read_record(path) for path in sorted((results_folder(settings) / "records").glob("*.json"))]


def results_folder(settings: Mapping[str, Any]) -> Path:
    """Where the tables of a config's scale lie."""
    return Path(settings["paths"]["results"]) / str(settings["scale"])
