"""What must hold of every attack, whatever it computes. A new attack adds a line to ``CASES``."""

from __future__ import annotations

import copy
import inspect
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import nn

import attacks
import attacks.factory
import attacks.rlbmi
from attacks import Attack, build_attack
from attacks.parts.long_tailed import LongTailedSurrogate
from defenses import Defense, NoDef, build_defense, compose
from midre_exp.attack_run import merge_shards, run_attack, run_shard
from midre_exp.errors import ConfigError, DivergedError, OutOfMemory
from midre_exp.plan.choice import choice
from midre_exp.plan.config import CONF_DIR, plain
from midre_exp.plan.suite import single_attacks
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.priors.kedmi import KedMIPrior
from midre_exp.priors.plgmi import PLGMIPrior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.runtime import Runtime
from midre_exp.surrogates.base import initial_surrogates
from midre_exp.surrogates.class_features import ClassFeatures
from midre_exp.surrogates.lokt import LoktSurrogates
from midre_exp.surrogates.lomma import LommaSurrogates
from midre_exp.targets.base import Classifier, Output
from midre_exp.threat import Threat, Victim
from midre_exp.tuning.base import State
from midre_exp.tuning.own_generators import OwnGenerators
from midre_exp.weights import checkpoint
from tests.devices import CPU, CUDA, each_device
from tests.priors.small import SMALL

CLASSES, IDENTITIES, RESTARTS = 6, 4, 2


class Pixels(Prior):
    """Latents are pixels before a sigmoid, a label lights one colour; the critic likes bright images."""

    latent_dim = 48

    def generate(self, latents, labels=None):
        light = 0 if labels is None else F.one_hot(labels % 3, 3).to(latents)[:, :, None, None]
        return (latents.view(-1, 3, 4, 4) + 0.1 * light).sigmoid()

    def realism(self, images):
        return images.flatten(1).mean(1)

    def fit(self, public, victim, **options):
        raise NotImplementedError


class SmallStyle(StylePrior):
    """An untrained StyleGAN2 of 16 px: codes of 12 numbers, 6 layers, 3 blocks."""

    def __init__(self):
        super().__init__()
        sizes = {"channel_base": 128, "channel_max": 8}
        network = StyleGAN2Generator(
            z_dim=12, w_dim=12, img_resolution=16, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=sizes
        )
        self.take(network, None)

    def fit(self, public, victim, **options):
        raise NotImplementedError


def small_kedmi() -> KedMIPrior:
    """Images of 32 px that are close enough for its discriminator to compare them."""
    sizes = {"latent_dim": 6, "width": 2, "kernels": 3, "kernel_dims": 2}
    prior = from_config("prior", "kedmi", initial_prior, image_size=32, **sizes)
    prior.discriminator.mbd1.T.data *= 0.05
    prior.generator.l2_5[-2].weight.data *= 20
    return prior


def from_config(group: str, name: str, make: Callable[..., Any], **options: Any) -> Any:
    """What ``make`` makes of conf/attack/``group``/``name``.yaml with some options."""
    node = OmegaConf.load(CONF_DIR / "attack" / group / f"{name}.yaml")
    return make(plain(OmegaConf.merge(node, options)), num_classes=CLASSES)


class Colours(nn.Module):
    """A target that looks at the colours of four quarters and counts the images it is shown."""

    def __init__(self):
        super().__init__()
        weight = 3 * torch.randn(CLASSES, 12, generator=torch.Generator().manual_seed(0))
        self.layer = nn.Linear(12, CLASSES)
        self.layer.weight.data, self.layer.bias.data = weight, -weight.sum(1) / 2
        self.shown = 0

    def forward(self, images, taps=()):
        self.shown += len(images)
        features = F.adaptive_avg_pool2d(images, 2).flatten(1)
        return Output(self.layer(features), features)


class Normalised(Classifier):
    """What a defense asks of the network: how it normalises."""

    def __init__(self):
        super().__init__()
        self.set_normalisation(0.5, 0.5)


def statistics() -> LommaSurrogates:
    """LOMMA's feature statistics, without students."""
    made = from_config("surrogates", "lomma", initial_surrogates, students=[])
    made.feature_mean, made.feature_std = torch.full((12,), 0.4), torch.full((12,), 0.1)
    return made


def surrogate_of_smile() -> LongTailedSurrogate:
    """SMILE's surrogate of random weights, with the answers of ``Colours`` to twelve codes."""
    node = choice("attack", "smile", scale="mini")["surrogates"]
    few = {"search": {**node["search"], "size": 12}, "network": {**node["network"], "width": 0.0625}}
    made = initial_surrogates(
        {**node, **few, "bottleneck": 4, "image_to_target": [], "seed": 0}, num_classes=CLASSES
    )
    prior = prior_of("style")
    with torch.no_grad():
        made.codes = prior.codes(torch.randn(12, 12, generator=torch.Generator().manual_seed(1)))[:, 0]
        made.answers = Colours()(prior.synthesise(made.codes).clamp(0, 1)).logits.log_softmax(1)
    return made.eval().requires_grad_(False)


def surrogates_of_lokt() -> LoktSurrogates:
    """A network of random weights in place of a target."""
    node = choice("attack", "lokt", scale="mini")["surrogates"]
    networks = {"one": {**node["networks"]["resnet18"], "width": 0.0625}}
    made = initial_surrogates(
        {**node, "networks": networks, "image_to_target": [], "seed": 0}, num_classes=CLASSES
    )
    return made.eval().requires_grad_(False)


def small_plgmi() -> PLGMIPrior:
    """Images of 16 px, of classes that differ."""
    sizes = {"latent_dim": 6, "width": 2, "per_class": 2, "image_to_target": []}
    prior = from_config("prior", "plgmi", initial_prior, image_size=16, **sizes)
    for table in (m for m in prior.generator.modules() if isinstance(m, nn.Embedding)):
        table.weight.data += 0.3 * torch.randn_like(table.weight)
    return prior


def small_ddpm() -> Prior:
    """Images of 8 px from few noise levels."""
    sizes = {**SMALL["ddpm"], "levels": 20, "drawing_steps": 2, "beta": [0.005, 0.3]}
    return from_config("prior", "ddpm", initial_prior, **sizes)


def features_of_classes() -> ClassFeatures:
    """What the target thinks of each class, drawn."""
    made = ClassFeatures(num_classes=CLASSES, per_class=1)
    draws = torch.Generator().manual_seed(0)
    made.restore({"means": torch.rand(CLASSES, 12, generator=draws)})
    return made


def other_weights(prior: Prior, identity: int) -> State:
    """A generator unlike that of any other identity."""
    draws = torch.Generator().manual_seed(identity)
    parameters = {n: p.contiguous() for n, p in prior.named_parameters() if n.startswith("generator.")}
    return {n: p + 0.1 * torch.randn(p.shape, generator=draws) for n, p in parameters.items()}


PRIORS: dict[str, Callable[[], Prior]] = {
    "pixels": Pixels,
    "style": SmallStyle,
    "kedmi": small_kedmi,
    "plgmi": small_plgmi,
    "ddpm": small_ddpm,
}
STYLE = {"search": {"size": 12, "cutoff": 3, "batch": 5}, "image_to_target": [], "picture": None}
PPA = {**STYLE, "steps": 3, "kept": 1, "selection": {"views": 2}}
GENETIC = {**STYLE, "population": 5, "generations": 4, "enough": None, "mutation_p": 0.5, "mutation_size": 1}
RLBMI = {"episodes": 12, "batch_size": 4, "log_every": 4, "agent": {"hidden": 8}}
BREPMI = {"points": 8, "patience": 3, "max_rejections": 3, "search_batch": 16, "search_batches": 40}
DIFFMI = {
    "steps": 2,
    "views": 2,
    "view": {"blur_size": 3, "blur_sigma": 1.0},
    "tail_from": 8,
    "tail_steps": 10,
    "pgd": {"steps": 3},
    "lr": 0.1,
    "reference_batch": 1,
}
COPIES = {
    "_target_": "attacks.Expectation",
    "copies": 3,
    "views": [
        {
            "_target_": "attacks.CropMirrorRotate",
            "scale": [0.8, 1.0],
            "ratio": [0.9, 1.1],
            "flip_p": 0.5,
            "degrees": 5,
            "fill": 0.5,
        },
        {"_target_": "attacks.GaussianNoise", "sigma": 0.05, "range_of": "image"},
    ],
    "search": True,
    "optimisation": True,
    "selection": True,
}
ERASING = build_defense("midre", a_l=0.2, a_h=0.5)
PASTING = build_defense("cutmix")
SATURATED = build_defense(["nls", "random_crop"])
PHASES = [
    {"steps": 3, "radius_features": None, "radius_w": 0.1},
    {"steps": 2, "radius_features": 0.5, "radius_w": None},
]


@dataclass(frozen=True)
class Case:
    """An attack of conf/attack, small, on a kind of prior."""

    name: str
    prior: str
    options: dict[str, Any]
    surrogates: Callable[[], Any] | None = None
    defense: Defense | None = None  #: that it knows
    own: bool = False  #: a later round, in which every identity has a generator of its own

    def __str__(self) -> str:
        return self.name

    def __hash__(self) -> int:
        return id(self)

    def attack(self) -> Attack:
        attack = copy.deepcopy(built(self))
        if isinstance(attack, OwnGenerators):  # of another run than any before
            attack.work = Path(tempfile.mkdtemp(prefix="starts-"))
        return attack

    def changed(self, **changes: Any) -> Attack:
        made = build_attack(
            self.name, **{"identities": IDENTITIES, "restarts": RESTARTS, **self.options, **changes}
        )
        if not self.own:
            return made

        def state_of(identity: int) -> State:
            return other_weights(prior_of(self.prior), identity)

        return OwnGenerators.of(made, state_of, Path(tempfile.mkdtemp(prefix="starts-")), keep_floats=False)


@cache
def built(case: Case) -> Attack:
    made = case.changed()
    made.surrogates = None if case.surrogates is None else case.surrogates()
    if case.defense is not None:
        made.inform(compose(it=case.defense).informed(Normalised()))
    return made


CASES = [
    Case("gmi", "pixels", {"steps": 5, "lr": 0.5}),
    Case("kedmi", "kedmi", {"steps": 5, "group": 2}),
    Case("plgmi", "pixels", {"steps": 5}),
    Case("lomma_gmi", "pixels", {"steps": 5, "lr": 0.5}, statistics),
    Case("lomma_kedmi", "kedmi", {"steps": 5, "group": 2}, statistics),
    Case("ppa", "style", PPA),
    Case("ppa_dogs", "style", {**PPA, "single_w": False}),
    Case("ppa_official", "style", {**PPA, "view": {"shared": False}}),
    Case("ifgmi", "style", {**STYLE, "stages": PHASES, "keep_stages": True}),
    Case("mirror", "style", {**STYLE, "steps": 4, "counted": "consistent"}),
    Case("mirror", "style", {**STYLE, "steps": 4, "keep": "own", "flip_shared": False}),
    Case("mirror_genetic", "style", GENETIC),
    Case("kedmi", "kedmi", {"steps": 5, "group": 2, "expectation": COPIES}),
    Case("lomma_gmi", "pixels", {"steps": 5, "lr": 0.5, "expectation": COPIES}, statistics),
    Case("ppa", "style", {**PPA, "expectation": COPIES}),
    Case("mirror", "style", {**STYLE, "steps": 4, "counted": "consistent", "expectation": COPIES}),
    Case("gmi", "pixels", {"steps": 5, "lr": 0.5, "informed": True}, defense=PASTING),
    Case("lomma_kedmi", "kedmi", {"steps": 5, "group": 2, "informed": True}, statistics, SATURATED),
    Case("plgmi", "pixels", {"steps": 5, "informed": True}, defense=ERASING),
    Case("ppa", "style", {**PPA, "informed": True}, defense=ERASING),
    Case(
        "mirror", "style", {**STYLE, "steps": 4, "counted": "consistent", "informed": True}, None, SATURATED
    ),
    Case("ifgmi", "style", {**STYLE, "stages": PHASES, "informed": True}, defense=PASTING),
    Case(
        "smile",
        "style",
        {"image_to_target": [], "picture": None, "steps": 4, "proposals": 5, "step_size": 0.1},
        surrogate_of_smile,
    ),
    Case("lokt", "pixels", {"steps": 5}, surrogates_of_lokt),
    Case("rlbmi", "pixels", {**RLBMI, "draws": "own"}),
    Case("rlbmi", "pixels", {**RLBMI, "draws": "shared"}),
    Case("rlbmi", "pixels", {**RLBMI, "replay": 6, "horizon": 2, "mixing": 0.3}),
    Case("brepmi", "pixels", {**BREPMI, "choice": "reached"}),
    Case("brepmi", "pixels", {**BREPMI, "choice": "requested", "max_queries": 60}),
    Case("diffmi", "ddpm", DIFFMI, features_of_classes),
    Case("diffmi", "ddpm", {**DIFFMI, "counted": "after_pgd", "expectation": COPIES}, features_of_classes),
    Case("ppdg_ppa", "style", PPA, own=True),
    Case("ppdg_plgmi", "plgmi", {"steps": 4}, own=True),
    Case("ppdg_kedmi", "kedmi", {"steps": 4, "group": 2}, own=True),
]
every_attack = pytest.mark.parametrize("case", CASES, ids=str)


@dataclass(frozen=True)
class Counting(Runtime):
    """Counts the steps of all bars and is interrupted before step ``fatal``, as by Ctrl-C."""

    chunk: int = IDENTITIES * RESTARTS // 2
    fatal: int = -1
    steps: list[None] = field(default_factory=list)

    def bar(self, steps, title, total=None, done=0, values=None):
        for step in steps:
            if len(self.steps) == self.fatal:
                raise KeyboardInterrupt
            self.steps.append(None)
            yield step


@dataclass(frozen=True)
class Run:
    """A whole attack and what it cost."""

    tensors: dict[str, torch.Tensor]
    queries: int
    shown: int
    steps: int


@cache
def prior_of(kind: str) -> Prior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PRIORS[kind]().eval().requires_grad_(False)


def carried_out(
    case: Case, attack: Attack | None = None, *, seed: int = 0, work: Path | None = None, **options: Any
) -> Run:
    attack = attack or case.attack()
    half = IDENTITIES * RESTARTS // 2 // attack.items_per_row
    runtime = Counting(**{"chunk": half, **options})
    network = Colours().to(runtime.device)
    if attack.surrogates is not None:
        attack.surrogates = attack.surrogates.to(runtime.device)
    victim, prior = Victim.of(network, CLASSES, attack.threat), prior_of(case.prior)
    if runtime.device != CPU:
        prior = copy.deepcopy(prior)  # the attack moves it
    found = run_attack(attack, victim, prior, seed=seed, work=work, runtime=runtime)
    return Run(found.tensors(), victim.queries, network.shown, len(runtime.steps))


@cache
def unbroken(case: Case, device: torch.device = CPU) -> Run:
    """In two chunks."""
    return carried_out(case, device=device)


@pytest.fixture(autouse=True, scope="module")
def _compose_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attacks.factory, "choice", cache(choice))
        yield


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Checkpoints of RLB-MI fall inside a run of few episodes; nobody waits for the garbage collector."""
    monkeypatch.setattr("midre_exp.memory.batches.give_memory_back", lambda device: None)
    monkeypatch.setattr(attacks.rlbmi, "BLOCK", 2)
    monkeypatch.setattr(attacks.rlbmi, "SEGMENT", 8)


def assert_equal(found: Run, expected: Run) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, value in expected.tensors.items():
        assert torch.equal(found.tensors[name], value), name
    assert found.queries == expected.queries


def assert_same(found: Run, expected: Run, device: torch.device) -> None:
    """To the byte on a CPU, to rounding on a GPU, which adds up in any order."""
    (assert_equal if device == CPU else assert_close)(found, expected)


def assert_close(found: Run, expected: Run) -> None:
    """Equal but for what rounding in batches of other sizes makes of numbers, by a grey level of images."""
    assert found.tensors.keys() == expected.tensors.keys()
    for name, value in expected.tensors.items():
        tolerance = 1e-3 if value.is_floating_point() else 1 if value.dtype == torch.uint8 else 0
        gap = (found.tensors[name].double() - value.double()).abs().max()
        assert gap <= tolerance, (name, gap)
    assert found.queries == expected.queries


def test_the_list_names_every_attack_of_the_configs():
    assert {case.name for case in CASES} == set(single_attacks())


NOTHING = {**COPIES, "copies": 1, "views": [{**COPIES["views"][1], "sigma": 0}]}
gradient_attacks = pytest.mark.parametrize(
    "case",
    [
        c
        for c in CASES
        if not {"expectation", "informed"} & set(c.options)
        and isinstance(c.changed(), attacks.GradientAttack)
    ],
    ids=str,
)


@gradient_attacks
def test_one_unchanged_copy_is_the_plain_attack_to_the_byte(case):
    attack = case.changed(expectation=NOTHING)
    attack.surrogates = case.attack().surrogates
    assert_equal(carried_out(case, attack), unbroken(case))


@gradient_attacks
def test_nothing_to_know_is_the_plain_attack_to_the_byte(case):
    attack = case.changed(informed=True)
    attack.surrogates = case.attack().surrogates
    attack.inform(compose(nodef=NoDef()).informed(Normalised()))
    assert_equal(carried_out(case, attack), unbroken(case))


def test_a_third_of_the_steps_and_candidates_at_three_copies_costs_the_queries_of_the_plain_attack():
    (case,) = [c for c in CASES if c.name == "ppa" and c.options == PPA]
    copies = {**COPIES, "views": []}
    few = {**STYLE["search"], "size": 4}
    attack = case.changed(informed=True, expectation=copies, steps=1, search=few)  # of 3 steps and 12
    attack.inform(compose(it=ERASING).informed(Normalised()))
    assert carried_out(case, attack).queries == unbroken(case).queries


@gradient_attacks
def test_copies_cost_their_number_of_queries_and_lead_elsewhere(case):
    attack = case.changed(expectation={**COPIES, "search": False, "selection": False})
    attack.surrogates = case.attack().surrogates
    found, plain = carried_out(case, attack), unbroken(case)
    in_loops = found.queries - plain.queries  # two more for each that a step makes
    assert in_loops > 0 and in_loops % (2 * IDENTITIES) == 0
    assert not torch.equal(found.tensors["latents"], plain.tensors["latents"])


@pytest.mark.gpu
@every_attack
def test_a_gpu_finds_what_a_cpu_finds_with_as_many_queries(case):
    assert_close(unbroken(case, CUDA), unbroken(case))


@each_device
@every_attack
def test_results_have_the_promised_types_shapes_and_ranges(case, device):
    found, n = unbroken(case, device).tensors, IDENTITIES * RESTARTS
    assert found["images"].dtype == torch.uint8 and found["images"].shape[:2] == (n, 3)
    assert found["latents"].dtype == torch.float32
    assert found["labels"].dtype == found["queries"].dtype == torch.int64
    assert found["restarts"].tolist() == list(range(RESTARTS)) * IDENTITIES
    assert 0 <= found["labels"].min() <= found["labels"].max() < CLASSES
    if "choice" not in case.options:
        assert found["labels"].tolist() == [i for i in range(IDENTITIES) for _ in range(RESTARTS)]
    assert found["confidence"].shape == (n,)
    assert 0 <= found["confidence"].min() <= found["confidence"].max() <= 1
    for name, value in found.items():
        assert len(value) == n and value.isfinite().all(), name
        assert not value.requires_grad and value.dtype != torch.float64, name


@every_attack
def test_every_image_the_target_is_shown_is_a_query_of_some_item(case):
    done = unbroken(case)
    final_look = IDENTITIES * RESTARTS  # at the 8-bit images, which is not the attack's
    assert int(done.tensors["queries"].sum()) == done.queries == done.shown - final_look
    assert done.queries > 0 or case.name == "lokt"  # which asked the target before


@every_attack
def test_a_seed_gives_the_same_bytes_again_and_another_seed_others(case):
    assert_equal(carried_out(case), unbroken(case))
    other = carried_out(case, seed=1)
    assert not torch.allclose(other.tensors["latents"], unbroken(case).tensors["latents"])
    latents = unbroken(case).tensors["latents"].view(IDENTITIES, RESTARTS, -1)
    assert not torch.allclose(latents[:, 0], latents[:, 1])  # restarts are draws of their own


@every_attack
@pytest.mark.parametrize("chunk", [1, 3, 512])
def test_chunks_change_no_number(case, chunk):
    assert_close(carried_out(case, chunk=chunk), unbroken(case))


@each_device
@every_attack
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_killed_attack_continues_to_the_same_bytes_and_query_count(case, share, device, tmp_path):
    fatal = int(share * unbroken(case, device).steps)
    with pytest.raises(KeyboardInterrupt):
        carried_out(case, work=tmp_path, fatal=fatal, checkpoint_seconds=0, device=device)
    continued = carried_out(case, work=tmp_path, device=device)
    assert_same(continued, unbroken(case, device), device)
    assert continued.steps < unbroken(case).steps or fatal < 2  # checkpoints were used
    assert not list(tmp_path.glob("unfinished-*"))


@every_attack
def test_shards_merge_to_the_unsplit_numbers_or_are_refused(case, tmp_path):
    attack, prior = case.attack(), prior_of(case.prior)
    shards = []
    for half in (range(IDENTITIES // 2), range(IDENTITIES // 2, IDENTITIES)):
        victim = Victim.of(Colours(), CLASSES, attack.threat)
        options = {"seed": 0, "work": tmp_path / str(half.start), "runtime": Counting()}
        if attack.group_size > len(half) * RESTARTS:
            with pytest.raises(ConfigError, match=r"which attack\.shard would separate"):
                run_shard(attack, victim, prior, half, **options)
            return
        shards.append(run_shard(attack, victim, prior, half, **options))
    merged = merge_shards(shards).tensors()
    for name, value in unbroken(case).tensors.items():
        assert torch.equal(merged[name], value), name


@each_device
@every_attack
def test_a_chunk_that_does_not_fit_into_memory_is_halved_without_changing_a_number(case, device, capsys):
    attack = case.attack()

    class Greedy(type(attack)):
        def invert(self, victim, prior, labels, *rest):
            if len(labels) > max(self.group_size, RESTARTS) or self.group_size == IDENTITIES * RESTARTS:
                images = torch.zeros(len(labels), 3, 4, 4, device=device)
                victim.confidence(images, labels)  # queries lost with the attempt
                raise torch.cuda.OutOfMemoryError("too much")
            return super().invert(victim, prior, labels, *rest)

    attack.__class__ = Greedy
    if attack.group_size == IDENTITIES * RESTARTS:
        with pytest.raises(OutOfMemory, match=r"8 item\(s\), which cannot be divided further: not enough"):
            carried_out(case, attack, chunk=512, device=device)
        return
    halved = carried_out(case, attack, chunk=512, device=device)
    assert "out of memory with 8 items" in capsys.readouterr().err
    assert_close(halved, unbroken(case))


SHORTAGES = (
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("Expected canUse32BitIndexMath(input) && canUse32BitIndexMath(output) to be true"),
    RuntimeError("integer out of range"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 34359738368 bytes."),
    MemoryError(),
)


class Narrow:
    """A device on which networks fit with few images alone; runs out of memory in a new way each time."""

    def __init__(self, images: int):
        self.images, self.refused = images, dict.fromkeys(("target", "prior"), 0)
        self.errors = itertools.cycle(SHORTAGES)

    def holds(self, network: str, images: int) -> None:
        if images > self.images:
            self.refused[network] += 1
            raise next(self.errors)

    def prior(self, kind: str) -> Prior:
        made = copy.deepcopy(prior_of(kind))
        for name in ("generate", "synthesise", "run_blocks", "noise"):
            if (inner := getattr(made, name, None)) is not None:

                def narrow(rows, *rest, inner=inner, **options):
                    self.holds("prior", len(rows))
                    return inner(rows, *rest, **options)

                setattr(made, name, narrow)
        return made

    def target(self) -> nn.Module:
        device = self

        class Watched(Colours):
            def forward(self, images, taps=()):
                device.holds("target", len(images))
                return super().forward(images, taps)

        return Watched()


@every_attack
@pytest.mark.parametrize("narrow", ["target", "prior"])
def test_memory_that_is_short_in_any_phase_changes_no_number(case, narrow, capsys):
    if case.own and narrow == "prior":
        pytest.skip("draws with copies of the prior")
    attack = case.attack()
    averaging = getattr(attack, "averaging", None)
    copies = 1 if averaging is None else averaging.copies  # of one item, which go together
    device = Narrow(2 * copies if narrow == "target" else 2)
    network = device.target() if narrow == "target" else Colours()
    prior = device.prior(case.prior) if narrow == "prior" else prior_of(case.prior)
    victim, runtime = Victim.of(network, CLASSES, attack.threat), Counting(chunk=512)
    found = run_attack(attack, victim, prior, runtime=runtime)
    assert device.refused[narrow]
    assert_close(Run(found.tensors(), victim.queries, 0, 0), unbroken(case))
    assert "out of memory" in capsys.readouterr().err


@every_attack
def test_a_device_on_which_not_one_image_fits_is_one_sentence(case):
    attack, device = case.attack(), Narrow(0)
    victim = Victim.of(device.target(), CLASSES, attack.threat)
    with pytest.raises(OutOfMemory, match=r"not enough memory .* a device with more memory|with more memory"):
        run_attack(attack, victim, prior_of(case.prior), runtime=Counting(chunk=512))


@every_attack
@pytest.mark.parametrize("chunk", [3, 512])
def test_a_killed_attack_goes_on_in_chunks_of_another_size(case, chunk, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        carried_out(case, work=tmp_path, fatal=int(0.7 * unbroken(case).steps))
    continued = carried_out(case, work=tmp_path, chunk=chunk)
    assert_close(continued, unbroken(case))
    assert not list(tmp_path.glob("unfinished-*"))


@every_attack
def test_the_attack_takes_no_victim_but_its_own_and_leaves_the_network_as_it_was(case):
    attack, network = case.attack(), Colours()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for threat in set(Threat) - {attack.threat}:
        victim = Victim.of(network, CLASSES, threat)
        with pytest.raises(ConfigError, match=r"attacks a \w+Victim and was given a .* use Victim\.of"):
            run_attack(attack, victim, prior_of(case.prior), runtime=Counting())
    run_attack(attack, Victim.of(network, CLASSES, attack.threat), prior_of(case.prior), runtime=Counting())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(weight.grad is None for weight in network.parameters())


@every_attack
def test_impossible_numbers_of_items_and_unknown_options_are_refused_by_name(case):
    for name in ("identities", "restarts"):
        with pytest.raises(ConfigError, match=rf"attack\.{name}=0.* must be at least 1"):
            case.changed(**{name: 0})
    with pytest.raises(ConfigError, match=f"attack {case.name} has no option stepps; its options are"):
        case.changed(stepps=1)
    many = case.attack()
    many.identities = CLASSES + 1
    with pytest.raises(ConfigError, match=r"attack\.identities=7 exceeds the 6 classes of the target"):
        run_attack(many, Victim.of(Colours(), CLASSES, many.threat), prior_of(case.prior))


class Nameless(Colours):
    """A target whose answers to more than ``healthy`` images are no numbers."""

    def __init__(self, healthy: int):
        super().__init__()
        self.healthy = healthy

    def forward(self, images, taps=()):
        output = super().forward(images, taps)
        logits = output.logits
        return output if self.shown <= self.healthy else output._replace(logits=logits * torch.nan)


class Blank(nn.Module):
    """Answers evenly whatever it is shown, NaN too."""

    def forward(self, images, taps=()):
        clean = F.adaptive_avg_pool2d(images, 2).flatten(1).nan_to_num()
        return Output((clean @ torch.ones(12, CLASSES)) * torch.arange(CLASSES), clean)


def left_by(work: Path) -> list[torch.Tensor]:
    """All numbers that an attack has kept in its work folder."""
    states = [checkpoint.load(path) for path in work.rglob("*") if path.is_file()]
    parts = [part for state in states for part in (state, state.get("state", {}), state.get("tensors", {}))]
    return [value for part in parts for value in part.values() if isinstance(value, torch.Tensor)]


@every_attack
@pytest.mark.parametrize("share", [0, 0.6])
def test_a_target_whose_answers_are_no_numbers_ends_the_attack(case, share, tmp_path):
    attack = case.attack()
    victim = Victim.of(Nameless(int(share * unbroken(case).shown)), CLASSES, attack.threat)
    with pytest.raises(DivergedError, match=r"not finite|NaN|nan"):
        run_attack(attack, victim, prior_of(case.prior), work=tmp_path, runtime=Counting())
    assert not any(value.isnan().any() for value in left_by(tmp_path) if value.is_floating_point())


@every_attack
def test_a_prior_that_draws_no_numbers_ends_the_attack_whatever_the_target_makes_of_them(case, tmp_path):
    attack, prior = case.attack(), copy.deepcopy(prior_of(case.prior))
    draw = "as_picture" if isinstance(prior, StylePrior) else "generate"
    draw = "noise" if case.prior == "ddpm" else draw
    good = getattr(prior, draw)
    if isinstance(attack, OwnGenerators):
        healthy = attack.state_of
        attack.state_of = lambda one: {name: value * torch.nan for name, value in healthy(one).items()}
    else:
        setattr(prior, draw, lambda *given: good(*given) * torch.nan)
    for network in (Colours(), Blank()):
        victim = Victim.of(network, CLASSES, attack.threat)
        with pytest.raises(DivergedError, match=r"not finite|NaN|nan"):
            run_attack(attack, victim, prior, work=tmp_path, runtime=Counting())
    assert not any(value.isnan().any() for value in left_by(tmp_path) if value.is_floating_point())


def plugins() -> list[type]:
    """The classes that configs may name."""
    public = [getattr(attacks, name) for name in attacks.__all__]
    return [thing for thing in public if isinstance(thing, type) and is_dataclass(thing)]


@pytest.mark.parametrize("kind", plugins(), ids=lambda kind: kind.__name__)
def test_every_option_is_documented_at_its_own_line(kind):
    bases = [base for base in kind.__mro__ if is_dataclass(base)]
    lines = list(itertools.chain.from_iterable(inspect.getsource(base).splitlines() for base in bases))
    for option in fields(kind):
        (row, *_) = [i for i, line in enumerate(lines) if line.startswith(f"    {option.name}: ")]
        is_documented = "  # " in lines[row] or lines[row - 1].lstrip().startswith("#:")
        assert is_documented or not option.init, f"{kind.__name__}.{option.name}"
    assert kind.__dataclass_params__.eq is False
