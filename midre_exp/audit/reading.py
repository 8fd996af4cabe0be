"""What a network was fed, and whom its classes mean: tried on the pictures of a folder and decided by the
network's own answers.

A file of weights seldom says how its pictures were scaled, cropped and normalised, and its classes are
numbers. Wrong guesses cost accuracy, and shift the statistics of batch norm away from those in the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from midre_exp.audit.network import Checkpoint, Network
from midre_exp.data.base import to_float
from midre_exp.data.readers.folder import FaceFolder, read
from midre_exp.data.readers.label_file import read_names
from midre_exp.data.readers.tree import ImageFile, natural
from midre_exp.errors import ConfigError, DataError
from midre_exp.targets.base import Classifier
from midre_exp.targets.chance import Chance

Numbers = tuple[float, float, float]
#: How pictures are normalised in the wild; beside these, by their own mean and deviation.
NORMALISATIONS: Mapping[str, tuple[Numbers, Numbers]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "bytes": ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)),
}
SIZES = (64, 224, 112, 128, 32, 96, 160, 48, 256, 299)  # the usual ones first
CROPS = ("none", "center")
_COARSE, _FINE = 40, 600  # pictures looked at per guess, and for the verdict on the best
_MARGIN = 5.0  # points of accuracy within which the statistics of batch norm decide
_LEVEL = 1e-4  # how improbable so many hits must be by chance, several guesses being made
_OWN = 75.0  # percent that an order of nobody's must explain, the best of all permutations being sought
_PER_CLASS = 4  # and pictures of each person for it
_AGREES = 0.8  # of what the best of all permutations explains
_CLEAR = 95.0, 0.25  # accuracy from which, and shift of batch norm up to which, no other size is tried


@dataclass(frozen=True)
class Preprocessing:
    """From a picture to what the network takes."""

    size: int
    crop: str  # center: the largest centred square | none: stretched
    normalisation: str  # its name
    mean: Numbers
    std: Numbers

    def __str__(self) -> str:
        how = "cut to a centred square" if self.crop == "center" else "stretched to a square"
        return f"{self.size} px, {how}, normalisation {self.normalisation}"


@dataclass(frozen=True)
class Reading:
    """A network with what it is fed and whom its classes mean."""

    network: Network
    preprocessing: Preprocessing
    people: tuple[str, ...]  # of each class
    accuracy: float  # percent
    images: int  # that it is of
    tested: str  # which images these are, in words
    order: str  # where the order of classes is from, in words
    alarms: tuple[str, ...] = ()
    tried: tuple[str, ...] = ()


class UnknownModelError(ConfigError):
    """A network that does not recognise the people of a folder, whatever was tried."""


@dataclass(eq=False)
class Pictures:
    """The people of a folder and their pictures, decoded once for each size and crop."""

    root: Path
    everybody: dict[str, tuple[ImageFile, ...]] = field(init=False)
    tests: dict[str, tuple[ImageFile, ...]] = field(init=False)

    def __post_init__(self) -> None:
        folder = FaceFolder(
            root=self.root, size=32, private=None, private_share=0.5, test_share=0.2, crop="none", seed=0
        )
        found = folder.everybody
        self.everybody = {found.on_disk[name]: found.of(name) for name in found.files if found.count(name)}
        part = next((part for part in ("test", "val") if part in found.splits), None)
        self.tests = (
            {found.on_disk[name]: files[part] for name, files in found.files.items() if part in files}
            if part
            else {}
        )
        self._decoded: dict[tuple[object, ...], tuple[Tensor, Tensor]] = {}
        if len(self.everybody) < 2:
            raise DataError(
                f"{self.root} holds the pictures of {len(self.everybody)} person; give two or more"
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Everybody, as the disk spells them, in alphabetical order."""
        return tuple(sorted(self.everybody))

    def sample(self, count: int, size: int, crop: str, *, tests: bool = False) -> tuple[Tensor, Tensor]:
        """About ``count`` pictures uint8 [n, 3, size, size], as many of each person, and whose they are."""
        key = (count, size, crop, tests)
        if key not in self._decoded:
            source = self.tests if tests else self.everybody
            each = max(1, count // max(1, len(source)))
            files = [
                (file, who)
                for who, name in enumerate(self.names)
                for file in _spread(source.get(name, ()), each)
            ]
            images, reasons = read([file for file, _ in files], size=size, crop=crop)
            kept = [who for row, (_, who) in enumerate(files) if row not in reasons]
            if not kept:
                raise DataError(f"none of the pictures in {self.root} can be read; give others")
            self._decoded[key] = images, torch.tensor(kept)
        return self._decoded[key]

    def own_statistics(self) -> tuple[Numbers, Numbers]:
        """Mean and deviation of the pictures' channels."""
        pixels = to_float(self.sample(_COARSE, 64, "none")[0]).transpose(0, 1).flatten(1)
        mean, std = pixels.mean(1).tolist(), pixels.std(1).clamp(min=1e-3).tolist()
        return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def _spread(files: Sequence[ImageFile], count: int) -> list[ImageFile]:
    """So many of some files, spread over them."""
    if len(files) <= count:
        return list(files)
    return [files[round(i * (len(files) - 1) / max(1, count - 1))] for i in range(count)]


@dataclass(frozen=True)
class Guess:
    """A way to read a network, and how well it went."""

    network: Network
    preprocessing: Preprocessing
    accuracy: float = 0.0  # percent, under the best order of classes
    shift: float = 0.0  # of batch norm's statistics; without it, the mean negative log-likelihood
    has_norms: bool = False  # whether it is of batch norm

    def __str__(self) -> str:
        return f"{self.network.what}, {self.preprocessing}: {self.accuracy:.1f} %"


def read_network(
    checkpoint: Checkpoint,
    pictures: Pictures,
    *,
    size: int | None = None,
    normalisation: str | None = None,
    names: Path | None = None,
    seconds: float = 60.0,
    say: Callable[[str], None] = lambda _: None,
) -> Reading:
    """The reading of a checkpoint under which it recognises the people of a folder best.

    ``size``, ``normalisation`` and ``names`` (a file of names in the order of classes) are taken as given;
    larger sizes are left out once ``seconds`` are spent. Raises UnknownModelError, which lists what was
    tried, for a network that is at chance with all of it.
    """
    if len(pictures.names) < checkpoint.classes:
        raise ConfigError(
            f"{checkpoint.given} tells {checkpoint.classes} classes apart and {pictures.root} holds "
            f"{len(pictures.names)} people; give the folder with everybody whom it knows"
        )
    guesses = _search(checkpoint, pictures, size, normalisation, seconds)
    best = _best(guesses)
    if best.accuracy < 0:
        raise UnknownModelError(
            f"{checkpoint.given} answers no square picture of the sizes that were tried in finite numbers "
            f"({', '.join(str(one) for one in sorted({g.preprocessing.size for g in guesses}))} px); give "
            "--size, or for one that takes other shapes --model package.module:function, a function whose "
            "network resizes squares first"
        )
    say(f"read as {best.network.what}, {best.preprocessing}")
    logits, who = _answers(checkpoint, best, pictures, _FINE)
    order = _order(checkpoint, pictures, logits, who, names)
    if order is None:
        tried = "; ".join(str(guess) for guess in sorted(guesses, key=lambda g: -g.accuracy)[:12])
        raise UnknownModelError(
            f"{checkpoint.given} does not recognise the people in {pictures.root}, whatever was tried: the "
            f"best of all orders of classes explains {best.accuracy:.1f} % of the pictures. Tried: {tried}; "
            "give the folder it was trained on, or --size, --normalisation and --model"
        )
    classes, told, alarms = order
    tested = "all pictures of the folder, those it was trained on perhaps among them"
    if pictures.tests:
        logits, who = _answers(checkpoint, best, pictures, _FINE, tests=True)
        tested = "the test pictures of the folder"
    rows, labels = _labels(who, classes, pictures.names)
    accuracy = 100 * float((logits[rows].argmax(1) == labels).double().mean()) if len(labels) else 0.0
    return Reading(
        best.network,
        best.preprocessing,
        classes,
        accuracy,
        len(labels),
        tested,
        told,
        tuple(alarms),
        tuple(map(str, guesses)),
    )


def _search(
    checkpoint: Checkpoint, pictures: Pictures, size: int | None, normalisation: str | None, seconds: float
) -> list[Guess]:
    """Guesses, each with how well it went: one thing after another is varied, twice."""
    ways = {**NORMALISATIONS, "own": pictures.own_statistics()}
    if normalisation is not None:
        ways = {normalisation: _given(normalisation, ways)}
    fixed = {
        int(network.model["image_size"]) for network in checkpoint.networks if "image_size" in network.model
    }
    sizes = [size] if size is not None else sorted(fixed) or list(SIZES)
    first = next(iter(ways))
    best = Guess(checkpoint.networks[0], Preprocessing(sizes[0], "none", first, *ways[first]))
    made: dict[tuple[str, Preprocessing], Guess] = {}
    began = time.monotonic()

    def judged(guesses: Iterable[Guess]) -> Guess:
        for guess in guesses:
            late = time.monotonic() - began > seconds
            key = guess.network.what, guess.preprocessing
            if key not in made and not (late and made and guess.preprocessing.size > 128):
                made[key] = _judged(checkpoint, guess, pictures)
        return _best(list(made.values()))

    def varied(guess: Guess) -> Iterator[Guess]:
        """Its other sizes, as long as none is clearly right."""
        for each in sizes:
            tried = [one for one in made.values() if one.has_norms]
            if not any(one.accuracy >= _CLEAR[0] and one.shift <= _CLEAR[1] for one in tried):
                yield replace(guess, preprocessing=replace(guess.preprocessing, size=each))

    for _ in range(2):
        plain = replace(best, accuracy=0.0, shift=0.0)
        best = judged(varied(plain))
        before = best.preprocessing
        best = judged(
            Guess(best.network, replace(before, normalisation=name, mean=mean, std=std))
            for name, (mean, std) in ways.items()
        )
        best = judged(Guess(network, best.preprocessing) for network in checkpoint.networks)
        best = judged(Guess(best.network, replace(best.preprocessing, crop=crop)) for crop in CROPS)
    return list(made.values())


def _given(text: str, ways: Mapping[str, tuple[Numbers, Numbers]]) -> tuple[Numbers, Numbers]:
    """A normalisation by its name, or as MEAN/STD, each one number or three with commas. Raises
    ConfigError.
    """
    if text in ways:
        return ways[text]
    try:
        mean, std = ([float(part) for part in side.split(",")] for side in text.split("/"))
        (m1, m2, m3), (s1, s2, s3) = (side * 3 if len(side) == 1 else side for side in (mean, std))
        return (m1, m2, m3), (s1, s2, s3)
    except ValueError:
        raise ConfigError(
            f"--normalisation {text} cannot be used; give {', '.join(ways)}, or MEAN/STD such as "
            "0.5/0.5 or 0.485,0.456,0.406/0.229,0.224,0.225"
        ) from None


def _best(guesses: Sequence[Guess]) -> Guess:
    """The guess with the most accuracy; among those nearly as good, that in whose light batch norm sees what
    it was trained on.
    """
    most = max(guess.accuracy for guess in guesses)
    return min((g for g in guesses if g.accuracy >= most - _MARGIN), key=lambda g: g.shift)


def _judged(checkpoint: Checkpoint, guess: Guess, pictures: Pictures) -> Guess:
    try:
        shifts: list[Tensor] = []
        logits, who = _answers(checkpoint, guess, pictures, _COARSE, shifts=shifts)
    except (RuntimeError, ValueError, AssertionError):  # a size that the network does not take
        return replace(guess, accuracy=-1.0, shift=float("inf"))
    if not bool(logits.isfinite().all()):
        return replace(guess, accuracy=-1.0, shift=float("inf"))
    means, hits = _by_person(logits, who, len(pictures.names))
    people, classes = linear_sum_assignment(means.numpy(), maximize=True)
    known = torch.isin(who, torch.from_numpy(people))
    accuracy = 100 * float(hits[people, classes].sum()) / max(1, int(known.sum()))
    likelihood = -float(means[people, classes].mean())
    shift = float(torch.stack(shifts).mean()) if shifts else likelihood
    return replace(guess, accuracy=accuracy, shift=shift, has_norms=bool(shifts))


def _by_person(logits: Tensor, who: Tensor, people: int) -> tuple[Tensor, Tensor]:
    """Mean log-probabilities and hits, [people, classes]; of a person without pictures, none."""
    classes = logits.shape[1]
    counts = torch.bincount(who, minlength=people).clamp(min=1).double()
    means = torch.zeros(people, classes, dtype=torch.float64)
    means.index_add_(0, who, logits.double().log_softmax(1))
    means = means / counts[:, None]
    means[torch.bincount(who, minlength=people) == 0] = -1e3
    hits = torch.zeros(people, classes, dtype=torch.float64)
    hits.index_put_((who, logits.argmax(1)), torch.ones(len(who), dtype=torch.float64), accumulate=True)
    return means, hits


@torch.no_grad()
def _answers(
    checkpoint: Checkpoint,
    guess: Guess,
    pictures: Pictures,
    count: int,
    *,
    tests: bool = False,
    shifts: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Logits [n, k] of pictures as a guess has them, and whose these are; ``shifts`` takes how far every
    batch norm's input is from what it was trained on.
    """
    made = checkpoint.build(guess.network, guess.preprocessing.mean, guess.preprocessing.std)
    images, who = pictures.sample(count, guess.preprocessing.size, guess.preprocessing.crop, tests=tests)
    hooks = [] if shifts is None else _watch(made, shifts)
    logits = [made(to_float(part)).logits for part in images.split(32)]
    for hook in hooks:
        hook.remove()
    return torch.cat(logits), who


def _watch(model: Classifier, shifts: list[Tensor]) -> list[torch.utils.hooks.RemovableHandle]:
    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x, mean, variance = inputs[0], module.running_mean, module.running_var
        if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
            return
        own_mean, own = x.mean((0, 2, 3)), x.var((0, 2, 3)).clamp(min=1e-8)
        deviation = variance.clamp(min=1e-8).sqrt()
        shifts.append(
            ((own_mean - mean).abs() / deviation).mean() + (own.sqrt() / deviation).log().abs().mean()
        )

    return [m.register_forward_pre_hook(look) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


# whom the classes mean


def _order(
    checkpoint: Checkpoint, pictures: Pictures, logits: Tensor, who: Tensor, names: Path | None
) -> tuple[tuple[str, ...], str, list[str]] | None:
    """The person of each class, where that is from, and what a reader must know of it; None where the network
    knows nobody.
    """
    people, classes = pictures.names, logits.shape[1]
    means, hits = _by_person(logits, who, len(people))
    rows, columns = linear_sum_assignment(hits.numpy() + 1e-3 * np.exp(means.numpy()), maximize=True)
    matched = [people[row] for _, row in sorted(zip(columns.tolist(), rows.tolist(), strict=True))]
    most = _accuracy(matched, logits, who, people)
    given = _given_orders(checkpoint, names)
    wrong = []
    for told, order in given:
        if len(order) == classes and set(order) <= set(people):
            accuracy = _accuracy(order, logits, who, people)
            if accuracy >= _AGREES * most and _is_knowledge(accuracy, who, order, people):
                return tuple(order), told, []
            wrong.append(f"{told} are not the network's: {accuracy:.1f} % of the pictures with them")
        else:
            wrong.append(f"{told} are not {classes} people of the folder")
    for told, order in (
        ("alphabetical, as torchvision's ImageFolder", sorted(matched)),
        ("natural (s2 before s10)", sorted(matched, key=natural)),
    ):
        accuracy = _accuracy(order, logits, who, people)
        if accuracy >= _AGREES * most and _is_knowledge(accuracy, who, order, people):
            return tuple(order), told, [f"{text}, {accuracy:.1f} % in {told} order" for text in wrong]
    of_each = torch.bincount(who, minlength=len(people))[list(map(people.index, matched))]
    if most >= _OWN and int(of_each.min()) >= _PER_CLASS and _is_knowledge(most, who, matched, people):
        shown = ", ".join(f"class {number} is {name}" for number, name in enumerate(matched[:4]))
        own = f"an order of its own, matched by its answers ({most:.1f} % of the pictures: {shown}, …)"
        wrong += [] if wrong else ["The classes are in neither alphabetical nor natural order"]
        return tuple(matched), own, [f"{text}; they follow {own}" for text in wrong]
    return None


def _given_orders(checkpoint: Checkpoint, names: Path | None) -> list[tuple[str, list[str]]]:
    """The orders of classes that somebody states: a file of names, or the weight file itself."""
    if names is not None:
        return [(f"the names in {names}", list(read_names(names, "--names")))]
    found = []
    for key, value in checkpoint.remarks.items():
        if key == "class_to_idx" and isinstance(value, dict):
            pairs = sorted((index, str(name)) for name, index in value.items() if type(index) is int)
            found.append([name for _, name in pairs])
        elif key == "idx_to_class" and isinstance(value, dict):
            numbered = {int(index): str(name) for index, name in value.items() if str(index).isdigit()}
            found.append([numbered[index] for index in sorted(numbered)])
        elif key in ("classes", "class_names") and isinstance(value, list):
            found.append([str(name) for name in value])
    return [("the names inside the file", order) for order in found]


def _labels(who: Tensor, order: Sequence[str], people: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Which pictures are of somebody in an order, and the class of each of these."""
    place = {name: number for number, name in enumerate(order)}
    labels = torch.tensor([place.get(name, -1) for name in people])[who]
    rows = (labels >= 0).nonzero()[:, 0]
    return rows, labels[rows]


def _accuracy(order: Sequence[str], logits: Tensor, who: Tensor, people: Sequence[str]) -> float:
    rows, labels = _labels(who, order, people)
    return 100 * float((logits[rows].argmax(1) == labels).double().mean()) if len(rows) else 0.0


def _is_knowledge(accuracy: float, who: Tensor, order: Sequence[str], people: Sequence[str]) -> bool:
    _, labels = _labels(who, order, people)
    return Chance.of(labels, len(order)).p_value(accuracy) < _LEVEL
