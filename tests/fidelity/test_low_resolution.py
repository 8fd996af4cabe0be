"""Whole attacks at 64 px, and how they are judged, against recorded official runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from attacks import SAC
from midre_exp.data.base import ImageSet
from midre_exp.data.transforms import AlignedResize, EightBitResize, RandomView
from midre_exp.metrics import AttackAccuracy, KnnDistance
from midre_exp.metrics.evaluation import Scores, evaluate
from midre_exp.metrics.fid import frechet_distance
from midre_exp.surrogates import LommaSurrogates
from midre_exp.threat import Threat, Victim
from tests.fidelity.recorded import (
    Recording,
    Shape,
    Watched,
    attack,
    classifier,
    conf,
    draw,
    draws,
    enlarged,
    filled,
    gan_prior,
    ints,
    near,
    pick,
    state_of,
    unif,
)

pytestmark = pytest.mark.fidelity


# BREP-MI


def test_brepmi():
    """Search, walk of every identity, radii, queries, decisions, and whom the judge recognises."""
    run = Recording.of("brepmi")
    meta, classes = run.meta, run.meta["classes"]
    prior = gan_prior(run, "gmi")
    target, judge = classifier(run, "T", "bias_target"), classifier(run, "T", "bias_judge")
    brep = attack(
        "brepmi",
        identities=classes,
        **{name: meta[name] for name in ("points", "radius", "growth", "clip", "patience", "search_batch")},
        outside_only=meta["repulsion_only"],
    )
    identities = run["identities"]

    def numbers(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        if name == "search":
            return draw(f"{run.tag}/search/{step}", *shape)[None]
        return torch.stack([draw(f"{run.tag}/sphere/{identities[row]}/{step}", *shape) for row in rows])

    loop = Watched("latents", "radius", "done")
    victim = Victim.of(target, classes, Threat.LABELS)
    result = brep.invert(victim, prior, torch.arange(classes), draws(numbers, classes), loop)
    assert torch.equal(result.labels, identities)

    walk = [state for state in loop.before if "latents" in state]
    assert len(loop.before) - len(walk) == int(run["search_batches"])
    near(walk[0]["latents"], run["starts"], 0, "starts")
    for item, estimates in enumerate(run["estimates"].tolist()):
        path = torch.stack([state["latents"][item] for state in walk[:estimates]])
        radii = torch.stack([state["radius"][item] for state in walk[:estimates]])
        near(path, run["path"][item, :estimates], 2e-5, f"path of item {item}")
        near(radii, run["radius"][item, :estimates], 1e-4, f"radii of item {item}")
        assert not any(state["done"][item] for state in walk[:estimates])
        assert all(state["done"][item] for state in walk[estimates:])
    search = int(run["search_batches"]) * meta["search_batch"]
    assert victim.queries == int(result.queries.sum()) == int(run["queries"].sum()) + search

    grew = ~run["growth_point"].isnan().any(1)
    assert torch.equal(result.details["grew"], grew)
    near(result.latents[grew], run["growth_point"][grew], 2e-5, "points after the last growth")
    with torch.no_grad():
        final = F.adaptive_avg_pool2d(prior.generate(result.details["final_latents"]), 16)
        judged = judge(prior.generate(result.latents)).logits.argmax(1)
    near(final, run["final_image"], 2e-5, "pictures")
    assert torch.equal(torch.where(grew, judged, -1), run["judged"])
    success = (judged == identities) & ~result.details["failed"]
    assert torch.equal(success.long(), run["success"])


# RLB-MI


class RecordedAgent(SAC):
    """Starts from the recording's weights."""

    tag = "rlb/1"

    def initial(self, rng: Any, dim: int) -> dict[str, Tensor]:
        agents = super().initial(rng, dim)
        for network, inputs, outputs in (
            ("actor", dim, {"fc1": self.hidden, "fc2": self.hidden, "mu": dim, "log_std_linear": dim}),
            ("critic", 2 * dim, {"fc1": self.hidden, "fc2": self.hidden, "fc3": 1}),
        ):
            shapes = {}
            for layer, size in outputs.items():
                fan_in = inputs if layer == "fc1" else self.hidden
                shapes |= {f"{layer}.weight": (size, fan_in), f"{layer}.bias": (size,)}
            for name, value in filled(f"{self.tag}/{network}.", shapes).items():
                for copy in (network, "target") if network == "critic" else (network,):
                    mine = agents[f"{copy}.{name}"]
                    agents[f"{copy}.{name}"] = (
                        (value.T if value.ndim == 2 else value).reshape(mine.shape).clone()
                    )
        return agents


def test_rlbmi():
    """Rewards, tests, best latents, and all networks after the last update."""
    run = Recording.of("rlbmi")
    meta = run.meta
    prior = gan_prior(run, "gmi")
    victim = Victim.of(classifier(run, "T", "bias_target"), meta["classes"], Threat.SCORES)
    agent = RecordedAgent(
        hidden=meta["hidden"],
        lr=meta["lr"],
        discount=meta["discount"],
        tau=meta["tau"],
        target_entropy=None,
        noise="scalar",
        entropy="mean",
        critics="twins",
    )
    episodes = meta["episodes"]
    rlb = attack(
        "rlbmi",
        identities=1,
        episodes=episodes,
        batch_size=meta["batch"],
        mixing=meta["mixing"],
        draws="own",
        log_every=1,
    )
    rlb.agent = agent

    def numbers(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        if name.endswith((".weight", ".bias")):
            return torch.zeros(len(rows), *shape)
        if name == "batch":  # of which the places of the smallest are taken
            place = torch.empty(shape)
            place[pick(f"{run.tag}/batch/{step}", shape[0], shape[0])] = torch.arange(float(shape[0]))
            return place[None]
        if "state" in name:
            return draw(f"{run.tag}/{name}/{step}", 1, *shape)
        return draw(f"{run.tag}/{name}/{step}").expand(1, *shape)

    loop = Watched()
    result = rlb.invert(victim, prior, torch.tensor([meta["label"]]), draws(numbers, 1), loop)
    assert victim.queries == int(result.queries.sum()) == 2 * episodes
    rewards, curve = loop.state["replay.rewards"][0], result.details["confidence_curve"][0]
    size = run["rewards"].abs().clamp(min=1)
    near(rewards / size, run["rewards"] / size, 5e-4, "rewards")
    near(curve, run["curve"], 1e-5, "best confidences")
    near(result.latents[0], run["best_latent"], 1e-5, "result")
    better = [e for e in range(episodes) if e == 0 or curve[e] > curve[e - 1]]
    assert better == run["best_episodes"].tolist()
    near(loop.state["log_temperature"], run["log_alpha"], 1e-6, "log temperature")
    for name in (key.removeprefix("after.") for key in run.arrays if key.startswith("after.")):
        theirs = run[f"after.{name}"]
        ours = loop.state[name].reshape(theirs.shape[::-1])
        near(ours.T if ours.ndim == 2 else ours, theirs, 1e-5, name)


# KedMI and LOMMA


class GivenSurrogates(LommaSurrogates):
    """One student and the mean features, as recorded."""

    def __init__(self, run: Recording, *, double: bool):
        self.networks = torch.nn.ModuleDict({"s": classifier(run, "S", "bias_student", double=double)})
        self.register_buffer("feature_mean", run["feature_mean"])
        self.register_buffer("feature_std", run["feature_std"])


def pictures(prior: Any, latents: Tensor, labels: Tensor) -> Tensor:
    """Of latents [k, r, d] of labels [k], averaged to 8 px: [k, r, 3, 8, 8]."""
    with torch.no_grad():
        images = prior.generate(latents.flatten(0, 1), labels.repeat_interleave(latents.shape[1]))
    return F.adaptive_avg_pool2d(images, 8).unflatten(0, latents.shape[:2])


def target_logits(target: Any, prior: Any, latents: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        images = prior.generate(latents.flatten(0, 1), labels.repeat_interleave(latents.shape[1]))
        return target(images).logits.unflatten(0, latents.shape[:2])


def judged(run: Recording, prior: Any, latents: Tensor, labels: Tensor, *, group: int) -> Scores:
    """What the judge says of latents [k, r, d] by the protocol of KedMI and LOMMA, 8 bits
    enlarged to 112 px.
    """
    labels = labels.repeat_interleave(latents.shape[1])
    with torch.no_grad():
        images = prior.generate(latents.flatten(0, 1), labels)
    images = attack("kedmi").in_eight_bits(images)  # as this attack keeps them: truncated
    return evaluate(
        images,
        labels,
        classifier(run, "T", "bias_judge"),
        metrics={"top1": AttackAccuracy(k=1, group=group), "top5": AttackAccuracy(k=5, group=group)},
        image_to_evaluator=(EightBitResize(size=112),),
    )


def distributional(name: str, **options: Any) -> tuple[Recording, Any, Tensor, Tensor]:
    """KedMI's loop of the file ``name``: the file, the prior, latents [k, r, d] and labels [k]; mu, log_var,
    latents and pictures are compared.
    """
    run = Recording.of(name)
    meta = run.meta
    classes, group, restarts, steps = (meta[key] for key in ("classes", "group", "restarts", "steps"))
    prior = gan_prior(run, "kedmi", critic="discriminator")
    target = classifier(run, "T", "bias_target")
    kedmi = attack(
        "kedmi",
        identities=classes,
        lr=meta["lr"],
        identity_weight=meta["identity_weight"],
        restarts=restarts,
        group=group,
        steps=steps,
        clip=meta["clip"],
        **{key: value for key, value in options.items() if key == "identity_loss"},
    )
    kedmi.surrogates = options.get("surrogates", lambda run: None)(run)

    def numbers(rows: Tensor, kind: str, shape: Shape, step: int) -> Tensor:
        def of(row: int) -> Tensor:
            identity, restart = divmod(row, restarts)
            batch, place = divmod(identity, group)
            if kind == "draw":
                key = f"draw/{batch}/{step}"
            elif name == "kedmi":
                key = f"draw/{batch}/{steps + restart}"
            else:
                key = f"sample/{restarts * batch + restart}"
            return draw(f"{run.tag}/{key}", group, *shape)[place]

        return torch.stack([of(row) for row in rows.tolist()])

    loop = Watched()
    labels = torch.arange(classes)
    victim = Victim.of(target, classes)
    items = draws(numbers, classes * restarts)
    latents = kedmi.invert(victim, prior, labels.repeat_interleave(restarts), items, loop).latents
    assert victim.queries == classes * steps
    latents = latents.unflatten(0, (classes, restarts))
    mu, log_var = loop.state["gaussians"].unbind(1)
    near(mu, run["mu"], 5e-4, "mu")
    near(log_var, run["log_var"], 5e-4, "log_var")
    assert float((mu - run["mu"]).abs().median()) <= 1e-5
    near(latents, run["latents"], 5e-3, "latents")
    near(pictures(prior, latents, labels), run["pictures"], 2e-3, "pictures")
    theirs = run["target_logits"]
    near(target_logits(target, prior, latents, labels), theirs, 2e-3 * float(theirs.std()), "logits")
    return run, prior, latents, labels


def test_kedmi():
    """40 steps of two batches, five draws each, and the printed accuracies."""
    run, prior, latents, labels = distributional("kedmi")
    for batch, (accuracy, top5, variance, top5_variance) in enumerate(run["accuracy"].tolist()):
        part = slice(batch * run.meta["group"], (batch + 1) * run.meta["group"])
        found = judged(run, prior, latents[part], labels[part], group=len(labels)).numbers
        assert found["att_acc1"] == pytest.approx(100 * accuracy, abs=1e-4)
        assert found["att_acc5"] == pytest.approx(100 * top5, abs=1e-4)
        assert found["att_acc1_std"] == pytest.approx(100 * variance**0.5, abs=1e-3)
        assert found["att_acc5_std"] == pytest.approx(100 * top5_variance**0.5, abs=1e-3)


def test_lomma_kedmi():
    """Five batches under LOMMA's loss, with a student; the printed accuracy and its deviation."""
    run, prior, latents, labels = distributional(
        "lomma_kedmi",
        identity_loss=conf("attack", "lomma_kedmi")["identity_loss"],
        surrogates=lambda run: GivenSurrogates(run, double=False),
    )
    accuracy, deviation = run["accuracy"].tolist()
    found = judged(run, prior, latents, labels, group=run.meta["group"]).numbers
    assert found["att_acc1"] == pytest.approx(accuracy, abs=1e-4)
    assert found["att_acc1_batch_std"] == pytest.approx(deviation, abs=1e-4)


def test_lomma_gmi():
    """300 steps of momentum under LOMMA's loss, two seeds, float64."""
    run = Recording.of("lomma_gmi")
    meta = run.meta
    group, restarts = meta["group"], meta["restarts"]
    prior = gan_prior(run, "gmi", critic="critic", double=True)
    target = classifier(run, "T", "bias_target", double=True)
    gmi = attack(
        "gmi",
        identities=group,
        reference_batch=group,
        identity_loss=conf("attack", "lomma_gmi")["identity_loss"],
        **{name: meta[name] for name in ("restarts", "steps", "lr", "momentum", "clip", "identity_weight")},
    )
    gmi.surrogates = GivenSurrogates(run, double=True)

    def numbers(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        starts = [draw(f"{run.tag}/start/{restart}", group, *shape) for restart in range(restarts)]
        return torch.stack(starts, 1).flatten(0, 1)[rows].double()

    labels = torch.arange(group)
    items = draws(numbers, group * restarts)
    victim = Victim.of(target, meta["classes"])
    latents = gmi.invert(victim, prior, labels.repeat_interleave(restarts), items, Watched())
    latents = latents.unflatten(0, (group, restarts))
    near(latents, run["latents"], 1e-6, "latents")
    near(target_logits(target, prior, latents, labels), run["target_logits"], 1e-6, "logits")
    near(pictures(prior, latents, labels), run["pictures"], 1e-6, "pictures")


# PLG-MI


def view_numbers(parameters: Tensor, order: Tensor, view: RandomView, size: int) -> Tensor:
    """The uniform numbers [n, NUMBERS] from which ``view`` makes what kornia drew: ``parameters`` [n, 8] and
    the ``order`` [4] of the operations of its jitter.
    """
    top, left, side, jittered, brightness, contrast, mirrored, degrees = parameters.unbind(1)
    low, high = view.scale
    below = min(high, ((size - 0.5) / size) ** 2)
    share = ((side / size).square() - low) / (below - low)
    room = size - side + 1
    place = order.tolist().index
    clips_first = place(2) < min(place(0), place(1))
    number = (0 if place(0) < place(1) else 3) + (0 if clips_first else 1)
    numbers = (
        share.clamp(0, 1),
        (top + 0.5) / room,
        (left + 0.5) / room,
        1 - jittered,
        ((brightness - 1) / view.brightness + 1) / 2,
        ((contrast - 1) / view.contrast + 1) / 2,
        torch.full_like(top, (number + 0.5) / 6),
        1 - mirrored,
        (degrees == 0).to(top),
        (degrees / view.degrees + 1) / 2,
    )
    return torch.stack(numbers, 1)


def plgmi_view() -> RandomView:
    view = attack("plgmi").view
    view.jitter_p = view.flip_p = view.rotation_p = 0.5  # all decided by the recorded draws
    return view


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_plgmi_views(where: str):
    """Eight calls of kornia's chain on pictures within [0, 1], and on pictures beyond."""
    run = Recording.of("plgmi_views")
    view = plgmi_view()
    images = enlarged(unif(f"{run.tag}/images", run.meta["images"], 3, 16, 16), 4).double()
    if where == "outside":
        low, high = run.meta["outside"]
        images = low + (high - low) * images
    for parameters, order, theirs in zip(run["parameters"], run["order"], run[where], strict=True):
        ours = view(images, view_numbers(parameters, order, view, 64))
        near(ours[..., ::8, ::8], theirs, 1e-6, where)


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_plgmi(where: str):
    """20 steps of two views, of pictures in [0, 1] and as tanh leaves them; target, judge and accuracies."""
    run = Recording.of("plgmi_inversion" if where == "inside" else "plgmi_inversion_outside")
    meta = run.meta
    classes, restarts, steps = (meta[name] for name in ("classes", "restarts", "steps"))
    prior = gan_prior(run, "plgmi", double=True)
    if where == "inside":
        network = prior.generator
        prior.generate = lambda latents, labels=None: (network(latents, labels) + 1) / 2
    target = classifier(run, "T", "bias_target", double=True)
    plgmi = attack(
        "plgmi", identities=classes, restarts=restarts, steps=steps, lr=meta["lr"], reference_batch=classes
    )
    plgmi.view = view = plgmi_view()

    def numbers(rows: Tensor, name: str, shape: Shape, step: int) -> Tensor:
        pairs = [divmod(row, restarts) for row in rows.tolist()]
        if name == "start":
            return torch.stack([draw(f"{run.tag}/start/{r}", classes, *shape)[k] for k, r in pairs]).double()
        turn = int(name.removeprefix("view "))
        made = [
            view_numbers(
                run["view_parameters"][restart, step, turn, label][None],
                run["view_order"][restart, step, turn],
                view,
                64,
            )
            for label, restart in pairs
        ]
        return torch.cat(made)

    loop = Watched("latents")
    labels = torch.arange(classes)
    items = draws(numbers, classes * restarts)
    victim = Victim.of(target, classes)
    latents = plgmi.invert(victim, prior, labels.repeat_interleave(restarts), items, loop)
    latents = latents.unflatten(0, (classes, restarts))
    for number, done in enumerate((1, 5, 10)):
        path = loop.before[done]["latents"].unflatten(0, (classes, restarts)).transpose(0, 1)
        near(path, run["path"][:, number], 1e-4, f"latents after {done} steps")
    near(latents, run["latents"], 1e-4, "latents")
    near(target_logits(target, prior, latents, labels), run["target_logits"], 1e-3, "target's logits")
    near(pictures(prior, latents, labels), run["pictures"], 1e-4, "pictures")

    judge = classifier(run, "T", "bias_judge", double=True)
    with torch.no_grad():
        images = prior.generate(latents.flatten(0, 1), labels.repeat_interleave(restarts))
        logits = judge(AlignedResize(size=112)(images)).logits
    near(logits.unflatten(0, (classes, restarts)), run["judge_logits"], 1e-3, "judge's logits")
    accuracy, top5 = run["official"][:2].tolist()
    hits = logits.argmax(1) == labels.repeat_interleave(restarts)
    assert float(hits.double().mean()) == pytest.approx(accuracy)
    assert top5 == 1


# the protocol of KedMI, LOMMA and PLG-MI


def test_the_protocol_of_evaluation():
    """Accuracies with their deviations, KNN and Fréchet distance of 150 pictures of 30 identities."""
    run = Recording.of("lowres_metrics")
    meta = run.meta
    classes, restarts = meta["classes"], meta["restarts"]
    drawn = ints(f"{run.tag}/pictures", 256, classes * restarts, 3, 8, 8)
    images = enlarged(drawn, 8).to(torch.uint8)[run["order"]]
    private = enlarged(ints(f"{run.tag}/private", 256, 6 * classes, 3, 8, 8), 14).to(torch.uint8)
    labels = torch.arange(classes).repeat_interleave(restarts)
    judge = classifier(run, "E", "bias_judge")
    people = ImageSet(private, torch.arange(classes).repeat_interleave(6), ())
    steps = (EightBitResize(size=112),)
    group = meta["group"]
    metrics = {
        "top1": AttackAccuracy(k=1, group=group),
        "top5": AttackAccuracy(k=5, group=group),
        "knn": KnnDistance(),
    }
    ours = evaluate(images, labels, judge, private=people, metrics=metrics, image_to_evaluator=steps)
    assert torch.equal(ours.predicted, run["judged"])
    found = ours.numbers
    assert found["att_acc1"] == pytest.approx(meta["accuracy"], abs=1e-4)
    assert found["att_acc1_batch_std"] == pytest.approx(meta["deviation"], abs=1e-4)
    assert found["att_acc5"] == pytest.approx(meta["top5_of_all"], abs=1e-4)
    assert found["att_acc5_batch_std"] == pytest.approx(meta["top5_deviation_of_all"], abs=1e-4)
    assert found["knn_dist"] == pytest.approx(meta["knn"], rel=1e-5)

    with torch.no_grad():
        seen = judge(steps[0](images.float() / 255)).features
        real = judge(private.float() / 255).features
    near(seen[:, :8], run["features"], 1e-5, "features")
    near(real[:, :8], run["private_features"], 1e-5, "features of private pictures")
    hits, few = ours.predicted == labels, meta["frechet_dimensions"]
    assert int(hits.sum()) == meta["successful"]
    distance = frechet_distance(seen[hits][:, :few], real[:, :few])
    assert distance == pytest.approx(meta["frechet_successful"], rel=1e-5)


def test_the_frechet_distance_of_normal_clouds():
    run = Recording.of("lowres_metrics")

    def normal(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(state_of(f"{run.tag}/frechet.{name}").standard_normal(shape))

    first = normal("a", 300, 24) @ normal("A", 24, 24)
    second = normal("b", 200, 24) @ normal("B", 24, 24) + 0.3
    assert frechet_distance(first, second) == pytest.approx(run.meta["frechet_normal"], rel=1e-6)
