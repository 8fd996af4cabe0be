"""What two configs, of today or in records, have in common when their runs are of the same thing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from midre_exp.numerics import Numerics
from midre_exp.plan.config import without
from midre_exp.plan.keys import is_pretrained_here, learns_from_others

#: What of a config may differ between two runs of the same thing: where and how it was carried out, and what
#: earlier versions kept in it besides.
EXECUTION = ("paths", "runtime", "plan", "tracking", "publish", "composer")
#: Classes and options that records of earlier versions know by another name.
FORMER_NAMES = {
    "Search": "InitialSelection",
    "StageAccuracy": "PhaseAccuracy",
    "counted": "select",
    "choice": "select",
    "people": "select",
}
#: Options that are gone, with the value that they always have now.
GONE_OPTIONS = {"precision": "32-true"}
#: Options that came after records were written, with the value under which everything is as before.
LATER_OPTIONS: dict[str, object] = {
    "floor": "chance",
    "unreadable": "refuse",
    "split": "auto",
    "order": "alphabetical",
    "vary": ["training", "attack"],
    "version": 1,  # of synthetic faces, with what belongs to it
    "per_photo": ["clothes"],
    "occluders": 0,
}
#: What a run says besides, of the same reconstructions and the same target, and how keys of data begin that
#: these alone read.
JUDGES = ("jury", "open_set", "traits", "diagnostics")
_JUDGES_DATA = ("verification", "trait")
#: Metrics that came after records were written and change none of the others: without such a number a record
#: is of the same thing, and a table says that it was not measured.
LATER_METRICS = ("LastSeedAccuracy", "OfficialFid", "RebuiltEvaluator", "StretchedKnnDistance")


def comparable_config(settings: Mapping[str, Any], *, data_folders: bool = False) -> dict[str, Any]:
    """What of a config, of today or of a record, two runs of the same thing have in common.

    Left out are how and where it is carried out and, unless ``data_folders``, in which folders its data lie;
    of images of the user's own the folder is all that tells them from others.
    """
    config = without(settings, *EXECUTION, *JUDGES)  # further judges change no number of the others
    for name in ("target", "evaluator"):  # what a defense takes of these defaults stands in the defense
        node = config.get(name)
        if isinstance(node, Mapping):
            unused = () if is_pretrained_here(node) else ("pretraining",)
            config[name] = without(node, "defense_defaults", *unused)
    kept = without(settings["data"], "store", "people")  # where images are kept, and who may see them
    starts_here = any(is_pretrained_here(settings.get(name) or {}) for name in ("target", "evaluator"))
    if not (starts_here or learns_from_others(settings)):
        kept = {key: value for key, value in kept.items() if not key.startswith("pretraining")}
    kept = {key: value for key, value in kept.items() if not key.startswith(_JUDGES_DATA)}
    config["data"] = {
        name: _node(node, data_folders) if isinstance(node, Mapping) else node for name, node in kept.items()
    }
    metrics, attack = config.get("metrics"), config.get("attack")
    if isinstance(metrics, Mapping) and metrics.get("pictures", "eight_bit") == "eight_bit":
        config["metrics"] = without(metrics, "pictures")  # the kept images are judged, as before
        if isinstance(attack, Mapping):
            config["attack"] = without(attack, "judged")
    if isinstance(numerics := config.get("numerics"), Mapping):
        config["numerics"] = comparable_numerics(numerics)
    shared: dict[str, Any] = comparable(config)
    measure = shared.get("metrics", {}).get("measure", {})
    for name in [name for name, node in measure.items() if node.get("_target_") in LATER_METRICS]:
        del measure[name]
    return shared


def comparable_numerics(node: Mapping[str, Any]) -> str | None:
    """How a run rounded, in words; None for single precision in one order, as records from before there was
    a choice were made on processors.
    """
    try:
        numerics = Numerics(**without(node, "why"))
        return None if numerics == Numerics() else str(numerics)
    except TypeError:  # of somebody else's record
        return repr(node)


def numerics_of(config: Mapping[str, Any]) -> str:
    """The same, in words for every config."""
    node = config.get("numerics")
    return (comparable_numerics(node) if isinstance(node, Mapping) else None) or str(Numerics())


def private_images(config: Mapping[str, Any], *, moved: bool = False) -> dict[str, Any]:
    """What a config says of its private images, wherever an official download lies; ``moved``: wherever a
    folder of the user's own lies too.
    """
    node = config["data"].get("private")
    if not isinstance(node, Mapping):
        return {}
    found: dict[str, Any] = comparable(node if is_own_folder(node) and not moved else _moved(node))
    return found


def is_own_folder(node: Mapping[str, Any]) -> bool:
    """Whether a data node is of a folder of the user's own: what is in it, its path alone tells."""
    return _class_name(node.get("_target_")) == "FaceFolder"


def _node(node: Mapping[str, Any], data_folders: bool) -> dict[str, Any]:
    return without(node, "store") if data_folders or is_own_folder(node) else _moved(node)


def _moved(node: Mapping[str, Any]) -> dict[str, Any]:
    return without(node, "root", "store")


def comparable(node: Any) -> Any:
    """A config node with classes by their names alone, wherever they live, under today's names, and without
    options that are off or new and as before: one that came after a record was written makes no difference.
    """
    if isinstance(node, Mapping):
        values = {
            FORMER_NAMES.get(key, key): _class_name(value) if key == "_target_" else comparable(value)
            for key, value in node.items()
        }
        return {
            key: value
            for key, value in values.items()
            if value is not None
            and value is not False
            and value != {}
            and LATER_OPTIONS.get(str(key)) != value
            and GONE_OPTIONS.get(str(key)) != value
        }
    return [comparable(value) for value in node] if isinstance(node, list) else node


def _class_name(path: object) -> str:
    name = str(path).rpartition(".")[2]
    return FORMER_NAMES.get(name, name)
