"""Every key of a resolved config with its type and range, looked at before data, networks or keys; and what
parts demand of numbers that only they know.

What a run's own nodes hold is written down here; the arguments of a ``_target_`` are in the annotations of
its class or function (``midre_exp.plan.arguments``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from midre_exp.errors import ConfigError
from midre_exp.plan.answers import answer
from midre_exp.plan.arguments import Fault, Keys, Node, fault, options_of, trusting
from midre_exp.plan.publication import People
from midre_exp.plan.ranges import (
    BelowOne,
    Count,
    LearningRate,
    NonNegative,
    NotEmpty,
    Positive,
    Probability,
    Range,
    Seed,
    Text,
)
from midre_exp.plan.suite import is_suite, runs_of
from midre_exp.plan.trust import check_names
from midre_exp.plan.vary import DEFAULT, Word

#: Names that become part of file names: one component of a path, the same on every file system.
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,79}")
#: Where a config has such names; the defenses' are keys.
_IDS = ("setup.id", "scale", "data.name", "target.name", "evaluator.name", "attack.name")
#: Torch's optimisers and schedulers annotate types, not ranges.
_RATES: dict[str, Any] = {
    "lr": LearningRate,
    "momentum": BelowOne,
    "betas": tuple[BelowOne, BelowOne],
    "weight_decay": NonNegative,
    "eps": NonNegative,
    "alpha": BelowOne,
}
_SCHEDULES: dict[str, Any] = {
    "max_lr": LearningRate,
    "milestones": Sequence[Count],
    "gamma": Positive,
    "step_size": Count,
    "T_max": Count,
    "total_steps": Count | None,
    "pct_start": Probability,
    "eta_min": NonNegative,
}
Dataset = Annotated[Mapping[str, Any], Node("midre_exp.data.Dataset")]
Defense = Annotated[Mapping[str, Any], Node("midre_exp.defense.Defense")]
Metric = Annotated[Mapping[str, Any], Node("midre_exp.metrics.Metric")]
Diagnostic = Annotated[Mapping[str, Any], Node("midre_exp.diagnostics.Diagnostic")]
Step = Annotated[Mapping[str, Any], Node("midre_exp.targets.predict.Step")]
Augmentation = Annotated[Mapping[str, Any], Node("midre_exp.data.transforms.Augmentation")]
Network = Annotated[Mapping[str, Any], Node("midre_exp.targets.base.Classifier", own=("num_classes",))]
Optimizer = Annotated[Mapping[str, Any], Node("torch.optim.Optimizer", own=("params",), also=_RATES)]
Scheduler = Annotated[
    Mapping[str, Any], Node("torch.optim.lr_scheduler.LRScheduler", own=("optimizer",), also=_SCHEDULES)
]
_PREPARED = {"name": str, "seed": Seed}
Prior = Annotated[
    Mapping[str, Any], Node("midre_exp.priors.base.Prior", own=("num_classes",), beside=_PREPARED)
]
Surrogates = Annotated[
    Mapping[str, Any], Node("midre_exp.surrogates.base.Surrogates", own=("num_classes",), beside=_PREPARED)
]
Tuning = Annotated[Mapping[str, Any], Node("midre_exp.tuning.base.Tuning")]


@dataclass
class Judged(Keys):
    """What an attack's official program hands its evaluator (``attack.judged``), and what is measured of this
    attack alone.
    """

    pictures: Literal["floats", "eight_bit"]
    image_to_evaluator: Sequence[Step] | None = None
    measure: Mapping[str, Metric | None] | None = None


_BESIDE = {
    "name": str,
    "prior": Prior,
    "surrogates": Surrogates | None,
    "tuning": Tuning | None,
    "shard": str | None,
    "judged": Judged | None,
    "crop": Count | None,
}
Attack = Annotated[Mapping[str, Any], Node("midre_exp.attack.Attack", beside=_BESIDE)]


@dataclass
class Recipe(Keys):
    """How a classifier is trained (conf/target/recipe)."""

    epochs: Count
    batch_size: Count
    drop_last: bool
    optimizer: Optimizer
    scheduler: Scheduler | None
    augment: Sequence[Augmentation]
    select: Literal["last", "best_test"]


@dataclass
class Pretraining(Keys):
    """How a network is trained on public identities before it is a target or an evaluator."""

    seed: Seed | None = None  # None: the evaluator's, of a target 0
    recipe: Recipe | None = None  # None: the network's own yaml chooses none


@dataclass
class Target(Keys):
    """A node of conf/target."""

    name: str
    recipe: Recipe
    checkpoint: Text | None
    weights: Text | None
    model: Network
    pretraining: Pretraining | None = None
    defense_defaults: Mapping[str, Any] | None = None
    checkpoint_entry: Text | None = None
    checkpoint_prefix: Text | None = None
    trained_with: Text | Sequence[Text] | None = None


@dataclass
class Evaluator(Target):
    """A node of conf/evaluator."""

    resolution: Count = 0
    seed: Seed = 0
    floor: Literal["chance"] | Annotated[float, Range(0, 100)] | None = None


@dataclass
class Data(Keys):
    """A node of conf/data; what else it holds is there to be taken by these."""

    private: Dataset
    public: Dataset
    evaluation: Mapping[str, Any]
    name: str
    people: People = "unknown"
    pretraining: Mapping[str, Any] | None = None
    verification: Mapping[str, Any] | None = None
    traits: Mapping[str, Any] | None = None
    others: ClassVar[Any] = Any


@dataclass
class Metrics(Keys):
    """A node of conf/metrics."""

    image_to_evaluator: Sequence[Step]
    measure: Mapping[str, Metric | None]
    pictures: Literal["official", "eight_bit"] = "eight_bit"


FalseAccepts = Annotated[float, Range(0, 1, open_low=True, open_high=True)]


@dataclass
class Learner(Keys):
    """How a small network that judges reconstructions is trained."""

    name: str
    pixels: Count | None
    epochs: Count
    batch_size: Count
    lr: LearningRate
    weight_decay: NonNegative
    held_out: BelowOne
    seed: Seed


@dataclass
class OpenSet(Learner):
    """A node of conf/open_set."""

    dimension: Count
    margin: BelowOne
    scale: Positive
    template: Count
    far: Annotated[Sequence[FalseAccepts], NotEmpty()]
    most_eer: Annotated[float, Range(0, 100)]


@dataclass
class Alignment(Keys):
    """How the gradients of a target are held to a prior."""

    images: Count
    loss: Literal["cross_entropy", "logits"]
    seed: Seed


@dataclass
class Extraction(Keys):
    """How a student of reconstructions is trained."""

    recipe: Recipe
    seed: Seed


@dataclass
class Lira(Keys):
    """How many shadows of a target are asked, and what is told of them."""

    shadows: Annotated[int, Range(2)]
    rates: Sequence[FalseAccepts]
    seed: Seed


@dataclass
class Diagnostics(Keys):
    """A node of conf/diagnostics."""

    name: str
    measure: Mapping[str, Diagnostic | None]
    alignment: Alignment | None = None
    extraction: Extraction | None = None
    lira: Lira | None = None
    trap: bool = False


@dataclass
class Tracking(Keys):
    """A node of conf/tracking."""

    mode: Literal["off", "auto", "online", "offline"]
    project: str | None = None
    entity: str | None = None


@dataclass
class Setup(Keys):
    """What a setup says of itself; further keys are its author's."""

    id: str
    title: str | None = None
    others: ClassVar[Any] = Any


@dataclass
class Numerics(Keys):
    """A node of conf/numerics."""

    precision: Literal["float32", "tf32", "bf16"]
    deterministic: bool
    cudnn_benchmark: bool
    channels_last: bool
    compile: bool
    why: str | None


@dataclass
class Paths(Keys):
    """Where a run reads and writes."""

    store: Text | Annotated[Sequence[Text], NotEmpty()]  # of several the first is written
    data: Text
    weights: Text
    runs: Text
    results: Text


@dataclass
class Runtime(Keys):
    """How a run is executed."""

    device: str
    devices: Count
    threads: Count | None
    progress: Literal["auto", True, False]
    log_every: NonNegative | None
    quiet: bool
    image_placement: Literal["auto", "mapped", "ram", "device"]
    chunk: Literal["auto"] | Count
    candidates_gb: NonNegative | None
    checkpoint_seconds: NonNegative
    stale: Literal["reuse", "refuse", "rebuild"]
    rebuild: Sequence[str]
    trusted_packages: Sequence[str]


@dataclass
class Publish(Keys):
    """What may be shown of a run."""

    people: bool = False


@dataclass
class Planned(Keys):
    """What a sweep tells its jobs."""

    key: str | None
    code: str | None
    commit: str | None
    rebuild: str | None
    wait: bool


@dataclass
class Run(Keys):
    """A whole config; what else it holds at its top is there to be taken by these."""

    seed: Seed
    resolution: Count
    scale: str
    setup: Setup
    paths: Paths
    runtime: Runtime
    numerics: Numerics
    plan: Planned
    tracking: Tracking
    data: Data
    target: Target
    evaluator: Evaluator
    defense: Mapping[str, Defense]
    attack: Attack
    metrics: Metrics
    open_set: OpenSet | None = None
    traits: Learner | None = None
    diagnostics: Diagnostics | None = None
    vary: Sequence[Word] = DEFAULT
    publish: Publish | None = None
    jury: Mapping[str, Evaluator] | None = None
    public_source: str | None = None
    defense_recipe: Literal["own", "shared"] = "shared"
    inception_weights: str | None = None
    face_weights: str | None = None
    fid_weights: str | None = None
    others: ClassVar[Any] = Any


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError naming the first key whose value cannot be used, and what can; or one that nothing
    reads. Of a suite of attacks each member is looked at.
    """
    if is_suite(settings):
        for member in runs_of(settings):
            check_settings(member)
        return
    runtime = fault(settings["runtime"], Runtime, "runtime")
    if runtime is not None:
        raise ConfigError(str(runtime))
    trusted = settings["runtime"]["trusted_packages"]
    check_names(settings, trusted)  # before any of them is imported
    with trusting(trusted):
        found = _first_fault(settings, tuple(trusted))
    if found is not None:
        raise ConfigError(str(found))
    _check_ids(settings)
    check_sizes(settings)


#: Parts of a config that fit, as texts: the jobs of a sweep share most of theirs.
_fitting: set[tuple[str, str, tuple[str, ...]]] = set()


def _first_fault(settings: Mapping[str, Any], trusted: tuple[str, ...]) -> Fault | None:
    known = options_of(Run).named
    if any(option.required and name not in settings for name, option in known.items()):
        return fault(settings, Run, "")
    for name in (name for name in known if name in settings):
        part = (name, repr(settings[name]), trusted)
        if part not in _fitting:
            faults: list[Fault] = []

            def fits(name: str = name, faults: list[Fault] = faults) -> bool:
                found = fault(settings[name], known[name].hint, name)
                if found is None and name == "data":
                    private = settings["data"]["private"]
                    for other in ("evaluation", "pretraining", "others", "verification", "traits"):
                        node = {**private, **(settings["data"].get(other) or {})}
                        found = found or fault(node, Dataset, f"data.{other}")
                faults += [] if found is None else [found]
                return found is None

            if not answer(["fits", *part[:2]], fits, trusted, keep=bool):
                return faults[0]
            _fitting.add(part)
    return None


def check_sizes(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError when images would be made at another size than what looks at them says it takes."""
    resolution, prior = settings["resolution"], settings["attack"].get("prior") or {}
    expected = {
        "private": {"resolution": resolution},
        "evaluation": {"evaluator.resolution": settings["evaluator"]["resolution"]},
        # of a loaded generator the public images are not drawn at its size
        "public": {"resolution": resolution, "attack.prior.image_size": prior.get("image_size", resolution)},
    }
    for role, sizes in expected.items():
        size = settings["data"].get(role, {}).get("size")
        if size is not None and size not in sizes.values():
            key, pixels = list(sizes.items())[-1]
            raise ConfigError(
                f"data.{role}.size={size} contradicts {key}={pixels}, by which the record would call these "
                f"images; set {key} alone, which the data follow"
            )


def is_id(value: object) -> bool:
    """Whether a value is a name that can stand in a file name."""
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def is_line(value: object) -> bool:
    """Whether a value is text that stands in one line of a table."""
    return isinstance(value, str) and value.isprintable() and value.strip() != ""


def _check_ids(settings: Mapping[str, Any]) -> None:
    wanted = "a name of at most 80 letters, digits and . _ + - that begins with a letter or digit"
    for key in _IDS:
        value: Any = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if not is_id(value):
            shown = value if isinstance(value, str) and value.isprintable() else repr(value)
            raise ConfigError(f"{key}={shown} cannot be used; give {wanted}")
    for judge, node in (settings.get("jury") or {}).items():
        if not is_id(node["name"]):
            raise ConfigError(f"jury.{judge}.name={node['name']!r} cannot be used; give {wanted}")
    for name in settings["defense"] or ():
        if not is_id(name):
            raise ConfigError(f"the defense {name!r} cannot be called so; give it {wanted}")


def require_counts(part: str, **counts: int | None) -> None:
    """Raise ConfigError for the first that is no whole number from 1, naming it as a key of ``part``; None is
    fine.
    """
    for name, value in counts.items():
        if value is not None and not _counts(value):
            raise ConfigError(f"{part}.{name}={value} must be at least 1 and a whole number")


def require_numbers(part: str, *, low: float = 0.0, high: float = math.inf, **numbers: float) -> None:
    """Raise ConfigError for the first that is no number from ``low`` to ``high``, naming it as a key of
    ``part``.
    """
    for name, value in numbers.items():
        if type(value) not in (int, float) or not low <= value <= high:
            limits = f"lie in [{low:g}, {high:g}]" if math.isfinite(high) else f"be a number from {low:g}"
            raise ConfigError(f"{part}.{name}={value} must {limits}")


def _counts(value: object) -> bool:
    return type(value) is int and value >= 1
