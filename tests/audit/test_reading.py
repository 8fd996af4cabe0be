"""What a network was fed and whom its classes mean, decided by its own answers."""

from __future__ import annotations

import random

import pytest
import torch
from PIL import Image
from torch import nn

from midre_exp.audit import reading
from midre_exp.audit.network import Checkpoint, Network
from midre_exp.audit.reading import NORMALISATIONS, Pictures, UnknownModelError, read_network
from midre_exp.errors import ConfigError
from midre_exp.targets.architectures.wrapped import WrappedNetwork

PEOPLE = [f"s{number}" for number in range(1, 13)]
COLOURS = {name: (20 * i + 10, (97 * i) % 256, 255 - 20 * i) for i, name in enumerate(PEOPLE)}
KNOWN = sorted(PEOPLE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight flat pictures of each person, in colours near his own."""
    root = tmp_path_factory.mktemp("people")
    draw = random.Random(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir()
        for number in range(8):
            near = tuple(min(255, max(0, value + draw.randint(-4, 4))) for value in colour)
            Image.new("RGB", (20, 24), near).save(root / name / f"{number}.png")
    return root


class Given(Checkpoint):
    """A network that knows colours: it answers with the nearest in the order of ``people``; its batch norm
    has seen them normalised one way.
    """

    people: list[str]
    way: str

    def build(self, network, mean, std):
        own_mean, own_std = (torch.tensor(values) for values in NORMALISATIONS[self.way])
        colours = torch.tensor([COLOURS[name] for name in self.people]) / 255
        every = (torch.tensor(list(COLOURS.values())) / 255 - own_mean) / own_std
        norm = nn.BatchNorm2d(3, affine=False)
        norm.running_mean, norm.running_var = every.mean(0), every.var(0)
        head = nn.Linear(3, len(self.people))
        centres = ((colours - own_mean) / own_std - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        with torch.no_grad():
            head.weight.copy_(20 * centres)
            head.bias.copy_(-10 * centres.square().sum(1))
        net = nn.Sequential(norm, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        return WrappedNetwork(net, len(self.people), mean, std).eval()


def given(people, way="half", **remarks) -> Checkpoint:
    made = Given(None, "net.pt", len(people), (Network("n", {}, "a network"),), remarks)
    object.__setattr__(made, "people", people)
    object.__setattr__(made, "way", way)
    return made


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch):
    monkeypatch.setattr(reading, "SIZES", (8, 16))


@pytest.mark.parametrize("way", ["imagenet", "half", "none", "bytes"])
def test_the_normalisation_is_the_one_under_which_batch_norm_sees_what_it_knows(folder, way):
    found = read_network(given(KNOWN, way), Pictures(folder))
    assert found.preprocessing.normalisation == way and found.accuracy == 100.0
    assert found.people == tuple(KNOWN) and found.order.startswith("alphabetical") and not found.alarms


def test_the_order_is_stated_natural_or_matched_and_what_contradicts_the_answers_is_noticed(folder, tmp_path):
    pictures = Pictures(folder)
    shuffled = random.Random(1).sample(PEOPLE, len(PEOPLE))
    indices = {name: i for i, name in enumerate(shuffled)}
    found = read_network(given(shuffled, class_to_idx=indices), pictures)
    assert found.people == tuple(shuffled) and "inside the file" in found.order and not found.alarms
    found = read_network(given(PEOPLE), pictures)
    assert found.people == tuple(PEOPLE) and found.order.startswith("natural")
    found = read_network(given(shuffled), pictures)
    assert found.people == tuple(shuffled) and "an order of its own" in found.order
    assert "neither alphabetical nor natural" in found.alarms[0]
    found = read_network(given(KNOWN, class_to_idx=indices), pictures)  # names that are not its own
    assert found.people == tuple(KNOWN) and found.accuracy == 100.0
    assert "the names inside the file are not the network's" in found.alarms[0]
    file = tmp_path / "names.txt"
    file.write_text("".join(f"{name}\n" for name in shuffled))
    assert read_network(given(shuffled), pictures, names=file).order == f"the names in {file}"
    wrong = read_network(given(PEOPLE), pictures, names=file)
    assert wrong.people == tuple(PEOPLE) and "are not the network's" in wrong.alarms[0]


def test_a_network_may_know_some_of_the_people(folder, tmp_path):
    known, draw = ["s10", "s2", "s5", "s7"], random.Random(2)
    for name in PEOPLE:
        (tmp_path / name).mkdir()
        for number in range(8):  # of the others, pictures that have nothing in common
            other = Image.new("RGB", (20, 24), tuple(draw.randrange(256) for _ in range(3)))
            picture = Image.open(folder / name / f"{number}.png") if name in known else other
            picture.save(tmp_path / name / f"{number}.png")
    found = read_network(given(known, "imagenet"), Pictures(tmp_path))
    assert found.people == tuple(known) and found.images == 32


def test_a_network_at_chance_is_refused_with_what_was_tried(folder):
    class Random(Given):
        def build(self, network, mean, std):
            made = super().build(network, mean, std)
            nn.init.normal_(made.head.weight, generator=torch.Generator().manual_seed(0))
            return made

    made = Random(None, "net.pt", 12, (Network("n", {}, "a network"),))
    object.__setattr__(made, "people", KNOWN)
    object.__setattr__(made, "way", "half")
    with pytest.raises(
        UnknownModelError, match=r"does not recognise the people .* Tried: a network, (8|16) px"
    ):
        read_network(made, Pictures(folder))


def test_a_network_of_other_shapes_is_refused_with_what_to_do_and_read_where_it_resizes(folder):
    class Tall(nn.Module):
        def forward(self, x):
            assert x.shape[-2:] == (24, 20)
            return x

    class Portraits(Given):
        resizes = False

        def build(self, network, mean, std):
            made = super().build(network, mean, std)
            first = [nn.Upsample((24, 20))] if self.resizes else []
            made.network = nn.Sequential(*first, Tall(), made.network)
            made.head_name = f"network.{len(first) + 1}.3"
            return made

    made = Portraits(None, "net.pt", 12, (Network("n", {}, "a network"),))
    object.__setattr__(made, "people", KNOWN)
    object.__setattr__(made, "way", "half")
    with pytest.raises(UnknownModelError, match=r"no square picture .*\(8, 16 px\).*resizes squares first"):
        read_network(made, Pictures(folder))
    object.__setattr__(made, "resizes", True)
    assert read_network(made, Pictures(folder)).accuracy > 95


def test_what_is_stated_is_not_searched(folder):
    found = read_network(given(KNOWN), Pictures(folder), size=16, normalisation="0.5/0.5")
    assert found.preprocessing.size == 16 and found.preprocessing.mean == (0.5, 0.5, 0.5)
    assert all("16 px" in guess for guess in found.tried)
    with pytest.raises(ConfigError, match=r"--normalisation half/x cannot be used"):
        read_network(given(KNOWN), Pictures(folder), normalisation="half/x")
    with pytest.raises(ConfigError, match=r"tells 13 classes apart and .* holds 12 people"):
        read_network(given([*KNOWN, "s1"]), Pictures(folder))
