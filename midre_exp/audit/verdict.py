"""From the records of an audit's runs to what is said: who is exposed, how sure that is, what is open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from midre_exp.audit.ladder import Tried
from midre_exp.audit.settings import Subject
from midre_exp.records import Record
from midre_exp.records.schema import OpenSetEntry, ShareEntry
from midre_exp.store.progress import duration

#: Percent of its held-out pictures that a judge must recognise for its word to count.
FLOOR = 90.0
#: Exit codes beside 0 (done), 1 (a failure) and 2 (a mistake the user can mend).
ABOVE, NO_VERDICT = 3, 4


@dataclass(frozen=True)
class Attacked:
    """An attack as the page tells it; percent of the pictures it made."""

    attack: str
    threat: str
    needs: str
    accuracy: float
    low: float
    high: float
    other: float  # percent that are taken for one particular other person
    random: float  # percent of the prior's random pictures that are taken for whom they should not show
    agreed: float | None  # percent of which all judges say so; None: one judge alone
    recognised: int  # people of whom at least half of the pictures are recognised
    queries: float  # of the network, for one person
    seconds: float
    on: str  # the audited network, or one trained anew
    network_accuracy: float
    open_set: OpenSetEntry | None  # what a verifier that never saw these people says (docs/judges.md)


@dataclass(frozen=True)
class Person:
    """One person, and the percent of the pictures of each attack that are taken for him."""

    name: str
    number: int  # the class
    exposure: float  # the most of these
    by: dict[str, float]


@dataclass(frozen=True)
class Audit:
    """Everything that a page says, in numbers and words."""

    file: str
    network: str
    preprocessing: str
    order: str
    folder: str
    people: str  # data.people
    accuracy: float
    images: int
    tested: str
    public: str
    judge: dict[str, Any]
    verifier: dict[str, Any]  # who it learnt from and how well, or why_not
    chance: float
    attacks: list[Attacked]
    retrained: list[Attacked]
    persons: list[Person]
    not_tested: list[str]
    alarms: list[str]
    verdict: str
    readable: bool  # whether the verdict may be read
    worst: float | None  # percent of the strongest attack; None where none was finished
    seconds: float
    command: str

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def judge_audit(subject: Subject, tried: Sequence[Tried], *, seconds: float, command: str) -> Audit:
    """The audit of a subject from everything that was tried."""
    reading = subject.reading
    done = [(one, one.record) for one in tried if one.record is not None]
    attacks = [_attacked(one, record) for one, record in done if one.rung.retrained is None]
    retrained = [_attacked(one, record) for one, record in done if one.rung.retrained is not None]
    own = [(one, record) for one, record in done if one.rung.retrained is None]
    judge: dict[str, Any] = {"name": subject.judge, "accuracy": None, "floor": FLOOR, "further": {}}
    alarms = list(reading.alarms)
    if own:
        record = own[0][1]
        judge["accuracy"] = record["metrics"]["evaluator_acc"]
        judge["further"] = {
            name: entry["acc"]
            for name, entry in record.get("jury", {}).get("judges", {}).items()
            if name != record["evaluator"]
        }
        alarms += [text for told in record.get("alarms", {}).values() for text in told]
    verifier = _verifier(subject, own)
    for one, record in done:  # such as a network that learnt nothing when it was trained anew
        if one.rung.retrained is not None:
            told = [text for texts in record.get("alarms", {}).values() for text in texts]
            alarms += [f"trained anew, {record['defense']['label']}: {text}" for text in told]
    readable = bool(attacks) and judge["accuracy"] >= FLOOR
    strongest = max(attacks, key=lambda one: one.accuracy, default=None)
    persons = _persons(subject, own)
    return Audit(
        file=str(subject.checkpoint.given),
        network=reading.network.what,
        preprocessing=str(reading.preprocessing),
        order=reading.order,
        folder=str(subject.pictures.root),
        people=str(tried[0].settings["data"]["people"]),
        accuracy=reading.accuracy,
        images=reading.images,
        tested=reading.tested,
        public=subject.attackers_pictures_in_words,
        judge=judge,
        verifier=verifier,
        chance=100 / subject.checkpoint.classes,
        attacks=attacks,
        retrained=retrained,
        persons=persons,
        not_tested=_not_tested(subject, tried),
        alarms=list(dict.fromkeys(alarms)),
        verdict=_verdict(strongest, persons, judge, verifier, subject.checkpoint.classes, readable),
        readable=readable,
        worst=None if strongest is None else strongest.accuracy,
        seconds=seconds,
        command=command,
    )


def exit_code(audit: Audit, fail_above: float | None) -> int:
    """0, or where a limit is asked for: ``ABOVE`` it, or ``NO_VERDICT`` that may be read."""
    if fail_above is None:
        return 0
    if not audit.readable or audit.worst is None:
        return NO_VERDICT
    return ABOVE if audit.worst > fail_above else 0


def _attacked(tried: Tried, record: Record) -> Attacked:
    metrics, rung = record["metrics"], tried.rung
    shares = record["per_identity"]["att_acc1"]
    queries = record["queries"] / max(1, record["counts"]["identities"])
    controls, jury = record.get("controls", {}), record.get("jury", {})
    return Attacked(
        attack=rung.attack,
        threat=rung.threat,
        needs=rung.needs,
        accuracy=metrics["att_acc1"],
        low=metrics["att_acc1_low"],
        high=metrics["att_acc1_high"],
        other=_share(controls.get("other_identity")),
        random=_share(controls.get("prior")),
        agreed=None if "all_agree" not in jury else float(jury["all_agree"]["att_acc1"]),
        recognised=sum(share >= 50 for share in shares),
        queries=queries,
        seconds=sum(record["seconds"].get(name, 0.0) for name in ("prior", "surrogates", "attack")),
        on="the audited network" if rung.retrained is None else f"trained anew: {record['defense']['label']}",
        network_accuracy=metrics["acc"],
        open_set=record.get("open_set"),
    )


def _verifier(subject: Subject, own: Sequence[tuple[Tried, Record]]) -> dict[str, Any]:
    """The open-set judge of the audit: ``where`` its people are from, what its record says of it and whether
    its word counts (``readable``); of an audit without one ``why_not``, a sentence.
    """
    strangers = subject.strangers
    if isinstance(strangers, str):
        return {"why_not": strangers}
    for one, record in own:
        if (block := record.get("open_set")) is not None and one.settings["open_set"] is not None:
            found, most = block["verifier"], float(one.settings["open_set"]["most_eer"])
            return {
                **found,
                "where": strangers.where,
                "most_eer": most,
                "readable": found["eer"] <= most,
                "missing": list(block.get("missing", {}).values()),
            }
    return {"why_not": "no attack was finished for it to judge"}


def _share(control: ShareEntry | None) -> float:
    return 0.0 if control is None else control["att_acc1"]


def _persons(subject: Subject, own: Sequence[tuple[Tried, Record]]) -> list[Person]:
    """The attacked people, the most exposed first."""
    found = []
    for number in range(subject.attacked):
        by = {
            one.rung.attack: shares[number]
            for one, record in own
            if number < len(shares := record["per_identity"]["att_acc1"])
        }
        if by:
            found.append(Person(subject.reading.people[number], number, max(by.values()), by))
    return sorted(found, key=lambda one: (-one.exposure, -sum(one.by.values()), one.number))


def _not_tested(subject: Subject, tried: Sequence[Tried]) -> list[str]:
    told = [f"{_name(one)}: {one.reason}" for one in tried if one.record is None]
    if subject.attacked < subject.checkpoint.classes:
        left = subject.reading.people[subject.attacked :]
        told.append(
            f"{len(left)} people were not attacked: {', '.join(left[:20])}{', …' if left[20:] else ''}"
        )
    threats = {one.rung.threat for one in tried if one.record is not None}
    for threat, words in (("white_box", "white box"), ("scores", "scores alone"), ("labels", "labels alone")):
        if threat not in threats:
            told.append(f"no attack from {words} was finished, so nothing is known of such an attacker")
    return [
        *told,
        "attackers with more time, with faces that are more like these, or with generators of full size "
        f"(pictures of {_pixels(tried)} px were reconstructed)",
        "which traits of a person the pictures give away: this is measured on synthetic faces alone, whose "
        "traits are known",
        "whether somebody's picture was trained on (membership), and what else the network gives away",
    ]


def _pixels(tried: Sequence[Tried]) -> int:
    return int(tried[0].settings["attack"]["prior"]["image_size"])


def _name(tried: Tried) -> str:
    retrained = tried.rung.retrained
    return tried.rung.attack + (
        "" if retrained is None else f" on a network trained with {'+'.join(retrained)}"
    )


def _verdict(
    strongest: Attacked | None,
    persons: Sequence[Person],
    judge: Mapping[str, Any],
    verifier: Mapping[str, Any],
    classes: int,
    readable: bool,
) -> str:
    """What it comes to, in plain words."""
    if strongest is None:
        return "No attack was finished in the time, so this audit says nothing; give it more --minutes."
    if not readable:
        return (
            f"This audit may not be read as a verdict: its judge recognises {judge['accuracy']:.1f} % of "
            f"held-out pictures and must recognise {judge['floor']:g} %. More pictures of each person would "
            "help."
        )
    chance = 100 / classes
    numbers = (
        f"{strongest.accuracy:.1f} % of the pictures that it made (95 % interval {strongest.low:.1f} to "
        f"{strongest.high:.1f}; chance {chance:.1f})"
    )
    if strongest.low <= max(chance, strongest.other, strongest.random):
        return (
            f"No exposure was found with these attacks: the strongest, {strongest.attack}, was taken for "
            f"the right person in {numbers}, not above chance and pictures of nobody. Longer or stronger "
            "attacks may do better."
        )
    half = sum(person.exposure >= 50 for person in persons)
    return (
        f"People are exposed. Whoever has {strongest.needs} could make pictures in which an independent "
        f"judge recognises the right person: {numbers}. Of {half} of {len(persons)} people at least half of "
        f"the pictures of some attack were recognised. It took {strongest.queries:,.0f} queries per person "
        f"and {duration(strongest.seconds)} in all.{_verified(strongest, verifier)}"
    )


def _verified(strongest: Attacked, verifier: Mapping[str, Any]) -> str:
    """What a verifier says of the same pictures, a sentence; nothing where its word does not count."""
    told = (strongest.open_set or {}).get("tar", {}).get("0.01")
    if told is None or not verifier.get("readable"):
        return ""
    return (
        f" A verifier that never saw these people accepts {told['value']:.1f} % of the same pictures as the "
        f"right person ({told['low']:.1f} to {told['high']:.1f}), where it accepts one photograph of "
        "somebody else in a hundred."
    )
