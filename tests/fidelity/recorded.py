"""What the recorded runs of tests/golden/loops are compared with ours through: their numbers, the draws and
networks that rules give, and stand-ins that hand these draws to our code.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F

from midre_exp.attack import NOT_OPTIONS
from midre_exp.plan.config import CONF_DIR, build, without
from midre_exp.priors.base import Prior, initial_prior
from midre_exp.priors.style_prior import StylePrior
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.targets.base import Output
from tests.golden.fill import fill, fixed_values

LOOPS = Path(__file__).parents[1] / "golden" / "loops"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Recording:
    """One file of tests/golden/loops: its settings, and its arrays by name."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]

    @classmethod
    def of(cls, name: str) -> Recording:
        with np.load(LOOPS / f"{name}.npz") as file:
            arrays = {key: file[key] for key in file.files}
        return cls(json.loads(str(arrays.pop("meta"))), arrays)

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @property
    def tag(self) -> str:
        return str(self.meta["tag"])


# numbers that rules give


def state_of(key: str) -> np.random.RandomState:
    return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF)


def draw(key: str, *shape: int) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.from_numpy(np.asarray(state_of(key).standard_normal(shape), np.float32))


def unif(key: str, *shape: int) -> Tensor:
    """Numbers in [0, 1], float32."""
    return torch.from_numpy(np.asarray(state_of(key).uniform(size=shape), np.float32))


def ints(key: str, high: int, *shape: int) -> Tensor:
    """Whole numbers below ``high``, int64."""
    return torch.from_numpy(state_of(key).randint(0, high, shape).astype(np.int64))


def pick(key: str, population: int, count: int) -> Tensor:
    """``count`` different numbers below ``population``, int64."""
    return torch.from_numpy(state_of(key).permutation(population)[:count].astype(np.int64))


def enlarged(images: Tensor, factor: int) -> Tensor:
    """Every pixel repeated ``factor`` x ``factor`` times."""
    return images.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


# networks


class ToyClassifier(nn.Module):
    """Target, student and judge of the recordings: a convolution, pooling to 4 x 4 (the features), a linear
    layer.
    """

    def __init__(self, classes: int, *, width: int = 12, normal: tuple[float, float] = (0.0, 1.0)):
        super().__init__()
        self.c = nn.Conv2d(3, width, 5, stride=4, padding=2)
        self.fc = nn.Linear(16 * width, classes)
        self.normal = normal

    def forward(self, images: Tensor) -> Output:
        mean, deviation = self.normal
        maps = F.gelu(self.c((images - mean) / deviation))
        features = F.adaptive_avg_pool2d(maps, 4).flatten(1)
        return Output(self.fc(features), features)


@torch.no_grad()
def gained(network: nn.Module, gains: Mapping[str, float]) -> None:
    """Multiply the named parameters."""
    parameters = dict(network.named_parameters())
    for name, factor in gains.items():
        parameters[name] *= factor


def classifier(
    recording: Recording, part: str, bias: str, *, double: bool = False, **options: Any
) -> ToyClassifier:
    """The toy filled under the prefix ``part``, with the stored last ``bias``."""
    toy = ToyClassifier(len(recording[bias]), **options)
    fill(toy, official=lambda key: f"{recording.tag}/{part}.{key}")
    gained(toy, recording.meta["gains_classifier"])
    toy = toy.double() if double else toy
    with torch.no_grad():
        toy.fc.bias.copy_(recording[bias])
    return toy


def gan_prior(
    recording: Recording, name: str, *, critic: str | None = None, double: bool = False, **options: Any
) -> Prior:
    """The prior of conf/attack/prior/NAME.yaml in the recording's sizes, its generator (prefix G) and, if
    named, its ``critic`` (prefix D) filled.
    """
    meta = recording.meta
    node = conf("attack", "prior", name)
    node = {key: value for key, value in node.items() if key != "image_to_target"}
    options |= {"image_to_target": []} if name == "plgmi" else {}
    sizes = {"image_size": 64, "latent_dim": meta.get("latent_dim", 100), "width": meta["width"], **options}
    prior = initial_prior({**node, **sizes}, num_classes=meta["classes"])
    for part, network in {"G": "generator", "D": critic}.items():
        if network is not None:
            fill(
                prior.get_submodule(network),
                official=lambda key, part=part: f"{recording.tag}/{part}.{key}",
            )
    gained(prior.get_submodule("generator"), meta.get("gains_generator", {}))
    return (prior.double() if double else prior).eval().requires_grad_(False)


class RecordedStyle(StylePrior):
    """The StyleGAN2 of the recordings: 32 px, codes of 16 numbers. ``scale``: of its raw images."""

    def __init__(self, tag: str, *, scale: float = 1.0):
        super().__init__()
        generator = StyleGAN2Generator(
            z_dim=16,
            w_dim=16,
            img_resolution=32,
            mapping_kwargs={"num_layers": 2},
            synthesis_kwargs={"channel_base": 1024, "channel_max": 8},
        )
        fill_naturally(generator, f"{tag}/G.")
        self.scale = scale
        self.take(generator, None)
        self.freeze()

    def as_picture(self, raw: Tensor) -> Tensor:  # type: ignore[override]
        return super().as_picture(self.scale * raw)

    def fit(self, *arguments: Any, **options: Any) -> dict[str, float]:
        raise NotImplementedError

    def realism(self, images: Tensor) -> Tensor:
        raise NotImplementedError


def fill_naturally(network: nn.Module, prefix: str) -> None:
    """Fill a StyleGAN2 so that its images vary as those of a trained one; resample filters stay."""
    values = network.state_dict()
    for key, value in values.items():
        if "resample_filter" in key:
            continue
        drawn = draw(prefix + key, *value.shape)
        if key.startswith("mapping.fc"):
            drawn = (100 if key.endswith("weight") else 10) * drawn
        elif key.endswith(("bias", "noise_strength", "w_avg")):
            drawn = 0.1 * drawn
        values[key] = drawn + 1 if key.endswith("affine.bias") else drawn
    network.load_state_dict(values)


def filled(prefix: str, shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """Tensors by name, filled by the rule of networks."""
    values = fixed_values({prefix + name: shape for name, shape in shapes.items()}, set())
    return {name: torch.from_numpy(values[prefix + name]) for name in shapes}


# attacks, and what is handed to them


def conf(*path: str) -> dict[str, Any]:
    """A node of conf/, as it is written."""
    file = CONF_DIR.joinpath(*path[:-1], f"{path[-1]}.yaml")
    node = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def attack(name: str, **changes: Any) -> Any:
    """The attack of conf/attack/NAME.yaml with changes, without steps between generator and target unless
    these are given.
    """
    steps = {key: changes.pop(key, None) for key in ("image_to_target", "picture")}
    others = ("defaults", *NOT_OPTIONS, *steps)
    node = {**without(conf("attack", name), *others), **changes}
    made = build(node)
    made.image_to_target, made.picture = tuple(steps["image_to_target"] or ()), steps["picture"]
    return made


#: Rows int64 [n] of the items that ask, the draw's name, its shape, its step; gives [n, *shape].
Rule = Callable[[Tensor, str, Shape, int], Tensor]


class RecordedDraws(ItemRNG):
    """The random streams of items, which give what a recording's rules say instead of drawing."""

    def __init__(self, rule: Rule, rows: Tensor):
        self.rule, self.keys = rule, rows

    def _with(self, keys: Tensor) -> RecordedDraws:
        return RecordedDraws(self.rule, keys)

    def normal(self, name: str, *shape: int, step: int = 0) -> Tensor:
        return self.rule(self.keys, name, shape, step)

    def uniform(self, name: str, *shape: int, step: int = 0) -> Tensor:
        return self.rule(self.keys, name, shape, step)


def draws(rule: Rule, items: int) -> RecordedDraws:
    return RecordedDraws(rule, torch.arange(items))


def no_draws(items: int = 1) -> RecordedDraws:
    """Of a loop that must not draw."""

    def refuse(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        raise AssertionError(f"{name} was drawn, which the official program does not")

    return draws(refuse, items)


class Watched:
    """A loop that keeps copies of the state before every step, under ``names``, and the state at the end."""

    def __init__(
        self, *names: str, start: Tensor | None = None, shared_rng: ItemRNG | None = None, items: int = 1
    ):
        self.names, self.start = names, start
        self.shared_rng = shared_rng or no_draws()
        self.runtime = quiet()
        self.before: list[dict[str, Tensor]] = []
        self.losses: list[Tensor] = []
        self.state: dict[str, Tensor] = {}

    def __call__(
        self, steps: int | None, state: dict[str, Tensor], until: Any = None, saved_after: Any = None
    ) -> Iterator[int]:
        self.state, step = state, 0
        while (steps is None or step < steps) and not (until and until(state)):
            self.before.append({name: state[name].detach().clone() for name in self.names if name in state})
            yield step
            step += 1

    def show(self, **values: Tensor) -> None:
        self.losses.append(next(iter(values.values())).detach().clone())


def quiet() -> Runtime:
    return Runtime(quiet=True)


# comparisons


def gap(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference."""
    assert ours.shape == theirs.shape, f"{list(ours.shape)} beside {list(theirs.shape)}"
    return float((ours.detach().double() - theirs.double()).abs().max())


def near(ours: Tensor, theirs: Tensor, tolerance: float, what: str) -> None:
    """Fail, saying by how much, where any number differs by more than ``tolerance``."""
    found = gap(ours, theirs)
    assert found <= tolerance, f"{what}: off by {found:.3g}, allowed {tolerance:.3g}"


def mostly_near(
    ours: Tensor, theirs: Tensor, what: str, *, median: float, most: float, usual: float, exceptions: float
) -> None:
    """The same for optimisers that turn rounding into steps where a gradient vanishes: a share of
    ``exceptions`` may differ by more than ``usual``, none by more than ``most``.
    """
    apart = (ours.detach().double() - theirs.double()).abs()
    near(ours, theirs, most, what)
    assert float(apart.median()) <= median, f"{what}: median {float(apart.median()):.3g}"
    share = float((apart > usual).double().mean())
    assert share <= exceptions, f"{what}: {100 * share:.2f} % are off by more than {usual:g}"
