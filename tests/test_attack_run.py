from __future__ import annotations

import tempfile

import pytest
import torch
from torch import Tensor, nn

from midre_exp.attack import AttackResult, WhiteBoxAttack, split_evenly, to_uint8
from midre_exp.attack_run import run_attack
from midre_exp.data.transforms import Resize
from midre_exp.errors import ConfigError
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.targets.base import Output
from midre_exp.threat import Victim


class Pixels(Prior):
    """Latents are pixels."""

    latent_dim = 12

    def generate(self, latents, labels=None):
        return latents.view(-1, 3, 2, 2)

    def realism(self, images):
        return images.flatten(1).mean(1)

    def fit(self, public, victim, **options):
        raise NotImplementedError


class Mean(nn.Module):
    """A target whose class is the brightest channel."""

    def forward(self, images: Tensor, taps: tuple[str, ...] = ()) -> Output:
        means = images.mean((2, 3))
        return Output(10 * means, means)


def victim():
    return Victim.of(Mean(), 3)


class Chosen(WhiteBoxAttack):
    """Starts from codes chosen for all items at once, draws one number per step for all, keeps the better
    half of each identity.
    """

    deaths: tuple[str, ...] = ()

    def initialise(self, victim, prior, labels, *, shared_rng, runtime):
        self.die("initialise")
        victim(torch.zeros(5, 3, 2, 2))
        rows = torch.arange(len(labels), dtype=torch.float32)
        return (rows / 100)[:, None].expand(-1, 12).clone()

    def invert(self, victim, prior, labels, rng, loop):
        state = {"latents": loop.start}
        for step in loop(3, state):
            self.die("invert")
            victim(prior.generate(state["latents"]))
            state["latents"] = state["latents"] + 0.1 * loop.shared_rng.uniform("all", step=step)
        return state["latents"]

    def select(self, victim, prior, labels, latents, details, *, shared_rng, runtime):
        self.die("select")
        victim(prior.generate(latents))
        return {"selected": torch.arange(len(labels)) % self.restarts < self.restarts // 2}

    def die(self, place):
        if place in self.deaths:
            raise KeyboardInterrupt


def chosen(**changes):
    return Chosen(**{"identities": 3, "restarts": 4, **changes})


def test_what_is_chosen_for_all_items_reaches_each_and_counts_its_queries(tmp_path):
    target = victim()
    found = run_attack(chosen(), target, Pixels(), seed=0, work=tmp_path, runtime=Runtime())
    first = found.latents[:, 0] - torch.arange(12) / 100
    torch.testing.assert_close(first, first[:1].expand(12))  # one draw for all
    assert first[0] > 0
    assert target.queries == 5 + 3 * 12 + 12
    assert int(found.queries.sum()) == target.queries
    assert found.details["selected"].view(3, 4).tolist() == [[True, True, False, False]] * 3


@pytest.mark.parametrize("place", ["initialise", "invert", "select"])
def test_an_attack_killed_anywhere_ends_with_the_same_result_and_count(tmp_path, place):
    whole = run_attack(chosen(), victim(), Pixels(), seed=0, work=tmp_path / "whole", runtime=Runtime())
    dying = chosen()
    dying.deaths = (place,)
    with pytest.raises(KeyboardInterrupt):
        run_attack(dying, victim(), Pixels(), seed=0, work=tmp_path / "killed", runtime=Runtime(chunk=8))
    again = chosen()
    again.deaths = {"initialise": (), "invert": ("initialise",), "select": ("initialise", "invert")}[
        place
    ]  # not twice
    target = victim()
    found = run_attack(again, target, Pixels(), seed=0, work=tmp_path / "killed", runtime=Runtime(chunk=8))
    torch.testing.assert_close(found.latents, whole.latents, rtol=0, atol=0)
    assert target.queries == int(found.queries.sum()) == int(whole.queries.sum())


def test_the_kept_picture_may_be_another_than_the_one_the_target_sees(tmp_path):
    attack = chosen(image_to_target=(torch.ones_like,), picture=(Resize(size=4),))
    found = run_attack(attack, victim(), Pixels(), seed=0, work=tmp_path, runtime=Runtime())
    assert found.images.shape == (12, 3, 4, 4)
    assert torch.equal(found.images, to_uint8(Resize(size=4)(found.latents.view(-1, 3, 2, 2))))
    torch.testing.assert_close(found.confidence, torch.full((12,), 1 / 3))  # all channels alike


def test_images_that_are_no_function_of_the_latents_are_kept_as_they_are(tmp_path):
    class Painted(Chosen):
        def invert(self, victim, prior, labels, rng, loop):
            latents = super().invert(victim, prior, labels, rng, loop)
            return AttackResult(
                latents,
                queries=torch.full_like(labels, 3),
                images=torch.full((len(labels), 3, 2, 2), 0.5),
            )

    found = run_attack(
        Painted(identities=3, restarts=4), victim(), Pixels(), seed=0, work=tmp_path, runtime=Runtime()
    )
    assert (found.images == 127).all()


def test_after_one_chunk_did_not_fit_the_others_are_cut_as_well(tmp_path, capsys):
    sizes = []

    class Greedy(Chosen):
        def invert(self, victim, prior, labels, rng, loop):
            sizes.append(len(labels))
            if len(labels) > 3:
                raise torch.cuda.OutOfMemoryError("too much")
            return super().invert(victim, prior, labels, rng, loop)

    greedy = Greedy(identities=3, restarts=4)
    found = run_attack(greedy, victim(), Pixels(), seed=0, work=tmp_path / "a", runtime=Runtime(chunk=8))
    assert sizes == [8, 4, 2, 2, 2, 2, 2, 2]
    whole = run_attack(chosen(), victim(), Pixels(), seed=0, work=tmp_path / "b", runtime=Runtime())
    torch.testing.assert_close(found.latents, whole.latents, rtol=0, atol=0)
    assert found.labels.tolist() == [label for label in range(3) for _ in range(4)]
    assert capsys.readouterr().err.count("out of memory") == 2


class Lost(Chosen):
    """Never fits into memory."""

    def invert(self, *inputs):
        raise torch.cuda.OutOfMemoryError("too much")


def test_an_item_that_does_not_fit_alone_is_one_sentence():
    with pytest.raises(ConfigError, match=r"not enough memory for 1 item\(s\)"):
        run_attack(Lost(identities=1, restarts=1), victim(), Pixels())


def test_queries_that_are_not_counted_by_item_are_spread_evenly():
    assert split_evenly(11, 4).tolist() == [3, 3, 3, 2]
    assert split_evenly(0, 2).tolist() == [0, 0]
    found = run_attack(chosen(identities=1, restarts=3), victim(), Pixels())
    assert found.queries.tolist() == [6, 6, 5]  # three steps each, five of the search, one of the selection


def test_an_attack_that_miscounts_is_a_bug():
    class Lying(Chosen):
        def invert(self, victim, prior, labels, rng, loop):
            return AttackResult(super().invert(victim, prior, labels, rng, loop), torch.ones_like(labels))

    with pytest.raises(RuntimeError, match="reports 3 queries, its victim 9"):
        run_attack(Lying(identities=1, restarts=3), victim(), Pixels())


def test_without_a_folder_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found = run_attack(chosen(), victim(), Pixels())
    assert len(found.images) == 12
    assert not list(tmp_path.iterdir())
