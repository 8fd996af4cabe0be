"""The protocol card of a row: under which circumstances its numbers were made, as far as records tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from midre_exp.plan.publication import people_of
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.plan.vary import varied
from midre_exp.records import Record
from midre_exp.records.comparable import numerics_of
from midre_exp.records.schema import at
from midre_exp.report.site.leaderboard import THREATS, Row

#: What stands where a record says nothing.
NOT_MEASURED = "not measured"
NOT_TOLD = "not in the record"


def card_of(row: Row) -> list[tuple[str, str]]:
    """Names and texts, in the order of a reader's questions; several texts where the runs of a row differ."""
    records = row.records

    def each(text: Callable[[Record], str | None]) -> str:
        return _joined(text(record) for record in records) or NOT_TOLD

    numbers: list[tuple[str, Callable[[Record], str | None]]] = [
        ("setup", lambda r: f"{r['setup']['id']}: {r['setup'].get('title', NOT_TOLD)}"),
        ("private data", _private),
        ("people", lambda r: people_of(r["config"]).replace("_", " ")),
        ("attacker's images", lambda r: f"{r['counts']['public']:,}{_source(r)}"),
        ("target", lambda r: f"{network_name(r['target'])}{_start(r, 'target')}"),
        ("training", _training),
        ("defense", lambda r: _node(r["defense"]["parts"])),
        ("evaluator", _evaluator),
        ("judged pictures", lambda r: _text(at(r, "judged.pictures"), "_")),
        ("jury", _jury),
        ("judge who knows nobody", _verifier),
        ("negative controls", _controls),
        ("diagnostics of the target", _diagnosed),
        ("seeds vary", lambda r: " and ".join(varied(r["config"]))),
        ("numerics", lambda r: numerics_of(r["config"])),
        ("device", lambda r: r["device"]),
        ("versions", lambda r: ", ".join(f"{k} {v}" for k, v in r.get("versions", {}).items()) or None),
        ("commit", lambda r: r.get("commit")),
    ]
    reasons = _joined(f"{name}: {why}" for r in records for name, why in r.get("missing", {}).items())
    return [
        *((name, each(text)) for name, text in numbers),
        ("seeds", ", ".join(map(str, row.seeds))),
        ("time", _time(records)),
        ("without a number", reasons or "nothing that was asked for"),
    ]


def budget_of(record: Record) -> str:
    """How much an attack was allowed."""
    counts = record["counts"]
    told = [f"{counts['identities']:,} identities x {counts['restarts']:,} restarts"]
    if "counted" in counts and counts["counted"] != counts["reconstructions"]:
        told.append(f"{counts['counted']:,} of {counts['reconstructions']:,} count")
    if "queries" in record:
        asked = record["queries"] + record.get("queries_before", 0)
        told.append(f"{asked / counts['reconstructions']:,.0f} queries for each reconstruction")
    return ", ".join(told)


def knowledge_of(record: Record) -> str:
    """What the attacker saw and knew."""
    told = [THREATS.get(str(record.get("threat", "white_box")), str(record.get("threat")))]
    informed = record.get("informed")
    if informed is not None:
        told.append("knew the defense")
        told += [f"{name}: {why}" for name, why in informed.get("reasons", {}).items()]
        told += [f"{name} says nothing of such an attacker" for name in informed.get("silent", ())]
    if (block := record.get("deployment")) is not None:
        told.append(
            "went past the answers of the deployed target"
            if block["bypassed"]
            else "met the answers of the deployed target"
        )
    return "; ".join(told)


def _joined(texts: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(text) for text in texts if text))


def _text(value: Any, blank: str) -> str | None:
    return None if value is None else str(value).replace(blank, " ")


def _private(record: Record) -> str:
    counts = record["counts"]
    return (
        f"{record['data']['name']} at {record['data']['resolution']} px: "
        f"{counts['private_identities']:,} identities, {counts['private_train']:,} training and "
        f"{counts['private_test']:,} test images"
    )


def _source(record: Record) -> str:
    words = {"same": ", of the private distribution", "other": ", of another distribution"}
    return words.get(str(record["config"].get("public_source")), "")


def _start(record: Record, role: str) -> str:
    found = record.get("start", {}).get(role)
    if found is None:
        return ""
    if (public := found.get("pretraining")) is not None:
        return f", pre-trained on {public['identities']:,} public identities to {public['acc']:.1f} %"
    return f", from {found['source']} weights" if found["trained"] else f", as published ({found['source']})"


def _training(record: Record) -> str | None:
    recipe = at(record["config"], "target.recipe")
    if not isinstance(recipe, dict):
        return None
    optimizer = recipe.get("optimizer")
    kind = str(optimizer.get("_target_")).rpartition(".")[2] if isinstance(optimizer, dict) else None
    rate = optimizer.get("lr") if isinstance(optimizer, dict) else recipe.get("lr")
    told = [
        None if recipe.get("epochs") is None else f"{recipe['epochs']} epochs",
        None if recipe.get("batch_size") is None else f"batches of {recipe['batch_size']}",
        kind,
        None if rate is None else f"learning rate {rate:g}" if isinstance(rate, (int, float)) else None,
    ]
    return ", ".join(filter(None, told)) or None


def _node(parts: Any) -> str:
    """The values of a defense, in a line."""
    told = []
    for name, part in parts.items():
        values = [
            f"{key}={value}"
            for key, value in part.items()
            if key != "_target_" and not isinstance(value, dict)
        ]
        told.append(f"{name}({', '.join(values)})")
    return " + ".join(told)


def _evaluator(record: Record) -> str:
    accuracy = record["metrics"]["evaluator_acc"]
    return f"{network_name(record['evaluator'])}{_start(record, 'evaluator')}, accuracy {accuracy:.1f} %"


def _diagnosed(record: Record) -> str:
    told = [name for name in record.get("diagnostics", {}) if name not in ("key", "missing")]
    return ", ".join(told) or NOT_MEASURED


def _jury(record: Record) -> str:
    jury = record.get("jury")
    if jury is None:
        return NOT_MEASURED
    judges = [f"{name} ({entry['acc']:.1f} %)" for name, entry in jury["judges"].items()]
    if "all_agree" not in jury:
        return f"{', '.join(judges)}: {jury.get('missing', NOT_MEASURED)}"
    return f"{', '.join(judges)}; all agree on {jury['all_agree']['att_acc1']:.1f} % of {record['attack']}"


def _verifier(record: Record) -> str:
    verifier = at(record, "open_set.verifier")
    return (
        NOT_MEASURED if verifier is None else f"equal error rate {verifier['eer']:.1f} % on people held out"
    )


def _controls(record: Record) -> str:
    controls = record.get("controls")
    if controls is None:
        return NOT_MEASURED
    told = [f"chance {controls['chance']:.1f} %"]
    for name, words in (
        ("prior", "random pictures of the prior"),
        ("other_identity", "scored as another person"),
    ):
        if name in controls:
            told.append(f"{words} {controls[name]['att_acc1']:.1f} %")  # type: ignore[literal-required]
    return f"{attack_name(record['attack'])}: {', '.join(told)}"


def _time(records: Sequence[Record]) -> str:
    each = {
        (stage, record["artifacts"].get(stage, record["key"])): float(took)
        for record in records
        for stage, took in record.get("seconds", {}).items()
    }
    return (
        f"{sum(each.values()) / 3600:.2f} hours of one process for {len(each)} stages" if each else NOT_TOLD
    )
