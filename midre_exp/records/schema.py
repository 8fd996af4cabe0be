"""What a record holds: for whoever writes one, and for every reader."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypedDict, cast

from midre_exp.plan.validate import is_id, is_line

SCHEMA = 1
_DEEPEST = 60  # mappings and lists within each other; a config has ten


class DefenseEntry(TypedDict):
    """The defense of a run."""

    label: str  # as the tables show it, e.g. "MIDRE [0.1, 0.4]"
    parts: dict[str, dict[str, Any]]  # config nodes by name; several for a combination


class CodeEntry(TypedDict):
    """What made the artifact of a stage; None: it does not say, being older."""

    commit: str | None  # of the checkout, ``+changes.`` and a digest where code differed from it
    code: str | None  # digest of the code of our packages and the user's that the stage stands on
    packages: dict[str, dict[str, str | None]]  # commit and digest of each package of the user's own


class PretrainingEntry(TypedDict):
    """The pre-training that a classifier started from."""

    key: str  # in the store
    data: str  # digest of the fingerprint of its images
    identities: int
    images: int  # that it was trained on
    tested: int  # held-out images of these identities
    acc: float  # percent of them that it recognises


class _Start(TypedDict):
    # random | imagenet | public: pre-trained | a named source or card, e.g. ms1m | file: given by its path
    source: str
    file: str | None  # its name
    sha256: str | None
    trained: bool  # here, from that start; false: it is the file as it is


class StartEntry(_Start, total=False):
    """What a classifier started from, or what was loaded in its place."""

    pretraining: PretrainingEntry  # of public weights


class DeploymentEntry(TypedDict, total=False):
    """What the deployed target answers in place of its probabilities, measured on held-out private images. A
    record with it has as ``metrics.acc`` and ``test_per_identity`` those behind the answer, and as
    ``metrics.network_acc`` the accuracy of the network alone on all test images.
    """

    key: str  # in the store
    parts: list[str]  # of the defense, in the order in which they answer
    bypassed: bool  # whether the attack holds the network (white box), so that it meets no answer
    acc: float  # percent, behind the answer
    network_acc: float  # percent of the same images, of the network alone
    distortion: float  # mean L1 distance of answer and probabilities
    changed_labels: float  # percent
    calibrated_on: int  # images, of which none is measured on; 0: nothing was to be calibrated
    answered: int  # images measured on
    own: dict[str, float]  # what parts measure of themselves, e.g. ssd/replaced, percent


class InformedEntry(TypedDict, total=False):
    """What an attack did that knew the defense (``attack.informed``); parts are named in a line of text."""

    views: list[str]  # changes of images over which it averaged besides its own
    identity_loss: str | None  # in place of its own
    score: str | None  # by which it ranked in place of probabilities
    target: list[str]  # changes of the copy of the network that it asked
    reasons: dict[str, str]  # by defense: what is done and why, or why there is nothing to do
    silent: list[str]  # defenses that do not say
    asked: list[str]  # changed copies of an image that one who sees scores asked in its place
    copies: int  # of an image, over which it averaged; 1: none
    places: list[str]  # where: search, optimisation, selection


class ProtectedEntry(TypedDict):
    """Success on the attacked people whom a defense protects, and on the others."""

    identities: list[int]  # labels of those protected and attacked
    others: int  # how many are attacked and not protected
    #: By metric: percent of the reconstructions of each group, None where it is empty.
    metrics: dict[str, dict[str, float | None]]  # protected, others


class VerifierEntry(TypedDict, total=False):
    """Who told people apart (``open_set``), and how well."""

    key: str  # in the store
    people: str  # whom it was trained on: of their own, or public ones, who are the attacker's too
    identities: int
    images: int
    held_out: int  # people, who are the decoys
    held_out_images: int
    eer: float  # percent, on photographs of people held out
    pairs: int  # of impostors, behind it and behind the thresholds
    tar: dict[str, float]  # percent of these people's photographs accepted, by false accept rate
    eer_alike: float  # among impostors of the same sex, skin and hair, where that is known
    pairs_alike: int


class OpenSetEntry(TypedDict, total=False):
    """What a judge who never saw a private picture says of the reconstructions (``open_set``). Percent."""

    verifier: VerifierEntry
    identities: int
    reconstructions: int
    decoys: int
    #: By false accept rate: value of reconstructions accepted, low and high (95 %, identities resampled), the
    #: threshold (of photographs of people held out), the shares of impostors that reach it
    #: (false_photographs, of these; false_private, photographs as other private people; false_decoys and
    #: false_others, the reconstructions as decoys and as other private people), and of photographs that do:
    #: of people held out (held_out), of the private people (photographs). strict: value at a threshold that
    #: keeps false_decoys and false_others at the rate too.
    tar: dict[str, dict[str, float]]
    rank: dict[str, float]  # of the right person among decoys: median, its chance, first, its interval, ten
    missing: dict[str, str]  # why a rate is not told


class TraitsEntry(TypedDict, total=False):
    """Which known traits the reconstructions show (``traits``)."""

    reader: dict[str, Any]  # key, identities it was trained on, and held out
    identities: int
    readable: int  # traits that the reader sees in photographs of people held out
    tested: int  # of these, such as enough private people show
    recovered: int  # of these, by permutation tests together at 5 % (Holm)
    #: By trait: kind (number | kind), reader, readable; value with low and high, floor, p, people,
    #: photographs: a number's correlation, a kind's percent read rightly; recovered; nearer, percent.
    by_trait: dict[str, dict[str, Any]]
    nearer: dict[str, float]  # value, low, high, photographs: percent, 50 where nothing is told
    by_group: dict[str, dict[str, Any]]  # by kind and class: identities, and measures with intervals


class DiagnosticsEntry(TypedDict, total=False):
    """What the attacked target is like (``diagnostics``). Numbers are mappings of ``value``, ``low`` and
    ``high`` (95 %, images resampled), percent unless said; ``images``: how many are behind them. Defenses
    that act at deployment alone are not asked: their rows have the numbers of the network behind them.
    """

    key: str  # in the store
    #: images, steps, answers (averaged of a target that answers at random), mean_network (whether its mean
    #: was attacked, as a network of its own), clean; points: of each eps (in
    #: 1/255) the value and the mean ``loss``; area: mean over log eps; eps_half: where half of clean is left;
    #: reference: the eps of random_start; zero_gradients: percent, right with a gradient of zeros alone.
    robust_accuracy: dict[str, Any]
    auto_pgd: dict[str, Any]  # images, steps, answers, points: loss (ce | dlr), eps and the value
    #: images, accuracy, confidence; ece: by the number of bins, each with ``debiased``; nll and brier.
    calibration: dict[str, Any]
    #: part, images, batch; xz and zy: means over stages, no percent; by_stage: the same of each.
    hsic: dict[str, Any]
    #: members, others, auc, advantage, balanced_accuracy, tpr@RATE; missing: rates that too few images tell
    #: of; at_mean_train_loss: threshold, true_positive, false_positive.
    membership: dict[str, Any]
    #: The same against shadow models, online and offline: how many, and the least of those trained with an
    #: image and without.
    lira: dict[str, Any]
    #: prior (its name), images, ratio, chance, both in [0, 1]; rank and pixels: directions, of how many.
    alignment: dict[str, Any]
    #: Of a target with triggers: threshold; clean and triggered test images and reconstructions, each with
    #: images, the cosine with the signature of the predicted class, and caught, percent above the threshold;
    #: triggered also class, percent taken for the trigger's.
    trap: dict[str, Any]
    #: A student of the reconstructions: its network, identities, per_class (least and most of its images),
    #: chance, train and test: accuracy on the target's real images of these identities.
    extraction: dict[str, Any]
    extraction_ceiling: dict[str, Any]  # the same of a student of as many real photographs
    missing: dict[str, str]  # why a diagnostic has no number


class ShareEntry(TypedDict, total=False):
    """An attack accuracy with its 95 % interval over identities."""

    att_acc1: float
    att_acc1_low: float
    att_acc1_high: float


class ControlsEntry(TypedDict, total=False):
    """What a judge says of pictures that show nobody in particular."""

    chance: float  # percent: one of all classes
    pictures: int  # as many reconstructions count, and as many pictures were drawn at random
    prior: ShareEntry  # pictures of random latents; of a prior that draws classes, of another person's
    other_identity: ShareEntry  # the reconstructions, scored as pictures of another attacked person


class JudgeEntry(TypedDict, total=False):
    """A judge of a run and what it says of the reconstructions."""

    acc: float  # percent of test images that it recognises
    resolution: int  # pixels at which it sees them
    metrics: dict[str, float]  # attack accuracies, named as those of the evaluator
    per_identity: list[float]  # percent of each attacked identity's reconstructions
    controls: ControlsEntry


class JuryEntry(TypedDict, total=False):
    """Several judges on the same reconstructions."""

    published: str  # the evaluator, which gives the number that tables call AttAcc
    judges: dict[str, JudgeEntry]
    #: Of each pair (``judges``): ``same`` verdict and, of what either accepts, ``both``, in percent; Cohen's
    #: ``kappa``. None where there is nothing to divide by.
    agreement: list[dict[str, Any]]
    all_agree: dict[str, Any]  # the strict number, as ShareEntry, and per_identity
    missing: str  # why there is none


class RoundsEntry(TypedDict):
    """What the rounds of an attack made (``attack.tuning``)."""

    base: str  # the attack that each carried out
    #: Of the prior, between rounds: distance or lengths, pictures of each identity, and whose features tell
    #: how alike pictures are (features).
    tuning: dict[str, Any]
    target_confidence: float  # of the last round
    #: Of each round before: attack, its key; queries until its end; target_confidence; metrics, the
    #: accuracies; per_identity, percent.
    earlier: list[dict[str, Any]]


class OriginEntry(TypedDict):
    """A bundle by which a record came here (``midre-exp results import``)."""

    bundle: str  # what it calls itself
    sha256: str  # of the bundle


class Record(TypedDict, total=False):
    """What a run leaves. Percent are 0 to 100, times are seconds."""

    schema: int
    key: str  # of the run: hash of setup, scale and the keys of all stages
    setup: dict[str, Any]  # conf/setup: id, title and what the paper says of it
    scale: str  # mini, synth or paper
    seed: int
    vary: list[str]  # what the seed changes; records of earlier versions: training and attack
    attack: str
    target: str
    evaluator: str
    defense: DefenseEntry
    data: dict[str, Any]  # name, resolution
    metrics: dict[str, float]
    per_identity: dict[str, list[float]]  # percent of each attacked identity's reconstructions, by metric
    #: Of each private identity: its test images, and how many of them the target gets right.
    test_per_identity: dict[str, list[int]]
    classes: list[str]  # names of the private identities in the order of labels; not of rendered ones
    missing: dict[str, str]  # why a metric could not be computed
    #: What evaluator and metrics saw: pictures, floats or eight_bit; image_to_evaluator, names of steps
    judged: dict[str, Any]
    open_set: OpenSetEntry  # of a run with such a judge
    traits: TraitsEntry  # of a run with a reader of traits
    diagnostics: DiagnosticsEntry  # of the target, where a run was asked for them
    controls: ControlsEntry  # negative controls, of the evaluator
    jury: JuryEntry  # where further judges were asked
    alarms: dict[str, list[str]]  # by stage, what puts its numbers in doubt, a sentence each; only if any
    counts: dict[str, int]  # images, identities, restarts, reconstructions; counted: those behind the metrics
    start: dict[str, StartEntry]  # of target and evaluator; records of earlier versions have none
    queries: int  # of the target during the attack
    queries_per_identity: dict[str, float]  # mean, min, max
    #: of the target for what was prepared against it, as far as it is counted; others may share the same
    queries_before: int
    deployment: DeploymentEntry  # of a defense that changes what the deployed target answers
    informed: InformedEntry  # of an attack that knew the defense
    #: What a defense says of the training of the target, by its name: how many images of which kind, privacy
    #: spent, how well it tells unknown people (``Defense.summary``).
    defended: dict[str, dict[str, Any]]
    protected: ProtectedEntry  # of a defense that protects some people
    rounds: RoundsEntry  # of an attack in rounds; queries above are those of all, scoring and tuning too
    threat: str  # what the attack saw: white_box, scores or labels
    seconds: dict[str, float]  # of the build of each stage's artifact
    device: str
    versions: dict[str, str]
    commit: str | None  # of the process that wrote the record; that of each stage stands in code
    code: dict[str, CodeEntry]  # what made each stage
    numerics: dict[
        str, dict[str, Any]
    ]  # by stage: torch's switches, threads, versions of CUDA, cuDNN, driver
    claims: dict[str, str]  # digests of the claims registered for its scale when it was written, by name
    artifacts: dict[str, str]  # key of each stage in the store
    study: dict[str, Any]  # what people say of the reconstructions, if asked: midre_exp/study/people.py
    mllm: dict[str, dict[str, Any]]  # the same of multimodal models, by name: midre_exp/study/mllm.py
    found_in: dict[str, str]  # of stages that lie in a store that is only read: its folder
    origin: list[OriginEntry]  # of a record that was made elsewhere: the bundles by which it came, in order
    config: dict[str, Any]  # resolved
    #: Of a suite of attacks alone (midre_exp/worst_case): its members, aggregations, checks and alarms.
    suite: dict[str, Any]


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(cast(float, value)) <= 1e300  # neither NaN nor infinite


def _is_key(value: object) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{16}", value) is not None


def _is_pretraining(value: object) -> bool:
    if not isinstance(value, dict) or not _is_key(value.get("key")):
        return False
    counts = [value.get(name) for name in ("identities", "images", "tested")]
    return all(type(count) is int and count > 0 for count in counts) and _is_number(value.get("acc"))


def _is_share(value: object) -> bool:
    names = ("att_acc1", "att_acc1_low", "att_acc1_high")
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in names)


def _is_judge(value: object) -> bool:
    return isinstance(value, dict) and _is_number(value.get("acc")) and _NUMBERS.fits(value.get("metrics"))


class _Kind(NamedTuple):
    fits: Callable[[object], bool]
    words: str


def _each(kind: _Kind, container: type) -> _Kind:
    """A mapping or list all of whose values are of a kind."""

    def fits(value: object) -> bool:
        if not isinstance(value, container):
            return False
        return all(map(kind.fits, value.values() if isinstance(value, dict) else cast("list[Any]", value)))

    return _Kind(fits, f"a {'mapping' if container is dict else 'list'} of which each is {kind.words}")


_ID = _Kind(is_id, "a name of letters, digits and . _ + -")
_LINE = _Kind(is_line, "a line of text")
_NUMBER = _Kind(_is_number, "a finite number")
_WHOLE = _Kind(lambda value: type(value) is int, "a whole number")
_COUNT = _Kind(lambda value: type(value) is int and value >= 0, "a count")
_SOME = _Kind(lambda value: type(value) is int and value > 0, "a whole number from 1")
_KEY = _Kind(_is_key, "16 hexadecimal digits")
_NODE = _Kind(lambda value: isinstance(value, dict), "a mapping")
_LIST = _Kind(lambda value: isinstance(value, list), "a list")
_NUMBERS = _each(_NUMBER, dict)
_MAYBE_LINE = _Kind(lambda value: value is None or is_line(value), "a line of text or null")
_CODE = _Kind(
    lambda value: isinstance(value, dict) and "commit" in value and _MAYBE_LINE.fits(value["commit"]),
    "what made a stage, with its commit or null",
)

_START = _Kind(
    lambda value: (
        isinstance(value, dict)
        and is_line(value.get("source"))
        and "trained" in value
        and ("pretraining" not in value or _is_pretraining(value["pretraining"]))
    ),
    "what a classifier started from",
)

_LINES = _each(_LINE, list)
_INFORMED = _Kind(
    lambda value: (
        isinstance(value, dict)
        and all(_LINES.fits(value.get(name)) for name in ("views", "target", "silent"))
        and _MAYBE_LINE.fits(value.get("identity_loss"))
        and _each(_LINE, dict).fits(value.get("reasons"))
    ),
    "what an informed attack did: views, identity_loss, target, reasons and silent",
)

_HITS = _Kind(
    lambda value: (
        isinstance(value, dict)
        and set(value) == {"right", "images"}
        and all(isinstance(counts, list) and all(map(_COUNT.fits, counts)) for counts in value.values())
        and len(value["right"]) == len(value["images"])
    ),
    "counts of right and images, as many of each",
)


_MEASURED_ANSWERS = ("acc", "network_acc", "distortion", "changed_labels")
_DEPLOYMENT = _Kind(
    lambda value: (
        isinstance(value, dict)
        and isinstance(value.get("bypassed"), bool)
        and all(map(_NUMBER.fits, (value.get(name) for name in _MEASURED_ANSWERS)))
        and _NUMBERS.fits(value.get("own"))
    ),
    "what answers at deployment do: bypassed, acc, network_acc, distortion, changed_labels and own",
)


def _verified(value: dict[str, Any]) -> bool:
    """Whether a block ``open_set`` has what tables take from it."""
    places = ("verifier.eer", "rank.first", "rank.median")
    rates = value.get("tar")
    return (
        all(_is_number(at(value, place)) for place in places)
        and isinstance(rates, dict)
        and all(isinstance(told, dict) and _NUMBERS.fits(told) and "value" in told for told in rates.values())
    )


def _is_verdict(value: object) -> bool:
    if not isinstance(value, dict):
        return False
    shares = [value.get(f"said_same{end}") for end in ("", "_low", "_high")]
    told = all(isinstance(value.get(name), dict) for name in ("controls", "evaluator"))
    lines = value.get("alarms")
    return (
        told
        and all(map(_is_number, shares))
        and _SOME.fits(value.get("pictures"))
        and isinstance(lines, list)
        and all(map(is_line, lines))
    )


def _is_diagnosed(value: object) -> bool:
    """Whether a block ``diagnostics`` has what tables and figures take from it."""
    if not isinstance(value, dict):
        return False
    curve, reasons = value.get("robust_accuracy"), value.get("missing", {})
    points = (
        [] if curve is None else [at(curve, "clean"), at(curve, "area"), *(at(curve, "points") or [None])]
    )
    return (
        isinstance(reasons, dict)
        and all(map(is_line, reasons.values()))
        and all(
            isinstance(point, dict) and all(_is_number(point.get(end)) for end in ("value", "low", "high"))
            for point in points
        )
    )


_VERDICT = _Kind(_is_verdict, "what a judge said, with its interval, controls and alarms")

_PROTECTED = _Kind(
    lambda value: (
        isinstance(value, dict)
        and _each(_COUNT, list).fits(value.get("identities"))
        and _COUNT.fits(value.get("others"))
        and _each(_NODE, dict).fits(value.get("metrics"))
    ),
    "success on protected people and on others",
)
_CONTROLS = _Kind(
    lambda value: (
        isinstance(value, dict)
        and _is_number(value.get("chance"))
        and all(_is_share(value[name]) for name in ("prior", "other_identity") if name in value)
    ),
    "what a judge says of controls",
)
_JURY = _Kind(
    lambda value: (
        isinstance(value, dict)
        and is_line(value.get("published"))
        and isinstance(value.get("judges"), dict)
        and all(map(_is_judge, value["judges"].values()))
        and ("missing" in value or (_is_share(value.get("all_agree")) and _LIST.fits(value.get("agreement"))))
    ),
    "what several judges say",
)

_ROUNDS = _Kind(
    lambda value: (
        isinstance(value, dict)
        and is_line(value.get("base"))
        and isinstance(value.get("tuning"), dict)
        and isinstance(value.get("earlier"), list)
        and bool(value["earlier"])
        and all(_is_key(at(one, "attack")) and _NUMBERS.fits(at(one, "metrics")) for one in value["earlier"])
    ),
    "rounds of an attack: base, tuning and earlier ones, each with its attack and metrics",
)

_ORIGIN = _Kind(
    lambda value: (
        isinstance(value, dict)
        and is_line(value.get("bundle"))
        and isinstance(value.get("sha256"), str)
        and re.fullmatch(r"[0-9a-f]{64}", value["sha256"]) is not None
    ),
    "a bundle, with its SHA-256",
)

#: By the names on the way to it, what every record has.
_REQUIRED: Mapping[str, _Kind] = {
    **dict.fromkeys(("setup.id", "scale", "data.name", "attack", "target", "evaluator"), _ID),
    **dict.fromkeys(("defense.label", "device"), _LINE),
    "key": _KEY,
    "seed": _WHOLE,
    "data.resolution": _SOME,
    "metrics": _NUMBERS,
    **dict.fromkeys(("metrics.acc", "metrics.evaluator_acc"), _NUMBER),
    "counts": _NUMBERS,
    **dict.fromkeys(("counts.private_test", "counts.reconstructions"), _SOME),
    **dict.fromkeys([f"counts.{name}" for name in ("private_identities", "private_train", "public")], _COUNT),
    **dict.fromkeys([f"counts.{name}" for name in ("identities", "restarts")], _COUNT),
    "artifacts": _each(_KEY, dict),
    "defense.parts": _each(_NODE, dict),
    **dict.fromkeys(("config", "config.data", "config.metrics", "config.target"), _NODE),
    "config.metrics.image_to_evaluator": _LIST,
}
#: What the record of a run of one attack has besides, and what that of a suite has.
_OF_RUN: Mapping[str, _Kind] = dict.fromkeys(("artifacts.attack", "artifacts.metrics"), _KEY)
_OF_SUITE: Mapping[str, _Kind] = {
    "suite.leading": _ID,
    "suite.best": _ID,
    "suite.members": _each(_NODE, dict),
    "suite.aggregates": _each(_NUMBERS, dict),
    "suite.alarms": _each(_LINE, dict),
    "suite.silent": _each(_LINE, list),
    **dict.fromkeys(("artifacts.target", "artifacts.evaluator"), _KEY),
}
#: What some have.
_OPTIONAL: Mapping[str, _Kind] = {
    "schema": _Kind(lambda value: value == SCHEMA, f"{SCHEMA} (a later version of this program wrote it)"),
    "per_identity": _each(_each(_NUMBER, list), dict),
    "test_per_identity": _HITS,
    "classes": _each(_LINE, list),
    "missing": _each(_Kind(lambda value: isinstance(value, str), "a reason"), dict),
    "alarms": _each(_each(_LINE, list), dict),
    "start": _each(_START, dict),
    "judged": _NODE,
    "open_set": _Kind(
        lambda value: isinstance(value, dict) and _verified(value), "verdicts of a verifier, with its numbers"
    ),
    "traits": _Kind(
        lambda value: isinstance(value, dict) and _COUNT.fits(value.get("readable")), "traits that were read"
    ),
    "diagnostics": _Kind(_is_diagnosed, "diagnostics of a target, with intervals"),
    "defended": _each(_NODE, dict),
    "protected": _PROTECTED,
    "controls": _CONTROLS,
    "jury": _JURY,
    "queries": _NUMBER,
    "queries_per_identity": _NUMBERS,
    "queries_before": _COUNT,
    "informed": _INFORMED,
    "deployment": _DEPLOYMENT,
    "rounds": _ROUNDS,
    "threat": _LINE,
    "vary": _each(_LINE, list),
    "claims": _each(_KEY, dict),
    "seconds": _NUMBERS,
    "versions": _each(_LINE, dict),
    "commit": _MAYBE_LINE,
    "code": _each(_CODE, dict),
    "numerics": _each(_NODE, dict),
    "study": _VERDICT,
    "mllm": _Kind(
        lambda value: (
            isinstance(value, dict) and all(map(is_id, value)) and _each(_VERDICT, dict).fits(value)
        ),
        f"judges by names of letters and digits, each {_VERDICT.words}",
    ),
    "found_in": _each(_Kind(lambda value: isinstance(value, str), "a folder"), dict),
    "origin": _each(_ORIGIN, list),
}
#: The interval that goes with an attack accuracy.
_INTERVAL = ("metrics.att_acc1_low", "metrics.att_acc1_high")


def problem_of(record: object) -> str | None:
    """Why a value is no run record, naming the place; None for one that every reader takes.

    Numbers are finite everywhere. An attack accuracy comes with its interval; a run that did not measure it
    has neither.
    """
    required = {**_REQUIRED, **(_OF_SUITE if _has(record, "suite") else _OF_RUN)}
    if at(record, "metrics.att_acc1") is not None:
        required.update(dict.fromkeys(_INTERVAL, _NUMBER))
    if at(record, "threat") not in (None, "white_box"):
        required["queries"] = _NUMBER
    for place, kind in required.items():
        value = at(record, place)
        if not kind.fits(value):
            return f"it has no {place}" if value is None else f"{place} is not {kind.words}"
    for place, kind in _OPTIONAL.items():
        if _has(record, place) and not kind.fits(at(record, place)):
            return f"{place} is not {kind.words}"
    return next(_unfit(record), None)


def at(value: object, place: str) -> Any:
    """What lies at the end of ``names.joined.by.dots`` in plain mappings; None where nothing does."""
    for name in place.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _has(value: object, name: str) -> bool:
    return isinstance(value, dict) and name in value


def _unfit(value: object, place: str = "", depth: int = 0) -> Iterator[str]:
    """Every number that JSON does not know, and nesting in which a reader would lose itself, by place."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}"
    elif depth > _DEEPEST:
        yield "it is nested too deeply"
    elif isinstance(value, (dict, list)):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unfit(part, f"{place}.{name}" if place else str(name), depth + 1)
