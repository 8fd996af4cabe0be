"""Whole attacks on StyleGAN2, and how they are judged, against recorded official runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from attacks.mirror_genetic import drawn
from midre_exp.data.base import ImageSet
from midre_exp.data.transforms import CenterCrop, Resize
from midre_exp.metrics import AttackAccuracy, Confidence, EvaluatorDistance, Prdc
from midre_exp.metrics.accuracy import attack_accuracy, label_confidence
from midre_exp.metrics.distance import knn_distance
from midre_exp.metrics.evaluation import evaluate
from midre_exp.metrics.prdc import precision_recall_density_coverage
from midre_exp.threat import Threat, Victim
from tests.fidelity.recorded import (
    RecordedStyle,
    Recording,
    Shape,
    Watched,
    attack,
    classifier,
    draws,
    gained,
    mostly_near,
    near,
    no_draws,
    quiet,
    unif,
)

pytestmark = pytest.mark.fidelity

HALF = (0.5, 0.5)  # mean and deviation that targets and judges normalise by


def resized(run: Recording, size: int) -> list[Any]:
    """From the generator's pictures to pictures of ``size``."""
    return [CenterCrop(size=run.meta["crop"]), Resize(size=size)]


class BoxDraws:
    """Recorded boxes [steps, 4] and flips [steps], handed over among the uniform numbers of a random crop."""

    def __init__(self, run: Recording, patch: pytest.MonkeyPatch, **names: tuple[str, str | None]):
        self.run, self.names = run, names
        patch.setattr("attacks.parts.random_crops.boxes", self.boxes)

    def __call__(self, rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        boxes, flips = self.names[name]
        numbers = torch.ones(1, *shape)
        numbers[:, :4] = self.run[boxes][step].float()
        if flips is not None:
            numbers[:, -1] = 1 - self.run[flips][step].float()
        return numbers

    @staticmethod
    def boxes(numbers: Tensor, height: int, width: int, **law: object) -> tuple[Tensor, ...]:
        return numbers[:, :4].unbind(1)


def search(run: Recording, **options: Any) -> dict[str, Any]:
    """The options of the candidates, as a node."""
    meta = run.meta
    codes = {"psi": meta["psi"], "cutoff": meta["cutoff"], "z_seed": meta["z_seed"], "batch": 64}
    return {"_target_": "attacks.InitialSelection", **codes, **options}


# PPA


def ppa_of(run: Recording) -> tuple[Any, Tensor]:
    """The attack and its labels."""
    meta = run.meta
    names = ("kept", "steps", "lr", "betas", "milestones", "gamma")
    ppa = attack(
        "ppa",
        identities=meta["classes"],
        restarts=meta["candidates"],
        reference_batch=meta["batch"],
        search=search(run, size=meta["search"], flip=True),
        image_to_target=resized(run, meta["target_size"]),
        **{name: meta[name] for name in names},
    )
    ppa.selection.views = meta["views"]
    return ppa, torch.arange(meta["classes"]).repeat_interleave(meta["candidates"])


def test_ppa(monkeypatch: pytest.MonkeyPatch):
    """Starts, codes after 20 steps of three learning rates, robustness, and who is selected."""
    run = Recording.of("ppa")
    prior = RecordedStyle(run.tag, scale=run.meta["scale"])
    target = classifier(run, "T", "bias_target", width=run.meta["target_width"], normal=HALF)
    victim = Victim.of(target, run.meta["classes"])
    ppa, labels = ppa_of(run)
    shared = draws(
        BoxDraws(run, monkeypatch, crop=("boxes", None), selection=("view_boxes", "view_flips")), 1
    )

    start = ppa.initialise(victim, prior, labels, shared_rng=shared, runtime=quiet())
    near(start, run["start"], 0, "start")
    w = ppa.invert(victim, prior, labels, shared, Watched(start=start, shared_rng=shared))
    mostly_near(w, run["w"], "codes", median=1e-5, most=0.05, usual=1e-3, exceptions=0.02)

    with torch.no_grad():
        images = ppa.render(prior, run["w"], labels)
    details = ppa.examine(victim, images, labels, shared_rng=shared, runtime=quiet())
    near(details["robustness"], run["robustness"], 2e-3, "robustness")
    chosen = ppa.select(victim, prior, labels, w, details, shared_rng=shared, runtime=quiet())
    assert torch.equal(chosen["selected"], run["selected"])


def ppa_pictures(run: Recording) -> tuple[Tensor, Tensor, Tensor]:
    """As the judge gets them, floats that go beyond [0, 1]: [48, 3, h, w]; labels; who is selected."""
    ppa, labels = ppa_of(run)
    ppa.image_to_target = tuple(resized(run, run.meta["judge_size"]))
    prior = RecordedStyle(run.tag, scale=run.meta["scale"])
    with torch.no_grad():
        return ppa.render(prior, run["w"], labels), labels, run["selected"]


def test_ppa_judged_by_floats():
    """Accuracies, confidence, distance and PRDC of unclamped floats, as the official program judges."""
    run = Recording.of("ppa")
    expected = run.meta["metrics"]["floats"]
    images, labels, selected = ppa_pictures(run)
    judge = classifier(run, "J", "bias_judge", width=run.meta["judge_width"], normal=HALF)
    private_labels = torch.arange(run.meta["classes"]).repeat_interleave(10)
    with torch.no_grad():
        found, private = judge(images), judge(run["private"].float() / 255)
    logits, features, chosen = found.logits[selected], found.features[selected], labels[selected]
    ours = {
        "top1": attack_accuracy(logits, chosen),
        "top5": attack_accuracy(logits, chosen, 5),
        "top1_all": attack_accuracy(found.logits, labels),
        "top5_all": attack_accuracy(found.logits, labels, 5),
        "confidence": float(label_confidence(logits, chosen).mean()),
        "delta_eval": knn_distance(features, chosen, private.features, private_labels),
    }
    prdc = precision_recall_density_coverage(features, chosen, private.features, private_labels, k=3)[1]
    for name, value in (ours | prdc).items():
        assert value == pytest.approx(expected[name], rel=2e-4 if name in ours else 1e-6), name


def test_ppa_judged_by_eight_bits():
    """The same of pictures clamped and truncated to 8 bits, through ``evaluate``."""
    run = Recording.of("ppa")
    expected = run.meta["metrics"]["eight_bit"]
    images, labels, selected = ppa_pictures(run)
    pictures = (255 * images.clamp(0, 1)).to(torch.uint8)
    private = ImageSet(run["private"], torch.arange(run.meta["classes"]).repeat_interleave(10), ())
    judge = classifier(run, "J", "bias_judge", width=run.meta["judge_width"], normal=HALF)
    metrics = {
        "top1": AttackAccuracy(k=1, group=60),
        "top5": AttackAccuracy(k=5, group=60),
        "confidence": Confidence(),
        "delta_eval": EvaluatorDistance(),
        "prdc": Prdc(k=3, features="evaluator"),
    }
    options: dict[str, Any] = {"private": private, "metrics": metrics}
    ours = evaluate(pictures[selected], labels[selected], judge, **options).numbers
    of_all = evaluate(pictures, labels, judge, **options).numbers
    numbers = {
        "top1": ours["att_acc1"],
        "top5": ours["att_acc5"],
        "top1_all": of_all["att_acc1"],
        "top5_all": of_all["att_acc5"],
        "confidence": ours["confidence_evaluator"],
        "delta_eval": ours["delta_eval"],
    }
    names = ("precision", "recall", "density", "coverage")
    prdc = {name: ours[f"{name}_ppa_evaluator"] for name in names}
    for name, value in (numbers | prdc).items():
        assert value == pytest.approx(expected[name], rel=2e-4 if name in numbers else 1e-6), name
    assert abs(expected["delta_eval"] - run.meta["metrics"]["floats"]["delta_eval"]) > 0.4


# MIRROR


def test_mirror():
    """Starts, loss of every step, and the code of the best step, of 40."""
    run = Recording.of("mirror")
    meta = run.meta
    targets, restarts = meta["targets"], meta["restarts"]
    prior = RecordedStyle(run.tag)
    target = classifier(run, "T", "bias_target")
    victim = Victim.of(target, meta["classes"])
    mirror = attack(
        "mirror",
        identities=targets,
        reference_batch=restarts,
        search=search(run, size=meta["search"], flip=False),
        image_to_target=[Resize(size=meta["resize"])],
        **{name: meta[name] for name in ("restarts", "steps", "lr", "rampup", "rampdown", "identity_weight")},
    )

    def numbers(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        return 1 - run["flips"][step].float().reshape(1, *shape)

    shared, labels = draws(numbers, 1), torch.arange(targets).repeat_interleave(restarts)
    start = mirror.initialise(victim, prior, labels, shared_rng=shared, runtime=quiet())
    near(start.view_as(run["start"]), run["start"], 0, "start")
    loop = Watched(start=start, shared_rng=shared)
    result = mirror.invert(victim, prior, labels, shared, loop)
    losses = torch.stack([loss.view(targets, restarts).mean(1) for loss in loop.losses], 1)
    near(losses / meta["identity_weight"], run["losses"], 1e-3, "losses")
    w = result.details["w"].view(targets, restarts, -1)
    near(w, run["w"], 2e-3, "codes")
    assert float((w - run["w"]).abs().median()) <= 1e-5
    with torch.no_grad():
        logits = target(mirror.render(prior, result.latents, labels)).logits
    near(logits.view(targets, restarts, -1), run["target_logits"], 1e-2, "logits")


# IF-GMI


def test_ifgmi(monkeypatch: pytest.MonkeyPatch):
    """Codes, features and pictures after each of three phases, and what the judge says of them."""
    run = Recording.of("ifgmi")
    meta = run.meta
    prior = RecordedStyle(run.tag)
    ends = ("torgb.weight", "torgb.bias")
    names = [name for name, _ in prior.generator.synthesis.named_parameters() if name.endswith(ends)]
    gained(prior.generator.synthesis, dict.fromkeys(names, meta["rgb"]))
    prior.freeze()
    target = classifier(run, "T", "bias_target", width=meta["target_width"], normal=HALF)
    labels = torch.tensor(meta["labels"])
    phases = zip(meta["stages"], meta["radii_features"], meta["radii_w"], strict=True)
    ifgmi = attack(
        "ifgmi",
        identities=meta["classes"],
        restarts=1,
        reference_batch=len(labels),
        search=search(run, size=len(labels), flip=True),
        stages=[{"steps": s, "radius_features": f, "radius_w": w} for s, f, w in phases],
        image_to_target=resized(run, meta["target_size"]),
        picture=resized(run, meta["judge_size"]),
        keep_stages=True,
        eight_bits="truncated",  # as the recorded pictures are; ours are rounded
        lr=meta["lr"],
        betas=meta["betas"],
    )
    shared = draws(BoxDraws(run, monkeypatch, crop=("boxes", None)), 1)
    codes = prior.codes(ifgmi.search.z(prior, shared), psi=meta["psi"], cutoff=meta["cutoff"])
    near(codes[:, 0], run["start"], 1e-6, "start")

    loop = Watched("w", "features", start=codes[:, :1], shared_rng=shared)
    result = ifgmi.invert(Victim.of(target, meta["classes"]), prior, labels, shared, loop)
    ends_at = torch.tensor(meta["stages"]).cumsum(0).tolist()
    w = [loop.before[end]["w"][:, 0] for end in ends_at[:-1]] + [result.latents[:, 0]]
    mostly_near(torch.stack(w, 1), run["w"], "codes", median=1e-5, most=0.03, usual=1e-3, exceptions=0.02)
    pictures = result.details["stages"]
    levels = (pictures.int() - run["pictures"].int()).abs()
    assert int(levels.max()) <= 3 and float((levels > 0).double().mean()) <= 0.01

    judge = classifier(run, "J", "bias_judge", width=meta["judge_width"], normal=HALF)
    with torch.no_grad():
        logits = judge(pictures.flatten(0, 1).float() / 255).logits.unflatten(0, pictures.shape[:2])
    near(logits, run["judge_logits_eight_bit"], 0.05, "judge's logits")
    accuracy = [attack_accuracy(logits[:, phase], labels) for phase in range(len(w))]
    assert accuracy == pytest.approx([row[0] for row in meta["official_eight_bit"]])
    assert int(torch.tensor(accuracy).argmax()) == meta["best_stage_eight_bit"]


def fittest_first(weights: Tensor, numbers: Tensor) -> Tensor:
    """Parents drawn from a population in the order of its fitness, in which the official program keeps it:
    which number stands for whom, and no more, depends on the order.
    """
    order = weights.argsort(dim=1, descending=True, stable=True)
    return order.gather(1, drawn(weights.gather(1, order), numbers))


def test_mirror_genetic(monkeypatch: pytest.MonkeyPatch):
    """Of three identities the best fitness of every generation, how many there were, and the fittest code."""
    run = Recording.of("mirror_genetic")
    meta = run.meta
    prior = RecordedStyle(run.tag)
    victim = Victim.of(classifier(run, "T", "bias_target"), meta["classes"], Threat.SCORES)
    names = ("population", "generations", "enough", "mutation_p", "mutation_size")
    genetic = attack(
        "mirror_genetic",
        identities=meta["targets"],
        restarts=1,
        search=search(run, size=meta["search"], flip=False),
        image_to_target=[Resize(size=meta["resize"])],
        **{name: meta[name] for name in names},
    )

    def numbers(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        return torch.stack([unif(f"{run.tag}/{name}/{row}/{step}", *shape) for row in rows.tolist()])

    monkeypatch.setattr("attacks.mirror_genetic.drawn", fittest_first)
    labels, rng = torch.arange(meta["targets"]), draws(numbers, meta["targets"])
    start = genetic.initialise(victim, prior, labels, shared_rng=no_draws(), runtime=quiet())
    loop = Watched("scores", start=start)
    before = victim.queries
    result = genetic.invert(victim, prior, labels, rng, loop)
    assert torch.equal(result.details["generations"], run["generations"])
    assert torch.equal(result.queries, run["generations"] * (meta["population"] - 1))
    assert victim.queries - before == int(result.queries.sum())
    best = torch.stack([state["scores"].amax(1) for state in [*loop.before, loop.state]], 1)
    for item, generations in enumerate(run["generations"].tolist()):
        theirs = run["curve"][item, : generations + 1]
        near(best[item, : generations + 1], theirs, 1e-4, f"fitness of item {item}")
    near(best[:, -1], run["fitness"], 1e-4, "fitness")
    near(result.details["w"], run["w"], 1e-5, "codes")
