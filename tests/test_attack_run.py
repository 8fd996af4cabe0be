from __future__ import annotations

import tempfile

import pytest
import torch
from torch import Tensor, nn

from midre_exp.attack import AttackResult, WhiteBoxAttack, split_evenly, to_uint8
from midre_exp.attack_run import run_attack
from midre_exp.data.transforms import Resize
from midre_exp.errors import OutOfMemory
from midre_exp.priors.base import Prior
from midre_exp.runtime import Runtime
from midre_exp.targets.base import Output
from midre_exp.threat import Victim
from midre_exp.weights import checkpoint


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
    with pytest.raises(OutOfMemory, match=r"1 item\(s\), which cannot be divided further: not enough memory"):
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


class Stops(Chosen):
    """Is killed before a step of the chunk that holds an item; counts what it computes."""

    at = (-1, -1)  # item, step

    def invert(self, victim, prior, labels, rng, loop):
        first = round(float(loop.start[0, 0]) * 100)
        self.computed = [*getattr(self, "computed", ()), (first, len(labels))]
        state = {"latents": loop.start, "queries": torch.zeros_like(labels)}
        for step in loop(6, state):
            if first <= self.at[0] < first + len(labels) and step == self.at[1]:
                raise KeyboardInterrupt
            self.steps = getattr(self, "steps", 0) + len(labels)
            victim(prior.generate(state["latents"]))
            state["latents"] = state["latents"] + 0.1 * rng.uniform("own", 12, step=step)
            state["queries"] = state["queries"] + 1
        return state["latents"]


def stops(at=(-1, -1)):
    made = Stops(identities=3, restarts=12)
    made.at = at
    return made


def carry_out(attack, work, *, chunk, **options):
    target = victim()
    runtime = Runtime(chunk=chunk, **{"checkpoint_seconds": 0, **options})
    found = run_attack(attack, target, Pixels(), seed=0, work=work, runtime=runtime)
    assert target.queries == int(found.queries.sum())
    assert not list(work.glob("unfinished-*"))
    return found


def killed(work, at, chunk):
    with pytest.raises(KeyboardInterrupt):
        carry_out(stops(at), work, chunk=chunk)


def same(found, expected):
    for name, value in expected.tensors().items():
        assert torch.equal(found.tensors()[name], value), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return carry_out(stops(), tmp_path_factory.mktemp("whole"), chunk=512)


@pytest.mark.parametrize("chunk", [3, 4, 8, 512])
def test_finished_items_are_kept_whatever_the_chunk_is_then(tmp_path, undisturbed, chunk):
    killed(tmp_path, (24, 0), 4)
    again = stops()
    same(carry_out(again, tmp_path, chunk=chunk), undisturbed)
    assert sum(count for _, count in again.computed) == 12 and again.steps == 12 * 6
    assert len(again.computed) == -(-12 // chunk)
    third = stops()
    same(carry_out(third, tmp_path, chunk=7), undisturbed)
    assert not hasattr(third, "computed")


@pytest.mark.parametrize("chunk", [2, 3, 5, 8, 512])
def test_a_chunk_begun_with_another_size_goes_on_where_it_was(tmp_path, undisturbed, chunk):
    killed(tmp_path, (8, 5), 8)  # items 8 to 15, of which five steps are done
    again = stops()
    same(carry_out(again, tmp_path, chunk=chunk), undisturbed)
    assert again.steps == 8 * 1 + 20 * 6


def test_a_chunk_that_runs_out_of_memory_late_goes_on_by_halves(tmp_path, undisturbed, capsys):
    class Late(Stops):
        def invert(self, victim, prior, labels, rng, loop):
            self.at = (0, 3) if len(labels) == 36 else (-1, -1)
            try:
                return super().invert(victim, prior, labels, rng, loop)
            except KeyboardInterrupt:
                raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED") from None

    late = Late(identities=3, restarts=12)
    same(carry_out(late, tmp_path, chunk=36), undisturbed)
    assert late.computed == [(0, 36), (0, 18), (18, 18)]
    assert late.steps == 36 * 3 + 36 * 3
    assert capsys.readouterr().err.count("out of memory with 36 items") == 1


def test_a_chunk_that_runs_out_of_memory_after_its_last_step_is_not_optimised_again(tmp_path, undisturbed):
    class Final(Stops):
        def invert(self, victim, prior, labels, rng, loop):
            found = super().invert(victim, prior, labels, rng, loop)
            self.left = [*getattr(self, "left", ()), len(list(loop.path.parent.glob("state.pt*")))]
            if len(labels) == 36:
                raise torch.cuda.OutOfMemoryError("too much")
            return found

    final = Final(identities=3, restarts=12)
    final.at = (-1, -1)
    same(carry_out(final, tmp_path, chunk=36, checkpoint_seconds=1e9), undisturbed)
    assert final.computed == [(0, 36), (0, 18), (18, 18)] and final.steps == 36 * 6
    assert final.left == [0, 1, 1]  # how a loop ends is written for such a case alone


def test_state_whose_items_cannot_be_told_apart_begins_anew_and_is_told(tmp_path, undisturbed, capsys):
    killed(tmp_path, (8, 5), 8)
    path = tmp_path / "unfinished-8-16/state.pt"
    saved = checkpoint.load(path)
    checkpoint.save(path, {**saved, "state": {**saved["state"], "shared": torch.zeros(3)}})
    again = stops()
    same(carry_out(again, tmp_path, chunk=4), undisturbed)
    assert again.steps == 28 * 6
    assert "items 8-15 were begun together, and their state cannot be divided" in capsys.readouterr().err


def test_what_older_code_left_is_read_also_where_it_overlaps(tmp_path, undisturbed):
    killed(tmp_path, (24, 3), 8)
    columns = checkpoint.load(tmp_path / "items-8-16.pt")
    checkpoint.save(tmp_path / "items-8-12.pt", {name: value[:4].clone() for name, value in columns.items()})
    checkpoint.save(tmp_path / "items-12-20.pt", {n: torch.cat((v[4:], v[4:])) for n, v in columns.items()})
    (tmp_path / "items-16-24.pt").write_bytes(b"damaged")
    for left in ("unfinished-0-32", "unfinished-24-26"):
        (tmp_path / left).mkdir()
    again = stops()
    found = carry_out(again, tmp_path, chunk=8)
    assert sum(count for _, count in again.computed) == 16  # 20 to 35: of 16 to 19 there is something
    assert torch.equal(found.latents[:16], undisturbed.latents[:16])
    assert torch.equal(found.latents[20:], undisturbed.latents[20:])


def test_what_fitted_is_not_found_out_again(tmp_path, monkeypatch):
    class Small(Stops):
        def invert(self, victim, prior, labels, rng, loop):
            self.tried = [*getattr(self, "tried", ()), len(labels)]
            if len(labels) > 8:
                raise torch.cuda.OutOfMemoryError("too much")
            return super().invert(victim, prior, labels, rng, loop)

    def small(at=(-1, -1)):
        made = Small(identities=3, restarts=12)
        made.at = at
        return made

    monkeypatch.setattr("midre_exp.memory.chunk_size.free_memory", lambda device: 10**9)
    first, again = small((18, 0)), small()
    with pytest.raises(KeyboardInterrupt):
        carry_out(first, tmp_path, chunk=32)
    assert first.tried == [32, 16, 8, 8, 8]
    monkeypatch.setattr("midre_exp.memory.chunk_size.free_memory", lambda device: 11 * 10**8)
    carry_out(again, tmp_path, chunk=32)
    assert again.tried == [8, 8, 4]
    monkeypatch.setattr("midre_exp.memory.chunk_size.free_memory", lambda device: 10**10)
    for block in tmp_path.glob("items-*"):
        block.unlink()
    third = small()
    carry_out(third, tmp_path, chunk=32)
    assert third.tried[:3] == [32, 16, 8]  # another card


def test_a_chunk_is_planned_by_what_few_items_take(tmp_path, undisturbed, monkeypatch, capsys):
    class Large(Stops):
        def invert(self, victim, prior, labels, rng, loop):
            for _ in loop(1, {"latents": loop.start}):
                victim(torch.zeros(len(labels), 3, 100, 100))  # 120 kB each
            return loop.start

    for free, chunk in ((10**12, 36), (4 * 10**6, 16), (1, 1)):
        monkeypatch.setattr("midre_exp.memory.footprint.free_memory", lambda device, free=free: free)
        large, target, work = Large(identities=3, restarts=12), victim(), tmp_path / str(free)
        tried = []
        large.invert = lambda *inputs, tried=tried, invert=large.invert: (
            tried.append(len(inputs[2])) or invert(*inputs)
        )
        found = run_attack(large, target, Pixels(), work=work, runtime=Runtime(is_planned=True))
        few = [1, 4] if free > 10**6 else [1]
        assert tried[: len(few)] == few and set(tried[len(few) : -1]) <= {chunk}, tried
        assert target.queries == int(found.queries.sum()) == 5 + 36 + 36  # trials are not counted
        assert ("reconstructions at once" in capsys.readouterr().err) == (chunk < 36)
