"""Which traits are recovered: statistics on people of known truth, and readers that are made up."""

from __future__ import annotations

import pytest
import torch

from midre_exp.data.base import KnownTraits
from midre_exp.data.synthetic.synthfaces import SynthFaces
from midre_exp.leakage.trait_reader import Layout, Readings, by_person, readings
from midre_exp.leakage.traits import (
    each_trait,
    holm,
    is_readable,
    nearer,
    read_kinds,
    read_numbers,
    report,
)
from midre_exp.seeding import generator

PEOPLE = 60


def noise(purpose: str, people: int = PEOPLE) -> torch.Tensor:
    return torch.randn(people, generator=generator(0, purpose))


def truth(people: int = PEOPLE) -> KnownTraits:
    everybody = torch.ones(people, dtype=torch.bool)
    some = torch.arange(people) % 2 == 0
    return KnownTraits(
        {"width": noise("width", people), "place": noise("place", people), "unseen": noise("u", people)},
        {"width": everybody, "place": some, "unseen": everybody},
        {"hair": (("short", "long"), torch.arange(people) // 3 % 2)},
    )


def reader(known: KnownTraits, share: float) -> Readings:
    """Reads so much of each trait, but nothing of ``unseen``; of hair all or nothing."""
    numbers = {
        name: share * values + (1 - share) * noise(f"{name} read", len(values))
        for name, values in known.numbers.items()
    }
    numbers["unseen"] = noise("nothing", PEOPLE)
    classes = known.kinds["hair"][1]
    return Readings(numbers, {"hair": classes if share > 0.5 else (noise("hair read") > 0).long()})


def test_a_trait_that_is_read_is_recovered_and_one_that_is_not_is_not():
    known = truth()
    held_out = each_trait(reader(known, 0.9), known)
    found = report(reader(known, 0.9), reader(known, 0.95), known, held_out, {})
    told = found["by_trait"]
    assert told["width"]["recovered"] and told["hair"]["recovered"] and told["hair"]["value"] == 100
    assert told["width"]["low"] < told["width"]["value"] < told["width"]["high"] <= 1
    assert abs(told["width"]["floor"]) < 0.05 and told["hair"]["floor"] == pytest.approx(50, abs=3)
    assert told["place"]["people"] == PEOPLE // 2  # those who show it
    assert not told["unseen"]["readable"] and "nearer" not in told["unseen"]
    assert (found["readable"], found["tested"], found["recovered"]) == (3, 3, 3)
    assert found["nearer"]["low"] > 60 and found["nearer"]["photographs"] >= found["nearer"]["value"]


def test_a_trait_that_nobody_reads_is_not_called_protected():
    known = truth()
    blind = each_trait(reader(known, 0.0), known)
    found = report(reader(known, 0.9), reader(known, 0.9), known, blind, {})
    assert found["readable"] == found["recovered"] == 0 and "nearer" not in found
    assert not any(row["readable"] for row in found["by_trait"].values())


def test_readings_of_somebody_else_recover_nothing():
    known = truth()
    held_out = each_trait(reader(known, 0.9), known)
    sight = reader(known, 0.9)
    others = torch.randperm(PEOPLE, generator=generator(4, "others"))
    shifted = Readings(
        {name: values[others] for name, values in sight.numbers.items()},
        {name: classes[others] for name, classes in sight.kinds.items()},
    )
    found = report(shifted, sight, known, held_out, {})
    assert found["recovered"] == 0 and 40 < found["nearer"]["value"] < 60


def test_constant_readings_tell_nothing():
    known = truth()
    assert read_numbers(torch.ones(PEOPLE), known.numbers["width"]).value == 0
    zero = torch.zeros(PEOPLE, dtype=torch.int64)
    same = read_kinds(zero, known.kinds["hair"][1])
    assert same.value == same.floor == 0.5 and same.p == 1 and not is_readable(same, False)


def test_too_few_people_say_nothing():
    assert read_numbers(torch.ones(4), torch.ones(4)) is None


def test_holm_stops_at_the_first_that_stands():
    assert holm({"a": 0.01, "b": 0.02, "c": 0.04}) == ["a", "b", "c"]
    assert holm({"a": 0.01, "b": 0.03, "c": 0.04}) == ["a"]


def test_nearer_is_half_for_chance_and_one_for_knowing():
    known = truth()
    exact = Readings(dict(known.numbers), {"hair": known.kinds["hair"][1]})
    shares = nearer(exact, known, ["width", "place", "hair"])
    assert float(shares[:, 0].min()) == 1 and float(shares[::2, 1].min()) == 1
    assert shares[1::2, 1].isnan().all()  # who does not show it has no place
    assert shares[0, 2] == pytest.approx((30 + 29 / 2) / 59)  # half of those as near


def test_subgroups_have_intervals_over_their_people():
    known = truth()
    held_out = each_trait(reader(known, 0.9), known)
    hits = {"att_acc1": 100.0 * (known.kinds["hair"][1] == 1).double()}
    groups = report(reader(known, 0.9), reader(known, 0.9), known, held_out, hits)["by_group"]["hair"]
    assert groups["short"]["identities"] == groups["long"]["identities"] == PEOPLE // 2
    assert groups["short"]["att_acc1"]["value"] == 0 and groups["long"]["att_acc1"]["value"] == 100
    assert groups["long"]["nearer"]["low"] <= groups["long"]["nearer"]["value"]


def test_a_person_is_read_off_all_pictures_of_him():
    layout = Layout(("width",), (("hair", 2),))
    answers = torch.tensor([[1.0, 0, 3], [3.0, 2, 0], [5.0, 1, 0]])
    found = readings(answers, layout, torch.tensor([0, 0, 1]), 2)
    assert found.numbers["width"].tolist() == [2, 5]
    assert found.kinds["hair"].tolist() == [1, 0]


def dataset(**options) -> SynthFaces:
    sizes = {"identities": 5, "train_per_identity": 3, "test_per_identity": 1}
    return SynthFaces(size=16, **sizes, public_identities=1, public_images=1, **options)


@pytest.mark.parametrize("version", [1, 2])
def test_synthetic_people_have_the_same_traits_in_every_photograph(version):
    made = {"per_photo": ("hair", "glasses", "clothes"), "occluders": 0.5} if version == 2 else {}
    faces = dataset(version=version, **made)
    assert not {*faces.known_traits("train").numbers} & {*faces.known_traits("train").kinds}
    labels, known = faces.load("train").labels, faces.known_traits("train")
    people = by_person(known, labels, 5)
    for name, values in known.numbers.items():
        assert torch.equal(values, people.numbers[name][labels]), name
        assert torch.equal(known.shows[name], people.shows[name][labels]), name
    for name, (names, classes) in known.kinds.items():
        assert torch.equal(classes, people.kinds[name][1][labels]) and int(classes.max()) < len(names), name
    assert ("hair" in known.kinds) == (version == 1)  # of the second version it is the photograph's


def test_kinds_are_what_the_painter_was_told():
    faces = dataset(pool="verification")
    shown, known = faces.traits("train"), faces.known_traits("train")
    assert torch.equal(known.kinds["glasses"][1] > 0, shown["glassed"] > 0)
    assert torch.equal(known.kinds["beard"][1] > 0, shown["bearded"] > 0)
    full = known.kinds["beard"][1] == 4
    assert torch.equal(full, shown["beard_full"] > 0.5)
    assert torch.equal(known.kinds["hair"][1] == 3, shown["hair_bun"] > 0.5)
