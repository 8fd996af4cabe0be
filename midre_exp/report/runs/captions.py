"""What a reader must know to trust a table or figure: scale, data, who was attacked, counts, seeds, commit,
device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from midre_exp.cards.named import published_accuracy
from midre_exp.plan.spelling import attack_name, network_name
from midre_exp.plan.vary import WORDS, varied
from midre_exp.records import Record
from midre_exp.records.comparable import numerics_of
from midre_exp.records.judges import doubts
from midre_exp.records.starts import RANDOM
from midre_exp.records.verdicts import verdicts_of

#: Counts that a table's rows should share for their numbers to be comparable.
_COUNTS = ("private_identities", "private_train", "public", "private_left_out", "public_left_out")


def circumstances(title: str, records: Sequence[Record]) -> str:
    """The title, then scale, data, who was attacked, counts and evaluator, without a full stop; setups where
    these differ are told apart.
    """
    groups: dict[tuple[object, ...], list[Record]] = {}
    for record in records:
        counts = tuple(record["counts"].get(name) for name in _COUNTS)
        data = (record["data"]["name"], record["data"]["resolution"])
        groups.setdefault((*data, *counts, record["evaluator"]), []).append(record)
    if len(groups) == 1:
        details = f": {_circumstances(records)}"
    else:
        details = "".join(
            f". {_joined(record['setup']['id'] for record in group)}: {_circumstances(group)}"
            for group in groups.values()
        )
    return f"{title}. Scale {records[0]['scale']}{details}"


def provenance(records: Sequence[Record]) -> str:
    """Seeds, commits of records and of the stages they rest on, devices and how they rounded, a sentence;
    and which records were imported.
    """
    seeds = _joined(record["seed"] for record in records)
    commits = _joined(commit for record in records for commit in (record["commit"], *_made_at(record)))
    devices = _joined(record["device"] for record in records)
    told = "".join(f"; {text}" for text in dict.fromkeys(map(rounding, records)) if text)
    several = what_varies(records)
    imported = [one["origin"][-1]["bundle"] for one in records if one.get("origin")]
    remarks = [several] if several else []
    if imported:
        remarks.append(f"{len(imported)} of {len(records)} runs imported from {_joined(imported)}.")
    return " ".join([f"Seeds {seeds}; commit {commits}; {devices}{told}.", *remarks])


def what_varies(records: Sequence[Record]) -> str:
    """What differs between the seeds of several records and what all of them share, a sentence; nothing for
    one seed.
    """
    seeds = {int(record["seed"]) for record in records}
    if len(seeds) < 2:
        return ""
    moved = [word for word in WORDS if any(r["seed"] and word in varied(r["config"]) for r in records)]
    if "identities" in moved:  # which all models are trained anew for
        return f"Seeds vary {' and '.join(moved)}: evaluators and priors are those of each set of identities."
    one = {"prior": "one prior", "evaluator": "one evaluator", "identities": "one set of identities"}
    shared = [words for word, words in one.items() if word not in moved]
    return f"Seeds vary {' and '.join(moved) or 'nothing'}: {', '.join(shared)}."


def rounding(record: Record) -> str:
    """How a run rounded and, on GPUs, what computed; empty where its record is from before that was told."""
    config = record.get("config", {})
    asked = numerics_of(config) if isinstance(config.get("numerics"), Mapping) else ""
    names = {"cuda": "CUDA", "cudnn": "cuDNN", "driver": "driver"}
    stages = record.get("numerics", {}).values()
    versions = [
        f"{word} {_joined(found)}"
        for name, word in names.items()
        if (found := [stage[name] for stage in stages if stage.get(name) is not None])
    ]
    return ", ".join([*([f"numerics {asked}"] if asked else []), *versions])


def _made_at(record: Record) -> Iterable[str]:
    return (entry["commit"] for entry in record.get("code", {}).values() if entry["commit"])


def passed_over(count: int) -> str:
    """How many record files cannot be read, a sentence; nothing where all can."""
    if count == 1:
        return "1 record file cannot be read and is passed over."
    return f"{count} record files cannot be read and are passed over." if count else ""


def alarms_of(record: Record) -> list[str]:
    """What puts the numbers of a record in doubt, a sentence each, with the stage that tells it where the
    sentence does not begin with it.
    """
    told = {stage: list(sentences) for stage, sentences in record.get("alarms", {}).items()}
    for stage, doubtful in doubts(record).items():  # which older records do not tell themselves
        told[stage] = list(dict.fromkeys([*told.get(stage, ()), *doubtful]))
    stages = [
        sentence if sentence.startswith((stage.partition(".")[0], "judge ")) else f"{stage}: {sentence}"
        for stage, sentences in told.items()
        for sentence in sentences
    ]
    return [*stages, *(sentence for _, verdict in verdicts_of(record) for sentence in verdict["alarms"])]


def alarms(records: Iterable[Record]) -> list[str]:
    """The alarms of several records, each once, with the runs that it concerns."""
    concerned: dict[str, list[str]] = {}
    for record in records:
        run = f"{record['setup']['id']} {record['defense']['label']}, seed {record['seed']}"
        for alarm in alarms_of(record):
            concerned.setdefault(alarm, []).append(run)
    return [f"{'; '.join(dict.fromkeys(runs))}: {alarm}" for alarm, runs in concerned.items()]


def _circumstances(records: Sequence[Record]) -> str:
    first = records[0]
    counts = first["counts"]
    return (
        f"{first['data']['name']} at {first['data']['resolution']} px, "
        f"{counts['private_identities']} private identities ({counts['private_train']} training images), "
        f"{counts['public']} public images{_left_out(counts)}; {_budgets(records)}, "
        f"judged by {_joined(map(_evaluator, records))} "
        f"(accuracy {first['metrics']['evaluator_acc']:.1f} %{_published(first)}){_pictures(records)}"
    )


def _evaluator(record: Record) -> str:
    return network_name(record["evaluator"]) + _start(record, "evaluator")


def _start(record: Record, role: str) -> str:
    """What a classifier started from; nothing where its record is from before that was told."""
    start = record.get("start", {}).get(role)
    if start is None:
        return ""
    source = start["file"] if start["source"] == "file" else start["source"]
    if not start["trained"]:
        return f" as published ({source})"
    if (public := start.get("pretraining")) is not None:
        return f" pre-trained on {public['identities']:,} public identities to {public['acc']:.1f} %"
    return " from random weights" if source == RANDOM else f" from {source}"


def _published(record: Record) -> str:
    """What the published evaluator reaches on the same data, where that is known."""
    accuracy = published_accuracy(record["evaluator"], record["data"]["name"])
    return "" if accuracy is None else f", published {accuracy:.1f} %"


def _pictures(records: Sequence[Record]) -> str:
    """Which pictures were judged, where records tell; by attack where they differ."""
    words = {"floats": "on floats as generated", "eight_bit": "on 8-bit images"}
    attacks: dict[str, list[str]] = {}
    for record in records:
        told = str(record.get("judged", {}).get("pictures"))
        attacks.setdefault(words.get(told, "on pictures of unknown kind"), []).append(
            attack_name(record["attack"])
        )
    if not any("judged" in record for record in records):
        return ""
    if len(attacks) == 1:
        return f" {next(iter(attacks))}"
    return f" {'; '.join(f'{kind}: {_joined(names)}' for kind, names in attacks.items())}"


def _left_out(counts: Mapping[str, int]) -> str:
    """How many images could not be read, where some were left out."""
    left_out = {role: counts.get(f"{role}_left_out", 0) for role in ("private", "public")}
    parts = " and ".join(f"{count} {role}" for role, count in left_out.items() if count)
    return f" ({parts} images that could not be read left out)" if parts else ""


def _budgets(records: Sequence[Record]) -> str:
    """Which attacks met which targets, and how many reconstructions each made."""
    attacks: dict[tuple[int, int], list[str]] = {}
    for record in records:
        counts = record["counts"]
        attacks.setdefault((counts["identities"], counts["restarts"]), []).append(
            attack_name(record["attack"])
        )
    targets = _joined(f"{network_name(record['target'])}{_start(record, 'target')}" for record in records)
    budgets = [
        (_joined(names), f"{identities} identities x {restarts} restarts")
        for (identities, restarts), names in attacks.items()
    ]
    if len(budgets) == 1:
        return f"{budgets[0][0]} on {targets}, {budgets[0][1]}"
    return f"on {targets} {'; '.join(f'{names}: {budget}' for names, budget in budgets)}"


def _joined(values: Iterable[object]) -> str:
    """Each value once, in order."""
    return ", ".join(dict.fromkeys(map(str, values)))
