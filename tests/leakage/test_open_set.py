"""What a verifier says of reconstructions: acceptance, its controls, ranks, people held out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from midre_exp.data.base import ImageSet
from midre_exp.errors import DataError
from midre_exp.leakage.network import Pictures
from midre_exp.leakage.open_set import Gallery, alike, by_identity, verdicts
from midre_exp.leakage.scores import threshold_at
from midre_exp.leakage.verification import Templates, cosface, shared_out, templates_of
from midre_exp.seeding import generator

PRIVATE, DECOYS, EACH, WIDE = 20, 200, 5, 16


def unit(rows: int, purpose: str) -> torch.Tensor:
    return F.normalize(torch.randn(rows, WIDE, generator=generator(0, purpose)))


def near(centres: torch.Tensor, purpose: str, noise: float) -> torch.Tensor:
    return F.normalize(centres + noise * torch.randn(centres.shape, generator=generator(0, purpose)))


def people(count: int, purpose: str) -> Templates:
    """Templates, and four photographs of each that resemble them."""
    templates, labels = unit(count, purpose), torch.arange(count).repeat_interleave(4)
    return Templates(templates, near(templates[labels], f"{purpose} photographs", 0.15), labels)


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(people(DECOYS, "decoys"))


@pytest.fixture(scope="module")
def private() -> Templates:
    return people(PRIVATE, "private")


LABELS = torch.arange(PRIVATE).repeat_interleave(EACH)


def made(private: Templates, kind: str) -> torch.Tensor:
    """Embeddings of reconstructions."""
    own = private.templates[LABELS]
    if kind == "good":
        return near(own, "good", 0.15)
    if kind == "random":
        return unit(len(LABELS), "random")
    if kind == "somebody else":
        return near(private.templates[(LABELS + 7) % PRIVATE], "else", 0.15)
    # one face for everybody, which lies where many people are
    return near(F.normalize(private.templates.mean(0, keepdim=True)).expand_as(own), "collapsed", 0.02)


FARS = (1e-2, 1e-3)


def test_what_shows_the_person_is_accepted(private, gallery):
    found = verdicts(made(private, "good"), LABELS, private, gallery, FARS)
    at_1, rank = found.numbers["tar"]["0.01"], found.numbers["rank"]
    assert at_1["value"] > 95 and at_1["photographs"] > 95 and rank["median"] == 1 and rank["first"] > 95
    assert at_1["low"] <= at_1["value"] <= at_1["high"]
    assert found.per_identity["tar@0.01"] == by_identity(found.tensors["accepted@0.01"], LABELS)
    assert sum(found.per_identity["tar@0.01"]) / PRIVATE == pytest.approx(at_1["value"])


@pytest.mark.parametrize("kind", ["good", "random", "somebody else", "collapsed"])
def test_the_threshold_is_that_of_photographs_whatever_is_attacked(private, gallery, kind):
    found = verdicts(made(private, kind), LABELS, private, gallery, FARS)
    genuine, impostor = gallery.pairs()
    assert set(found.numbers["tar"]) == {"0.01", "0.001"}
    for far, told in found.numbers["tar"].items():
        assert told["threshold"] == threshold_at(float(far), genuine, impostor)
        assert told["false_photographs"] <= 100 * float(far) + 1e-9
        assert told["held_out"] == pytest.approx(gallery.quality(FARS)["tar"][far])


def test_reconstructions_as_other_people_are_measured(private, gallery):
    """Chance faces pass as others as often as photographs do; one face for everybody passes as many."""
    others = {
        kind: verdicts(made(private, kind), LABELS, private, gallery, FARS).numbers["tar"]["0.01"]
        for kind in ("good", "random", "somebody else", "collapsed")
    }
    assert all(told["false_private"] <= 3 for told in others.values())
    assert others["random"]["false_others"] <= 3 and others["random"]["false_decoys"] <= 3
    # each is accepted as one of 19 others
    assert others["somebody else"]["false_others"] > 4
    embeddings = made(private, "collapsed")
    scores = embeddings @ private.templates.T
    scores[torch.arange(len(LABELS)), LABELS] = -math.inf
    share = float((scores >= others["collapsed"]["threshold"]).sum()) / (len(LABELS) * (PRIVATE - 1))
    assert others["collapsed"]["false_others"] == pytest.approx(100 * share) and share > 0.02


@pytest.mark.parametrize("kind", ["good", "random", "somebody else", "collapsed"])
def test_the_strict_number_is_at_the_rate_for_reconstructions_too(private, gallery, kind):
    """No more is accepted under the own name than where at most the rate passes as others and decoys."""
    embeddings = made(private, kind)
    told = verdicts(embeddings, LABELS, private, gallery, FARS).numbers["tar"]["0.01"]
    own = (embeddings * private.templates[LABELS]).sum(1)
    scores = embeddings @ private.templates.T
    foreign = torch.arange(PRIVATE)[None] != LABELS[:, None]
    accepted = own.sort(descending=True).values[: round(told["strict"] * len(own) / 100)]
    assert told["strict"] <= told["value"]
    if len(accepted):
        last = accepted[-1] - 1e-6
        assert float((scores[foreign] > last).double().mean()) <= 0.01 + 1e-9
        assert float((embeddings @ gallery.held_out.templates.T > last).double().mean()) <= 0.01 + 1e-9


@pytest.mark.parametrize("kind", ["random", "somebody else", "collapsed"])
def test_what_does_not_show_the_person_is_not_accepted(private, gallery, kind):
    found = verdicts(made(private, kind), LABELS, private, gallery, FARS).numbers
    assert found["tar"]["0.01"]["value"] <= 5 and found["rank"]["first"] <= 5
    if kind == "random":
        assert found["rank"]["median"] == pytest.approx(found["rank"]["chance"], rel=0.3)


def test_scoring_for_another_person_is_the_negative_control(private, gallery):
    """The same reconstructions under the label of somebody else."""
    shifted = (LABELS + 1) % PRIVATE
    found = verdicts(made(private, "good"), shifted, private, gallery, FARS).numbers
    assert found["tar"]["0.01"]["value"] <= 1 and found["rank"]["first"] <= 1


def test_a_reconstruction_that_failed_is_nobody(private, gallery):
    failed = torch.ones(len(LABELS), dtype=torch.bool)
    found = verdicts(made(private, "good"), LABELS, private, gallery, FARS, failed).numbers
    assert found["tar"]["0.01"]["value"] == 0 and found["rank"]["median"] == DECOYS + 1


def test_a_rate_that_too_few_pairs_would_show_is_missing_with_its_reason(private):
    few = Gallery(people(10, "few"))  # 40 photographs with nine others each
    found = verdicts(made(private, "good"), LABELS, private, few, (0.05, 1e-3))
    assert list(found.numbers["tar"]) == ["0.05"] and "360 impostor pairs" in found.missing["tar@0.001"]
    assert "0.001" not in few.quality((1e-3,))["tar"]


def test_impostors_who_look_alike_are_harder(gallery):
    kinds = {"hair": torch.arange(DECOYS) % 2, "skin": torch.arange(DECOYS) // 2 % 2}
    same = alike(kinds, DECOYS)
    assert same is not None and int(same[0].sum()) == DECOYS / 4
    found = gallery.quality(FARS, same)
    assert found["pairs"] == DECOYS * 4 * (DECOYS - 1) and found["pairs_alike"] == DECOYS * 4 * (
        DECOYS // 4 - 1
    )
    assert alike({}, 3) is None


def test_a_template_is_of_at_most_half_of_the_photographs():
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2])
    embeddings = unit(len(labels), "photographs")
    found = templates_of(embeddings, labels, 3, 4)
    assert found.labels.tolist() == [1, *[2] * 6]  # the only one of the first is his template
    assert torch.allclose(found.templates[0], embeddings[0])
    assert torch.allclose(found.templates[2], F.normalize(embeddings[3:7].sum(0), dim=0), atol=1e-6)
    with pytest.raises(DataError, match="person 3"):
        templates_of(embeddings, labels, 4, 4)


def images(count: int, each: int) -> ImageSet:
    pixels = torch.arange(count * each, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8)
    return ImageSet(pixels, torch.arange(count).repeat_interleave(each), tuple(f"p{n}" for n in range(count)))


def test_nobody_is_trained_on_and_held_out():
    trained, held_out = shared_out([images(10, 3), images(10, 1)], held_out=0.3, seed=0)
    assert len(held_out.who) == 3 and not {*trained.who.tolist()} & {*held_out.who.tolist()}
    assert {*trained.who.tolist(), *held_out.who.tolist()} == {*range(10)}
    assert len(held_out.images) == 12 and held_out.labels.unique().tolist() == [0, 1, 2]
    other = shared_out([images(10, 3)], held_out=0.3, seed=1)[1]
    assert other.who.tolist() != held_out.who.tolist()


def test_pictures_are_gathered_from_several_blocks():
    first, second = images(4, 1).images, images(3, 1).images + 100
    rows = torch.tensor([5, 0, 3, 6])
    found = Pictures([first, second], rows)
    assert torch.equal(found[torch.tensor([1, 3])], torch.cat([first, second])[rows][[1, 3]])
    assert torch.equal(found[1:], torch.cat([first, second])[rows][1:]) and len(found) == 4


def test_too_few_people_are_refused():
    with pytest.raises(DataError, match="too few to train a verifier"):
        shared_out([images(10, 1)], held_out=0.3, seed=0)  # nobody has a template and another photograph


def test_the_margin_is_taken_from_the_own_cosine():
    cosines, labels = torch.tensor([[0.9, 0.1, -0.5], [0.2, 0.4, 0.0]]), torch.tensor([0, 2])
    expected = 0.0
    for row, label in zip(cosines.tolist(), labels.tolist(), strict=True):
        logits = [16 * (c - (0.2 if k == label else 0)) for k, c in enumerate(row)]
        expected += (math.log(sum(map(math.exp, logits))) - logits[label]) / 2
    assert float(cosface(cosines, labels, margin=0.2, scale=16.0)) == pytest.approx(expected, rel=1e-5)
