"""Trainings shared by two processes against the same on one device, in double precision, where only a mistake
is as large as 1e-10.

Starting processes takes seconds, so two of them go through all scenarios once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from defenses import MID, MIDRE, BiDO, CutMix, Defense, NoDef, compose
from midre_exp import runtime as runtimes
from midre_exp.data.base import Dataset, ImageSet
from midre_exp.errors import ConfigError
from midre_exp.runtime import Runtime, check_devices, make_runtime
from midre_exp.stages import make_plan
from midre_exp.targets.base import Classifier
from midre_exp.targets.training import train as trainings
from midre_exp.targets.training import trainer
from midre_exp.targets.training.processes import spread
from midre_exp.targets.training.train import Training, train_classifier, train_rank
from midre_exp.weights import checkpoint as checkpoints
from tests.e2e.test_processes import finish, result, start

RECIPE = {
    "epochs": 2,
    "batch_size": 8,
    "drop_last": False,  # 21 images: the last batch has 5, three for the one and two for the other
    "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.02, "momentum": 0.9, "weight_decay": 0.01},
    "scheduler": None,
    "augment": [{"_target_": "midre_exp.data.transforms.RandomShift", "pixels": 3}],
    "select": "last",
    "precision": "64-true",
}
TWO = Runtime(quiet=True, devices=2)


class Colours(Dataset):
    """Three classes told apart by their colour, in noise; 21 images to train on and 13 to test on."""

    def load(self, part):
        labels = torch.arange(21 if part == "train" else 13) % 3
        generator = torch.Generator().manual_seed(len(labels))
        noise = torch.randint(0, 200, (len(labels), 3, 32, 32), generator=generator)
        colour = 50 * torch.eye(3).long()[labels][:, :, None, None]
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
        self.spare = nn.Linear(2, 2)  # never used, so without a gradient
        self.last = nn.Linear(144, num_classes)

    def stages(self):
        return [("first", self.first), ("bent", torch.tanh), ("second", self.second)]


class Normed(Plain):
    """Batch norm of maps and of features."""

    def __init__(self, *, num_classes):
        super().__init__(num_classes=num_classes)
        self.maps, self.rows = nn.BatchNorm2d(8), nn.BatchNorm1d(144, momentum=None)

    def stages(self):
        return [("first", self.first), ("maps", self.maps), ("bent", torch.relu), ("second", self.second)]

    def classify(self, features):
        return self.head(self.rows(features))


class Random(Normed):
    """Several ways to draw random numbers."""

    def classify(self, features):
        noise = torch.randn_like(features) * torch.rand(len(features), 1)
        return super().classify(nn.functional.dropout(features + 0.1 * noise, 0.3, self.training))


class Comparing(Plain):
    """Ties the images of a batch together."""

    def classify(self, features):
        return super().classify(features - features.mean(0))


class Lottery(Plain):
    """Draws in a way that cannot be shared."""

    def classify(self, features):
        return super().classify(features + torch.multinomial(features.exp(), features.shape[1]))


class Watching(Defense):
    """Keeps what every process feeds the network."""

    def __init__(self):
        self.seen = []

    def on_batch(self, batch, model, progress, generator):
        self.seen.append((batch.index, batch.images))
        return batch


def defend(name):
    erase = {"area": "uniform", "rounding": "round", "fill": [0, 0, 0], "fill_space": "pixel"}
    by_target = {"target": "small", "lambdas_by_target": {}, "taps_by_target": {}}
    bido = {
        "measure": "hsic",
        "lambda_x": 0.5,
        "lambda_y": 0.5,
        "taps": ["bent", "second"],
        "sigma": 5.0,
        "label_kernel": "linear",
        "images_per_id": 2,
        "ids_per_batch": 3,
        "recipe": "shared",
        **dict.fromkeys(("lr", "weight_decay", "epochs", "batch_size", "milestones", "gamma")),
    }
    mid = {"target": "small", "beta": 0.01, "beta_by_target": {}, "eval_noise": "sample"}
    return {
        "none": lambda: compose(it=NoDef()),
        "midre": lambda: compose(midre=MIDRE(a_l=0.1, a_h=0.4, **erase), watching=Watching()),
        "coupled": lambda: compose(
            cutmix=CutMix(alpha=1.0, p=0.9, per_batch=False),
            bido=BiDO(**bido, **by_target),
            mid=MID(**mid, drop_feature_norm=False),
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


#: What is trained by two processes and by one, to the same weights.
SCENARIOS = {
    "no batch norm": {"model": "Plain"},
    "batch norm": {"model": "Normed", "select": "best_test", "epochs": 3},
    "a last batch too small to share": {"model": "Normed", "batch_size": 9},
    "erasing": {"model": "Normed", "defense": "midre"},
    "coupled losses and images": {"model": "Normed", "defense": "coupled"},
    "random numbers": {"model": "Random"},
    "single precision": {"model": "Random", "precision": "32-true"},
}


def folder(root, name):
    return root / name.replace(" ", "-")


def go_through(rank, root):
    """What each of the two processes does; the first tells what comes of it, the rest is in files."""
    for name, changes in SCENARIOS.items():
        job = task(folder(root, name), **changes)
        train_rank(rank, job)
        for part in job.defense.parts.values():
            if isinstance(part, Watching):
                torch.save(part.seen, root / f"seen-{rank.index}.pt")
    for epochs in (1, 2):
        train_rank(rank, task(root / "handed over", epochs=epochs))
    train_rank(rank, task(root / "taken over", epochs=3))
    for model in ("Comparing", "Lottery"):
        try:
            train_rank(rank, task(root / model, model=model))
        except ConfigError as refusal:
            rank.tell((model, str(refusal)))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("devices")
    train_here(task(root / "taken over", epochs=1))
    told = []
    spread(go_through, root, TWO, told.append)
    torch.save(told, root / "told.pt")
    return root


def train_here(job):
    return train_classifier(
        job.settings,
        job.data,
        job.defense,
        seed=job.seed,
        work=job.work,
        runtime=replace(job.runtime, devices=1),
        title=job.title,
        trusted=job.trusted,
    )


def left_in(work):
    return checkpoints.load(work / "last.ckpt")


def assert_same_training(one, two, tolerance=1e-10):
    assert one["state_dict"].keys() == two["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.allclose(two["state_dict"][name], value, rtol=tolerance, atol=tolerance), name
    for mine, theirs in zip(one["midre_exp"]["history"], two["midre_exp"]["history"], strict=True):
        assert list(mine) == list(theirs)
        assert mine == pytest.approx(theirs, rel=max(tolerance, 1e-6))
        assert mine["test_acc"] == pytest.approx(theirs["test_acc"], abs=1e-4)  # of all 13 images


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_processes_train_to_the_weights_of_one(root, tmp_path, name):
    train_here(task(tmp_path / "one", **SCENARIOS[name]))
    one, two = left_in(tmp_path / "one"), left_in(folder(root, name))
    assert_same_training(one, two, 1e-5 if name == "single precision" else 1e-10)
    best = [state["midre_exp"]["best"] for state in (one, two)]
    assert best[0].get("epoch") == best[1].get("epoch")


def test_every_process_erases_the_pixels_that_one_would(root, tmp_path):
    job = task(tmp_path / "one", **SCENARIOS["erasing"])
    train_here(job)
    seen = job.defense.parts["watching"].seen
    assert len(seen) == 6
    for rank in (0, 1):
        others = torch.load(root / f"seen-{rank}.pt")
        for (index, images), (other_index, other_images) in zip(seen, others, strict=True):
            assert torch.equal(index, other_index) and torch.equal(images, other_images)


def test_a_training_goes_on_with_another_number_of_devices(root, tmp_path):
    train_here(task(tmp_path / "whole", epochs=3))
    whole = left_in(tmp_path / "whole")
    assert_same_training(whole, left_in(root / "taken over"))  # by one device, then by two
    train_here(task(root / "handed over", epochs=3))  # by two, by two again, then by one
    assert_same_training(whole, left_in(root / "handed over"))


def test_what_cannot_be_shared_is_refused_by_name(root):
    told = [(name, text) for name, text in torch.load(root / "told.pt") if name in ("Comparing", "Lottery")]
    assert len(told) == 4  # by both
    for name, text in told:
        assert "runtime.devices" in text and text.endswith("use runtime.devices=1")
        assert "multinomial" in text if name == "Lottery" else "train Comparing to other weights" in text


def test_one_process_logs_and_the_waiting_one_hears_it(root, monkeypatch):
    assert [path.name for path in (root / "batch-norm" / "logs").iterdir()] == ["attempt-0"]
    told = [entry for entry in torch.load(root / "told.pt") if isinstance(entry[0], dict)]
    losses = [metrics["loss"] for metrics, _ in told if "loss" in metrics]
    history = left_in(root / "no-batch-norm")["midre_exp"]["history"]
    assert losses[:2] == pytest.approx([epoch["loss"] for epoch in history])  # once, not by both

    class Logger:
        def log_metrics(self, metrics, step):
            heard.append((metrics, step))

    heard = []
    monkeypatch.setattr(trainer, "_trackers", lambda runtime: [Logger()])
    trainer.show_metrics(TWO)(told[0])
    assert heard == [told[0]]


def test_the_waiting_process_takes_over_what_the_others_left(tmp_path, monkeypatch):
    heard = []

    def alone(work, task, runtime, hear):
        """In place of processes: one training here."""
        assert work is train_rank and runtime.devices == 2
        pickle.loads(pickle.dumps(task))
        images = (task.data.load(part) for part in ("train", "test"))
        task.fit(task.module(3), *images, None)
        heard.append(hear)

    changes = {"select": "best_test", "epochs": 3}
    one = train_here(task(tmp_path / "one", **changes))
    monkeypatch.setattr(trainings, "spread", alone)
    job = task(tmp_path / "two", **changes)
    two = train_classifier(
        job.settings,
        job.data,
        job.defense,
        seed=job.seed,
        work=job.work,
        runtime=TWO,
        title="t",
        trusted=job.trusted,
    )
    assert heard and one[1:] == two[1:]
    assert all(
        torch.equal(a, b)
        for a, b in zip(one[0].state_dict().values(), two[0].state_dict().values(), strict=True)
    )
    assert not two[0].training


def test_a_defense_that_cannot_be_sent_is_refused(tmp_path):
    class Local(Defense):
        """Known to this process only."""

    job = replace(task(tmp_path / "a"), defense=compose(it=Local()))
    with pytest.raises(ConfigError, match=r"devices=2 needs .*Local.*; define its class in a module"):
        spread(train_rank, job, TWO, print)


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


# -- whole runs, as processes of their own ----------------------------------------------------------------------------------------------

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
    runs = {}
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        output = finish(start(folder, f"runtime.devices={count}"))
        assert "Warning" not in output and "rank" not in output, output
        runs[count] = result(folder), folder
    (one, first), (two, second) = runs[1], runs[2]
    assert one["artifacts"] == two["artifacts"] and one["config"]["runtime"] != two["config"]["runtime"]
    for stage in ("target", "evaluator"):
        key = one["artifacts"][stage]
        weights = [
            load_file(place / "store" / stage / key / "weights.safetensors") for place in (first, second)
        ]
        assert all(torch.allclose(weights[0][name], weights[1][name], atol=2e-2) for name in weights[0])


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
