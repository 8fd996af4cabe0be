from __future__ import annotations

import copy
import itertools
import time
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses import Companions, Defense, NoDef, compose
from defenses.composer import Composed
from midre_exp.data.base import Dataset, ImageSet
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.metrics.accuracy import topk_hits
from midre_exp.numerics import Numerics
from midre_exp.runtime import Runtime
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.targets.predict import hits, predicted_classes
from midre_exp.targets.training.batch import Shuffled
from midre_exp.targets.training.module import ClassifierModule, next_batch
from midre_exp.targets.training.schedule import learning_rates
from midre_exp.targets.training.train import train_classifier
from midre_exp.weights import checkpoint
from midre_exp.weights.finite import not_finite
from tests.targets.training.probing import Probing

RECIPE = {
    "epochs": 4,
    "batch_size": 8,
    "drop_last": True,
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02, "momentum": 0.9},
    "scheduler": {"_target_": "torch.optim.lr_scheduler.MultiStepLR", "milestones": [2], "gamma": 0.1},
    "augment": [{"_target_": "midre_exp.data.transforms.HorizontalFlip", "p": 0.5}],
    "select": "last",
}
MODEL = {"_target_": "midre_exp.targets.VGG16", "image_size": 32, "width": 0.125}


class Colours(Dataset):
    """Three classes told apart by their colour, in noise."""

    def load(self, part):
        labels = torch.arange(3).repeat(7 if part == "train" else 4)
        generator = torch.Generator().manual_seed(len(labels))
        noise = torch.randint(0, 60, (len(labels), 3, 32, 32), generator=generator)
        return ImageSet(
            (noise + 180 * torch.eye(3).long()[labels][:, :, None, None]).byte(), labels, ("r", "g", "b")
        )

    def fingerprint(self, role):
        return {}


class StopAt(Defense):
    """Interrupts training at the start of an epoch, as a kill would between two checkpoints."""

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, model, progress):
        if progress.epoch == self.epoch:
            raise RuntimeError("killed")


def train(work, defense=None, **options):
    return trained(work, defense, **options)[:3]


def trained(
    work, defense=None, seed=0, numerics=None, seconds=0.0, clock=time.monotonic, model=MODEL, **recipe
):
    settings = {"name": "small", "model": model, "weights": None, "recipe": {**RECIPE, **recipe}}
    work.mkdir(exist_ok=True)
    return train_classifier(
        settings,
        Colours(),
        defense if isinstance(defense, Composed) else compose(it=defense or NoDef()),
        seed=seed,
        work=work,
        runtime=Runtime(
            quiet=True,
            numerics=numerics or Numerics(),
            checkpoint_seconds=seconds,
            clock=clock,
        ),
        title="t",
        trusted=("tests",),
    )


def weights(model):
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def test_training_learns_and_reports_percent(tmp_path):
    model, numbers, history = train(tmp_path / "a")
    assert numbers["acc"] == 100.0
    assert [entry["epoch"] for entry in history] == [0, 1, 2, 3]
    assert history[-1]["loss"] < history[0]["loss"]
    assert not model.training


def test_an_interrupted_training_ends_with_the_same_weights(tmp_path):
    scheduler = {
        "_target_": "torch.optim.lr_scheduler.CosineAnnealingLR",
        "T_max": 4,
    }  # changes in every epoch
    whole, _, history = train(tmp_path / "whole", scheduler=scheduler)
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", StopAt(3), scheduler=scheduler)
    assert (tmp_path / "broken" / "last.ckpt").exists()
    seen = []

    class Count(Defense):
        def on_epoch(self, model, progress):
            seen.append(progress.epoch)

    resumed, _, again = train(tmp_path / "broken", Count(), scheduler=scheduler)
    assert seen == [3]  # the finished epochs are not repeated
    assert torch.equal(weights(whole), weights(resumed))
    assert history == again


class StopIn(Defense):
    """Interrupts training before a batch, counted from where it begins."""

    def __init__(self, batch):
        self.left = batch

    def on_batch(self, batch, model, progress, generator):
        if not self.left:
            raise RuntimeError("killed")
        self.left -= 1
        return batch


@dataclass
class Noisy(Defense):
    """Draws from every generator there is, on every batch; loses a term in odd epochs."""

    def on_batch(self, batch, model, progress, generator):
        noise = torch.rand(batch.images.shape, generator=generator) + torch.rand(batch.images.shape)
        return replace(batch, images=0.8 * batch.images + 0.1 * noise)

    def extra_losses(self, output, batch, progress, *, classify, generator):
        return {} if progress.epoch % 2 else {"extra": 0.01 * output.logits.square().mean()}


#: Four batches an epoch, the last one smaller; everything that a step may depend on.
BUSY = {
    "epochs": 3,
    "batch_size": 6,
    "drop_last": False,
    "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.002, "weight_decay": 0.01},
    "select": "best_test",
}


@pytest.mark.parametrize("numerics", [Numerics(), Numerics(precision="bf16")], ids=["float32", "bf16"])
def test_a_training_that_is_killed_inside_epochs_ends_with_the_same_bits(tmp_path, numerics):
    busy = {**BUSY, "numerics": numerics}
    whole, numbers, history = train(tmp_path / "whole", compose(noisy=Noisy()), seconds=1e9, **busy)
    assert not (tmp_path / "whole" / "last.ckpt").exists()  # what ends well is published
    work, steps, done = tmp_path / "broken", 4, 0
    for batches in (1, 2, 1, 3, 4):  # inside an epoch, before its last batch, after it
        with pytest.raises(RuntimeError, match="killed"):
            train(work, compose(noisy=Noisy(), stop=StopIn(batches)), **busy)
        done += batches
        assert next_batch(checkpoint.load(work / "last.ckpt")) == divmod(done, steps)
    resumed, again, later = train(work, compose(noisy=Noisy()), **busy)
    assert torch.equal(weights(whole), weights(resumed))
    assert (numbers, history) == (again, later)


class Small(Classifier):
    """Two layers and a batch norm, in double precision."""

    head_name = "fc"

    def __init__(self, *, num_classes):
        super().__init__()
        self.set_normalisation(0.5, 0.5)
        self.first, self.norm = nn.Conv2d(3, 8, 4, 4), nn.BatchNorm2d(8)
        self.fc = nn.Linear(512, num_classes)
        self.double()

    def forward(self, images, taps=()):
        return super().forward(images.double(), taps)

    def stages(self):
        return [("first", self.first), ("second", self.norm)]


SMALL = {"_target_": f"{__name__}.Small"}


@pytest.mark.parametrize("select", ["last", "best_test"])
def test_what_a_defense_trains_of_its_own_survives_a_kill_and_is_kept_beside_the_network(tmp_path, select):
    def probed(folder, **more):
        probing, recipe = Probing(), {**BUSY, "select": select}
        found = trained(tmp_path / folder, compose(probing=probing, **more), model=SMALL, **recipe)
        return found, probing.own

    whole, own = probed("whole")
    for batches in (2, 3, 1):  # inside an epoch, after it, before its last batch
        with pytest.raises(RuntimeError, match="killed"):
            probed("broken", stop=StopIn(batches))
    resumed, again = probed("broken")
    assert torch.equal(weights(whole.model), weights(resumed.model)) and whole.history == resumed.history
    assert {"probing/smooth", "probing/norm", "patterned_acc"} < whole.history[0].keys()
    steps = (6 * (9 + 10 + 11) + 3 * 12) / 21  # mean over the images of the last epoch: the count went on
    assert whole.history[-1]["probing/steps"] == pytest.approx(steps)
    assert own.state_dict().keys() == again.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), again.parameters(), strict=True))
    assert set(whole.defense_state) == {"probing.pattern", "probing.momentum"}
    for name, value in whole.defense_state.items():
        assert torch.equal(value, resumed.defense_state[name]) and not torch.equal(value, 0 * value)
    if select == "last":
        assert torch.equal(whole.defense_state["probing.pattern"], own.pattern)
    assert "pattern" not in "".join(whole.model.state_dict())
    assert trained(tmp_path / "plain", epochs=1).defense_state == {}


def test_companions_share_the_batch_norm_and_the_base_loss():
    model = Small(num_classes=3)

    class Doubled(Defense):
        def before_step(self, batch, classify, progress, generator):
            return replace(batch, companions=Companions("other", 1 - batch.images, batch.labels.flip(0), 0.3))

    module = ClassifierModule(model, compose(doubled=Doubled()), {**RECIPE, "augment": []}, seed=0)
    module._trainer = SimpleNamespace(world_size=1, global_rank=0, current_epoch=0, optimizers=[])
    module.batches = SimpleNamespace(epoch=0)
    module.on_train_epoch_start()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    labels, twin = torch.arange(6) % 3, copy.deepcopy(model)
    loss = module.training_step((images, labels, torch.arange(6)), 0)
    both = twin(torch.cat((images / 255, 1 - images / 255))).logits
    clean, other = F.cross_entropy(both[:6], labels), F.cross_entropy(both[6:], labels.flip(0))
    assert torch.allclose(loss, 0.7 * clean + 0.3 * other)
    assert torch.equal(model.norm.running_mean, twin.norm.running_mean)  # one forward of both
    assert int(model.norm.num_batches_tracked) == 1 and "other_acc" in module.sums


def test_a_checkpoint_from_time_to_time_is_continued_from_as_well(tmp_path):
    whole, _, history = train(tmp_path / "whole", compose(noisy=Noisy()), **BUSY)
    saved = []

    class Watching(StopIn):
        def on_batch(self, batch, model, progress, generator):
            state = checkpoint.load(tmp_path / "broken" / "last.ckpt")
            saved.append(state and next_batch(state))
            return super().on_batch(batch, model, progress, generator)

    ticks = itertools.count()
    with pytest.raises(RuntimeError, match="killed"):
        train(
            tmp_path / "broken",
            compose(noisy=Noisy(), stop=Watching(10)),
            seconds=3,
            clock=lambda: float(next(ticks)),
            **BUSY,
        )
    assert 1 < len(set(saved)) < 6  # not after every batch
    resumed, _, again = train(tmp_path / "broken", compose(noisy=Noisy()), **BUSY)
    assert torch.equal(weights(whole), weights(resumed))
    assert history == again


def test_the_learning_rates_are_those_of_the_recipes_scheduler():
    assert learning_rates(RECIPE) == pytest.approx([0.02, 0.02, 0.002, 0.002])
    assert learning_rates({**RECIPE, "scheduler": None}) == [0.02] * 4


def test_a_damaged_checkpoint_restarts_training_and_says_so(tmp_path, caplog):
    whole, *_ = train(tmp_path / "whole")
    with pytest.raises(RuntimeError, match="killed"):
        train(tmp_path / "broken", StopAt(2))
    path = tmp_path / "broken" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    resumed, *_ = train(tmp_path / "broken")
    assert "last.ckpt" in caplog.text
    assert torch.equal(weights(whole), weights(resumed))


def test_seeds_differ_and_the_global_generator_does_not_matter(tmp_path):
    torch.manual_seed(1)
    one, *_ = train(tmp_path / "one", epochs=1)
    torch.manual_seed(2)
    two, *_ = train(tmp_path / "two", epochs=1)
    other, *_ = train(tmp_path / "other", seed=1, epochs=1)
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(other))


def test_select_best_test_keeps_the_epoch_with_the_best_accuracy(tmp_path):
    # A learning rate that is too high: accuracy goes up and down, and nothing becomes infinite.
    hot = {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1.0}, "scheduler": None, "epochs": 6}
    _, last, history = train(tmp_path / "last", **hot)
    _, best, _ = train(tmp_path / "best", select="best_test", **hot)
    top = max(entry["test_acc"] for entry in history)
    assert best["acc"] == pytest.approx(top, abs=1e-4)
    assert best["acc"] >= last["acc"]
    assert history[int(best["selected_epoch"])]["test_acc"] == top


def test_an_unknown_selection_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="last, best_test"):
        train(tmp_path / "a", select="luckiest")


def test_defenses_see_training_batches_and_never_test_images(tmp_path):
    seen = []

    class Spy(Defense):
        def on_batch(self, batch, model, progress, generator):
            seen.append((model.training, batch.index))
            return batch

    train(tmp_path / "a", Spy(), epochs=2)
    assert all(training for training, _ in seen)
    assert len(seen) == 2 * (21 // 8)
    assert not torch.equal(seen[0][1], seen[2][1])  # another order each epoch


def test_nothing_alarming_is_printed(tmp_path, capfd):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tmp_path / "a", epochs=1)
    text = capfd.readouterr()
    assert not [w for w in caught if "pytorch_lightning" in str(w.filename) and w.category is UserWarning]
    assert "GPU available" not in text.err + text.out and "Trainer" not in text.err + text.out


def test_assembling_does_surgery_then_weights_then_head():
    calls = []

    class Order(Defense):
        def modify_backbone(self, model):
            calls.append(("reshape", model.head.weight.shape[0]))

        def replace_head(self, model):
            calls.append(("replace_head", model.head.weight.shape[0]))

    state = torch.random.get_rng_state()
    assemble({"model": MODEL}, 5, compose(it=Order()), seed=0)
    assert calls == [("reshape", 5), ("replace_head", 5)]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_shuffled_batches_cover_everything_once_and_depend_on_the_epoch_alone():
    sampler = Shuffled(10, batch_size=4, drop_last=False, seed=0)
    first = sampler.batches(3)
    assert sorted(torch.cat(list(first)).tolist()) == list(range(10))
    assert [len(batch) for batch in first] == [4, 4, 2]
    assert all(torch.equal(a, b) for a, b in zip(first, sampler.batches(3), strict=True))
    assert not torch.equal(first[0], sampler.batches(4)[0])
    assert [len(b) for b in Shuffled(10, batch_size=4, drop_last=True, seed=0).batches(0)] == [4, 4]
    assert [len(b) for b in Shuffled(3, batch_size=8, drop_last=True, seed=0).batches(0)] == [3]


class OneNaN(Defense):
    """The loss of the first batch of an epoch is NaN."""

    def __init__(self, epoch):
        self.epoch, self.is_over = epoch, False

    def extra_losses(self, output, batch, progress, *, classify, generator):
        is_broken = progress.epoch == self.epoch and not self.is_over
        self.is_over |= is_broken
        return {"extra": 0 * output.logits.detach().sum() + (torch.nan if is_broken else 0.0)}


BF16 = Numerics(precision="bf16", channels_last=True)


@pytest.mark.parametrize("numerics", [Numerics(), BF16], ids=str)
def test_one_nan_among_the_losses_of_an_epoch_ends_the_training_before_it_is_kept(tmp_path, numerics):
    for _ in range(2):  # a second call continues from the last healthy epoch, and ends alike
        with pytest.raises(DivergedError, match=r"^training diverged in epoch 3 of 4 \(.*(loss|extra) nan"):
            train(tmp_path / "a", OneNaN(2), numerics=numerics)
    state = checkpoint.load(tmp_path / "a" / "last.ckpt")
    assert state["midre_exp"]["next_epoch"] == 2
    assert not not_finite(state["state_dict"])


@pytest.mark.parametrize("numerics", [Numerics(), BF16], ids=str)
def test_a_training_whose_rate_is_far_too_high_diverges_in_any_precision(tmp_path, numerics):
    with pytest.raises(DivergedError, match="training diverged in epoch 1 of 4"):
        train(tmp_path / "a", optimizer={"_target_": "torch.optim.SGD", "lr": 1e30}, numerics=numerics)


def test_a_training_in_bf16_rounds_its_losses_and_learns_alike(tmp_path):
    exact, rounded = (
        train(tmp_path / name, numerics=numerics) for name, numerics in (("exact", None), ("bf16", BF16))
    )
    assert {value.dtype for value in rounded[0].parameters()} == {torch.float32}
    losses = [torch.tensor([epoch["loss"] for epoch in history]) for _, _, history in (exact, rounded)]
    assert not torch.equal(*losses)
    assert torch.allclose(losses[0][:1], losses[1][:1], rtol=0.1)  # later steps amplify the rounding
    assert float(losses[1][-1]) == pytest.approx(float(losses[0][-1]), abs=0.05)
    assert exact[1]["acc"] == rounded[1]["acc"] == 100


class BadWeights(Defense):
    """The losses are numbers, what is left in the end is not."""

    def on_inference(self, model):
        next(model.parameters()).data[0] = torch.inf


def test_weights_that_are_no_numbers_are_no_result(tmp_path):
    with pytest.raises(DivergedError, match=r"training diverged \(not finite: "):
        train(tmp_path / "a", BadWeights(), epochs=1)


def test_a_class_is_never_predicted_of_what_is_no_number():
    logits = torch.tensor([[0.0, 1.0, -torch.inf], [3.0, 2.0, 1.0]])
    assert predicted_classes(logits).tolist() == [1, 0]
    assert hits(logits, torch.tensor([1, 1])).tolist() == [1.0, 0.0]
    for value in (torch.nan, torch.inf):
        broken = logits.clone()
        broken[1, 2] = value
        with pytest.raises(DivergedError, match="not finite for 1 of 2 images"):
            predicted_classes(broken)
        assert hits(broken, torch.tensor([1, 2])).isnan().tolist() == [False, True]
        with pytest.raises(DivergedError):
            topk_hits(broken, torch.tensor([0, 0]), 2)
