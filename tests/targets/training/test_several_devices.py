"""Trainings on two processes with gloo against the same on one device.

Without batch norm and random numbers both compute the same, in double precision up to 1e-10; with them they
are equal statistically. Starting processes takes seconds, so two of them go through all scenarios once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from defenses import MID, MIDRE, BiDO, CutMix, Defense, EarlyStopping, compose
from midre_exp import runtime as runtimes
from midre_exp.data.base import Dataset, ImageSet
from midre_exp.errors import ConfigError
from midre_exp.runtime import Runtime, check_devices, make_runtime
from midre_exp.stages import make_plan
from midre_exp.targets.base import Classifier
from midre_exp.targets.training import train as training_module
from midre_exp.targets.training.batch import Share
from midre_exp.targets.training.launch import RankError, launch
from midre_exp.targets.training.train import Training, train_classifier, train_rank
from midre_exp.weights import checkpoint as checkpoints
from tests.e2e.test_processes import finish, result, start
from tests.targets.training.failing_rank import fail
from tests.targets.training.probing import Probing

RECIPE = {
    "epochs": 2,
    "batch_size": 8,
    "drop_last": False,
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.01},
    "scheduler": None,
    "augment": [],
    "select": "last",
}
SHIFT = {"_target_": "midre_exp.data.transforms.RandomShift", "pixels": 3}
TWO = Runtime(quiet=True, devices=2, checkpoint_seconds=0)


class Colours(Dataset):
    """Three classes told apart by their colour, in noise; 24 images to train on and 13 to test on."""

    def load(self, part):
        labels = torch.arange(24 if part == "train" else 13) % 3
        generator = torch.Generator().manual_seed(len(labels))
        noise = torch.randint(0, 100, (len(labels), 3, 32, 32), generator=generator)
        colour = 150 * torch.eye(3).long()[labels][:, :, None, None]
        return ImageSet((noise + colour).byte(), labels, ("r", "g", "b"))

    def fingerprint(self, role):
        return {}


class Plain(Classifier):
    """No layer that looks at other images."""

    head_name = "last"

    def __init__(self, *, num_classes):
        super().__init__()
        self.set_normalisation(0.5, 0.5)
        self.first = nn.Conv2d(3, 8, 5, stride=4)
        self.second = nn.Conv2d(8, 16, 3, stride=2)
        self.unused = nn.Linear(2, 2)  # without a gradient
        self.last = nn.Linear(144, num_classes)

    def stages(self):
        return [("first", self.first), ("bent", torch.tanh), ("second", self.second)]

    def forward(self, images, taps=()):
        return super().forward(images.to(self.first.weight.dtype), taps)


class Normed(Plain):
    """Batch norm of maps and of features, and dropout."""

    def __init__(self, *, num_classes):
        super().__init__(num_classes=num_classes)
        self.maps, self.rows = nn.BatchNorm2d(8), nn.BatchNorm1d(144)

    def stages(self):
        return [("first", self.first), ("maps", self.maps), ("bent", torch.relu), ("second", self.second)]

    def classify(self, features):
        return self.head(nn.functional.dropout(self.rows(features), 0.1, self.training))


class Watching(Defense):
    """Keeps what reaches it."""

    def __init__(self):
        self.seen = []

    def on_batch(self, batch, model, progress, generator):
        self.seen.append((batch.index, batch.images, batch.soft_labels))
        return batch


class Double(Defense):
    """Makes the network one of double precision, when it is whole."""

    def replace_head(self, model):
        model.double()


def defend(name):
    erase = {"area": "uniform", "rounding": "round", "fill": [0, 0, 0], "fill_space": "pixel"}
    bido = {
        "measure": "hsic",
        "lambda_x": 0.5,
        "lambda_y": 0.5,
        "stages": ["bent", "second"],
        "sigma": 5.0,
        "label_kernel": "linear",
        "images_per_id": 2,
        "ids_per_batch": 3,
        "training": "shared",
        **dict.fromkeys(("lr", "weight_decay", "epochs", "batch_size", "milestones", "gamma")),
    }
    mid = {"beta": 0.01, "eval_noise": "sample"}
    return {
        "none": lambda: compose(double=Double()),
        "midre": lambda: compose(
            midre=MIDRE(a_l=0.1, a_h=0.2, **erase), watching=Watching(), double=Double()
        ),
        "early": lambda: compose(early=EarlyStopping(share=0.6), double=Double()),
        "probing": lambda: compose(probing=Probing(noise=0.0), double=Double()),
        "bido": lambda: compose(bido=BiDO(**bido), double=Double()),
        "coupled": lambda: compose(
            cutmix=CutMix(alpha=1.0, p=0.9, per_batch=False),
            mid=MID(**mid, drop_feature_norm=False),
            watching=Watching(),
            double=Double(),
        ),
    }[name]()


def task(work, model="Plain", defense="none", runtime=TWO, **recipe):
    work.mkdir(exist_ok=True)
    settings = {
        "name": model,
        "model": {"_target_": f"{__name__}.{model}"},
        "weights": None,
        "recipe": {**RECIPE, **recipe},
    }
    return Training(settings, Colours(), defend(defense), 0, work, runtime, model, (__name__.split(".")[0],))


#: What two processes and one train alike, up to rounding.
EQUAL = {
    "plain": {"select": "best_test"},
    "coupled losses": {"defense": "bido"},
    "stopped early": {"defense": "early", "epochs": 3},
    "own state": {"defense": "probing"},
}
#: What they train alike statistically: batch norm of shares, other random numbers, a last batch of 4 images.
SIMILAR = {
    "erasing": {"model": "Normed", "defense": "midre", "augment": [SHIFT], "batch_size": 10, "epochs": 6},
    "mixing": {"model": "Normed", "defense": "coupled", "augment": [SHIFT], "epochs": 24},
}


def folder(root, name):
    return root / name.replace(" ", "-")


def go_through(root, rank, sender):
    """What each of the two processes does; the rest is in files."""
    for name, changes in {**EQUAL, **SIMILAR}.items():
        job = task(folder(root, name), **changes)
        train_rank(job, rank, sender)
        for part in job.defense.parts.values():
            if isinstance(part, Watching):
                torch.save(part.seen, folder(root, name) / f"seen-{rank}.pt")
    for epochs in (1, 2):  # stopped after an epoch, then continued
        train_rank(task(root / "stopped", epochs=epochs), rank, sender)
    train_rank(task(root / "taken over", epochs=2), rank, sender)


def together(work, argument, log=lambda metrics, step: None):
    torch.set_num_threads(1)
    launch(work, argument, devices=2, backend="gloo", log=log)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("devices")
    train_here(task(root / "taken over", epochs=1))
    logged = []
    together(go_through, root, lambda metrics, step: logged.append((metrics, step)))
    torch.save(logged, root / "logged.pt")
    return root


def train_here(job, devices=1):
    return train_classifier(
        job.settings,
        job.data,
        job.defense,
        seed=job.seed,
        work=job.work,
        runtime=replace(job.runtime, devices=devices),
        title=job.title,
        trusted=job.trusted,
    )


def left_in(work):
    return checkpoints.load(work / "last.ckpt")


def assert_same_training(one, two):
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        other = two["state_dict"][name]
        same = torch.allclose(other, value, rtol=1e-10, atol=1e-10) if torch.is_tensor(value) else None
        assert value == other if same is None else same, name
    for mine, theirs in zip(one["midre_exp"]["history"], two["midre_exp"]["history"], strict=True):
        assert list(mine) == list(theirs)
        for name in set(mine) - {"test_acc"}:  # whose last batch of 5 images two processes cannot halve
            assert mine[name] == pytest.approx(theirs[name], rel=1e-5), name


@pytest.mark.parametrize("name", EQUAL)
def test_two_processes_compute_the_losses_and_gradients_of_the_whole_batch(root, tmp_path, name):
    train_here(task(tmp_path / "one", **EQUAL[name]))
    one, two = left_in(tmp_path / "one"), left_in(folder(root, name))
    assert_same_training(one, two)
    if name == "coupled losses":
        assert {"bido/x_bent", "bido/y_bent"} < one["midre_exp"]["history"][0].keys()
    if name == "stopped early":
        assert len(two["midre_exp"]["history"]) == 2


@pytest.mark.parametrize("name", SIMILAR)
def test_two_processes_train_to_a_similar_accuracy(root, tmp_path, name):
    one = train_here(task(tmp_path / "one", **SIMILAR[name]))
    history = left_in(folder(root, name))["midre_exp"]["history"]
    assert one.history[-1]["test_acc"] > 85
    assert history[-1]["test_acc"] == pytest.approx(one.history[-1]["test_acc"], abs=15)  # 2 of 13 images
    assert history[-1]["loss"] < history[0]["loss"]


def seen_by(root, name):
    """(indices, images, soft labels) of each batch by each of the two processes."""
    return zip(*(torch.load(folder(root, name) / f"seen-{rank}.pt") for rank in (0, 1)), strict=True)


def test_each_process_erases_its_own_share_of_every_batch(root):
    batches = list(seen_by(root, "erasing"))
    assert len(batches) == 6 * 3  # of 10, 10 and 4 images
    for epoch in range(6):
        indices = [index for both in batches[3 * epoch : 3 * epoch + 3] for index, _, _ in both]
        assert torch.cat(indices).sort().values.tolist() == list(range(24))
    holes = [(images == 0).all(1) for _, images, _ in batches[0]]
    assert not torch.equal(holes[0].sum((1, 2)), holes[1].sum((1, 2)))


def test_each_process_mixes_the_whole_batch_alike(root):
    for mine, theirs in seen_by(root, "mixing"):
        assert len(mine[0]) == 8
        assert all(torch.equal(one, other) for one, other in zip(mine, theirs, strict=True))


def test_a_stopped_training_goes_on_also_with_another_number_of_devices(root, tmp_path):
    train_here(task(tmp_path / "whole"))
    whole = left_in(tmp_path / "whole")
    assert_same_training(whole, left_in(root / "stopped"))
    assert_same_training(whole, left_in(root / "taken over"))  # from one device, by two
    train_here(task(tmp_path / "longer", epochs=3))
    train_here(task(root / "stopped", epochs=3))  # from two, by one
    assert_same_training(left_in(tmp_path / "longer"), left_in(root / "stopped"))


def test_rank_0_alone_writes_and_logs(root):
    work = folder(root, "plain")
    assert sorted(path.name for path in work.iterdir()) == ["last.ckpt", "logs"]
    assert [path.name for path in (work / "logs").iterdir()] == ["attempt-0"]
    losses = [metrics["loss"] for metrics, _ in torch.load(root / "logged.pt") if "loss" in metrics]
    history = left_in(work)["midre_exp"]["history"]
    assert losses[:2] == pytest.approx([epoch["loss"] for epoch in history])


@pytest.mark.parametrize("name", ["plain", "own state"])
def test_the_calling_process_takes_over_what_the_ranks_left(root, tmp_path, monkeypatch, name):
    def trained_before(work, training, **options):
        assert work is train_rank and options["devices"] == 2 and options["backend"] == "gloo"
        shutil.copy(folder(root, name) / "last.ckpt", training.work)

    one = train_here(task(tmp_path / "one", **EQUAL[name]))
    monkeypatch.setattr(training_module, "launch", trained_before)
    two = train_here(task(tmp_path / "two", **EQUAL[name]), devices=2)
    assert one.numbers == pytest.approx(two.numbers)
    for mine, theirs in (
        (one.model.state_dict(), two.model.state_dict()),
        (one.defense_state, two.defense_state),
    ):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert torch.allclose(theirs[key], value, atol=1e-10), key
    assert bool(one.defense_state) == (name == "own state")
    assert not two.model.training


@pytest.mark.parametrize(
    ("images", "ranks", "size"), [(8, 2, 4), (7, 2, 4), (10, 4, 3), (2, 2, 2), (1, 3, 2)]
)
def test_shares_are_equally_large_and_leave_no_image_out(images, ranks, size):
    batch = torch.arange(images) + 100
    shares = [Share(rank, ranks).of(batch) for rank in range(ranks)]
    assert {len(share) for share in shares} == {size}
    assert torch.equal(torch.cat(shares)[:images], batch)
    assert Share().of(batch) is batch


# -- failures ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "error", "sentence"),
    [
        (ConfigError("a.b=1 is bad; use 2"), ConfigError, "^a.b=1 is bad; use 2$"),
        (signal.SIGKILL, RankError, r"^rank 1 of a training on several devices ended \(killed by SIGKILL\)"),
        pytest.param(ValueError("boom"), RuntimeError, "^ValueError: boom$", marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, SystemExit, "^143$", marks=pytest.mark.slow),
    ],
    ids=["user error", "killed", "bug", "terminated"],
)
def test_one_rank_that_fails_ends_all_with_its_own_reason(how, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        together(fail, how)
    assert not multiprocessing.active_children()
    if error is RuntimeError:
        assert "raise how" in str(caught.value.__cause__)


def test_a_defense_that_cannot_be_pickled_is_refused(tmp_path):
    class Local(Defense):
        """Known to this process only."""

    job = replace(task(tmp_path / "a"), defense=compose(it=Local()))
    with pytest.raises(ConfigError, match=r"devices=2 needs .*Local.*; define its class in a module"):
        together(train_rank, job)


def test_more_devices_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(runtimes.torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda")
    check_devices(gpu, 2)
    with pytest.raises(
        ConfigError, match=r"devices=3 from cuda:0 on, but torch sees 2 GPUs; use runtime.devices=2"
    ):
        check_devices(gpu, 3)
    with pytest.raises(ConfigError, match=r"devices=2 from cuda:1 on"):
        check_devices(torch.device("cuda", 1), 2)
    with pytest.raises(ConfigError, match="not on mps"):
        check_devices(torch.device("mps"), 2)
    check_devices(torch.device("cpu"), 64)


def test_the_number_of_devices_enters_no_key(tiny):
    one, two = tiny(), tiny("runtime.devices=2")
    assert make_plan(one) == make_plan(two)
    assert (make_runtime(one["runtime"]).devices, make_runtime(two["runtime"]).devices) == (1, 2)
    with pytest.raises(ConfigError, match=r"runtime\.devices=0 cannot be used; give a whole number"):
        make_plan(tiny("runtime.devices=0"))


# -- whole runs, as processes of their own -------------------------------------------------------------------

#: Of a run that would train for minutes.
LONG = ("runtime.devices=2", "target.recipe.epochs=3000")


def ranks_of(process):
    """The processes that train for a run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            command = (stat.parent / "cmdline").read_text()
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            if parent == process.pid and "spawn_main" in command:
                found.append(int(stat.parent.name))
    return sorted(found)


def are_gone(pids):
    def is_alive(pid):
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        return False

    deadline = time.monotonic() + 10
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_alive, pids))


@contextlib.contextmanager
def training_run(folder):
    """A run that trains, and the processes that do it for it."""
    process = start(folder, *LONG)
    try:
        deadline = time.monotonic() + 200
        while not list(folder.glob("store/work/target-*/last.ckpt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        yield process, ranks_of(process)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_run_on_two_devices_makes_the_artifacts_of_one(tmp_path):
    runs = []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        output = finish(start(folder, f"runtime.devices={count}"))
        assert "Warning" not in output and "rank" not in output, output
        runs.append(result(folder))
    one, two = runs
    assert one["artifacts"] == two["artifacts"] and one["config"]["runtime"] != two["config"]["runtime"]


@pytest.mark.slow
def test_a_run_that_is_told_to_leave_takes_all_with_it_and_goes_on_later(tmp_path):
    with training_run(tmp_path) as (process, ranks):
        assert len(ranks) == 2
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 143 and time.monotonic() - asked < 10, output
    assert are_gone(ranks) and not list((tmp_path / "store" / "locks").iterdir())
    assert list(tmp_path.glob("store/work/target-*/last.ckpt"))
    with training_run(tmp_path) as (process, ranks):
        process.kill()  # nobody is left to end the others
        assert are_gone(ranks)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "sentence"),
    [
        (signal.SIGKILL, 1, "rank 1 of a training on several devices ended (killed by SIGKILL)"),
        (signal.SIGTERM, 143, ""),
    ],
)
def test_one_of_several_that_dies_ends_the_run(tmp_path, number, code, sentence):
    with training_run(tmp_path) as (process, ranks):
        os.kill(ranks[1], number)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == code and sentence in output, output
        assert "Traceback" not in output
    assert are_gone(ranks) and not list((tmp_path / "store" / "locks").iterdir())


@pytest.mark.slow
def test_a_mistake_found_while_training_on_several_devices_is_one_sentence(tmp_path):
    process = start(tmp_path, "runtime.devices=2", "defense=midre", "defense.midre.a_h=0.99")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 2, output
    assert "midre_exp: defense.midre.a_h=0.99 asks for a square" in output and "Traceback" not in output
