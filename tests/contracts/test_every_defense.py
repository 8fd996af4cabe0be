"""What holds for every defense. A new one adds a line to ``CASES``."""

from __future__ import annotations

import ast
import inspect
import itertools
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import (
    Batch,
    Defense,
    Informed,
    NoDef,
    PictureView,
    TrainingProgress,
    build_defense,
    compose,
)
from midre_exp.data.base import ImageSet
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.plan.choice import choice
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build, config_files
from midre_exp.plan.validate import is_line
from midre_exp.seeding import ItemRNG
from midre_exp.stages import make_plan
from midre_exp.targets.assemble import assemble
from midre_exp.targets.base import Classifier
from midre_exp.targets.shortcut import Shortcut
from tests.defenses.conftest import RECIPE, Colours, Others, Seen
from tests.defenses.networks import IMAGES, state, train_node
from tests.devices import CPU, CUDA, each_device, never_waiting

ROOT = CONF_DIR.parent
OWN_TARGET = (ROOT / "docs/own_model.md").read_text()


@dataclass(frozen=True)
class Case:
    """One defense of conf/defense, at scale mini and on a ResNet-18 where nothing else is said."""

    name: str
    label: str
    exclusive: set[str] = field(default_factory=set)
    null: dict[str, Any] | None = None  #: options that turn it off; None where the defense has none
    #: Networks that refuse it, each with its reason.
    refused: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


NO_SKIP = {"vgg16": "has none", "plain": "has none"}
DENSE = {"densenet121": "a DenseNet, whose last block has other shapes"}
CASES = [
    Case("nodef", "NoDef", null={}),
    Case("midre", "MIDRE [0.1, 0.4]", {"erase"}),  # no null: it refuses shares that erase nothing
    Case("fe", "FE 0.4", {"erase"}, {"share": 0}),
    Case("ee", "EE 40 %", {"sampler"}, {"share": 0}),
    Case("dcd", "DCD 10", null={"protected": 0}),
    Case("dpsgd", "DP-SGD [1, 1]", {"optimizer", "sampler"}),
    Case("early_stopping", "Early stopping 0.5", null={"share": 1}),
    Case("random_pixels", "Random pixels [0.1, 0.4]", {"erase"}),
    Case("rectangle", "Rectangle [0.1, 0.4]", {"erase"}),
    Case("disc", "Disc [0.1, 0.4]", {"erase"}),
    Case("blocks", "Blocks [0.1, 0.4]", {"erase"}),
    Case("gridmask", "GridMask [0.1, 0.4]", {"erase"}),
    Case("weight_decay", "Weight decay 0.0005", {"optimizer"}, {"weight_decay": None}),
    Case("cutmix", "CutMix", null={"p": 0}),
    Case("random_crop", "Random crop [0.5, 1]", null={"scale": [1, 1]}),
    Case("gaussian_blur", "Gaussian blur [0.1, 2]", null={"sigma": [0, 0]}),
    Case("nls", "NLS -0.05", {"base_loss"}, {"alpha": 0}),
    Case("bido", "BiDO-HSIC [0.05, 0.5]", {"sampler"}, {"lambda_x": 0, "lambda_y": 0}),
    Case(
        "bido_plus",
        "BiDO+ [0.05, 0.5]",
        {"sampler"},
        {"lambda_x": 0, "lambda_y": 0, "outlier_weight": 0},
    ),
    Case("mid", "MID 0.005", {"head"}, {"beta": 0, "eval_noise": "mean"}),
    Case("loft", "LoFt 12", {"head"}, {"rank": None}),
    Case("confidence_adaptation", "Confidence adaptation 8", {"base_loss"}, {"share": 0}),
    Case("tldmi", "TL-DMI layer3", {"freeze"}, {"cut": "none"}),
    Case("atat", "AT-AT 0.08, eps 1/255", null={"weight": 0}),
    Case("adversarial_training", "Adversarial training, eps 2/255", null={"eps": 0}),
    Case("trapmid", "Trap-MID [0.02, 0.2]", null={"beta": 0}),
    Case("rolss", "RoLSS", {"skip"}, refused=NO_SKIP),
    Case("ssf", "SSF 0.2", {"skip"}, {"k": 1}, NO_SKIP),
    Case("tts", "TTS", {"skip"}, {"k": 1}, {**NO_SKIP, **DENSE}),
    Case("labels_only", "Labels only"),
    Case("ssd", "SSD 0.5", null={"eps": 0}),
    Case("rounding", "Rounding 1", null={"decimals": None}),
    Case("top_k", "Top 3", null={"k": None}),
]
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
#: Pairs that take nothing of each other and are refused all the same, each with a word of the reason.
REFUSED_PAIRS = {
    frozenset({"dpsgd", "cutmix"}): "couples the images",
    frozenset({"dpsgd", "mid"}): "couples the images",
    frozenset({"trapmid", "bido_plus"}): "compares the images",
    frozenset({"fe", "ee"}): "ablation",
    frozenset({"early_stopping", "tts"}): "may end training before",
    frozenset({"labels_only", "rounding"}): "no decimals",
    frozenset({"labels_only", "top_k"}): "a label is answered",
    frozenset({"early_stopping", "confidence_adaptation"}): "may end training before",
    frozenset({"atat", "adversarial_training"}): "imperceptible pushes",
    frozenset({"atat", "fe"}): "squares it cannot know",
    frozenset({"adversarial_training", "fe"}): "squares it cannot know",
    frozenset({"atat", "trapmid"}): "without those of the other",
    frozenset({"adversarial_training", "trapmid"}): "forgets triggers",
    frozenset({"trapmid", "bido"}): "half of the images",
    frozenset({"trapmid", "bido_plus"}): "half of the images",
    frozenset({"trapmid", "dpsgd"}): "every forward apart",
    frozenset({"atat", "dpsgd"}): "every forward apart",
    frozenset({"adversarial_training", "dpsgd"}): "every forward apart",
    frozenset({"trapmid", "cutmix"}): "no trigger class",
    frozenset({"trapmid", "mid"}): "no checkpoint keeps",
}
OVERLAYS = {
    "midre_wide",
    "re",
    "bido_coco",
    "positive_label_smoothing",
    "groupnorm",
}  # other values of a defense of the list
FAMILIES = ("vgg16", "ir152", "resnet18", "densenet121", "maxvit")


class Plain(Classifier):
    """A network as a user writes it, with its head and its stages and nothing else."""

    head_name = "fc"

    def __init__(self, *, num_classes: int):
        super().__init__()
        self.set_normalisation(0.5, 0.5)
        self.first = nn.Conv2d(3, 8, 3, 2, 1)
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.fc = nn.Linear(16, num_classes)

    def stages(self) -> Iterator[Any]:
        yield "first", lambda x: self.first(x).relu()
        yield "second", self.second
        yield "pool", lambda x: x.mean((2, 3))


def of_the_readme() -> type[Classifier]:
    """The network that docs/own_model.md shows."""
    (code,) = re.findall(r"```python\n(# my_package/small.py\n.*?)```", OWN_TARGET, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    kind: type[Classifier] = names["Small"]
    return kind


OWN = {"plain": Plain, "readme": of_the_readme()}
NETWORKS = (*FAMILIES, *OWN)


def plain_network(num_classes: int) -> Classifier:
    return Plain(num_classes=num_classes)


def readme_network(num_classes: int) -> Classifier:
    return OWN["readme"](num_classes=num_classes)


def model_node(network: str) -> dict[str, Any]:
    if network in OWN:
        return {"_target_": f"{__name__}.{network}_network"}
    node: dict[str, Any] = choice("target", network, scale="mini")["model"]
    return node


def values(case: Case, target: str = "resnet18") -> dict[str, Any]:
    """The options of a defense at scale mini as its yaml has them for a target."""
    every = f"[{','.join(case.name for case in CASES)}]"  # composed once for all
    node: dict[str, Any] = choice("defense", every, scale="mini", target=target)[case.name]
    return node


def made(case: Case, **options: Any) -> Defense:
    defense: Defense = build({**values(case), **options})
    return defense


@pytest.fixture
def own_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The yaml that docs/own_model.md shows for a network of the user's own, in a config folder of theirs."""
    (yaml_,) = re.findall(r"```yaml\n(# my_conf/target/small.yaml\n.*?)```", OWN_TARGET, re.S)
    (tmp_path / "my_conf" / "target").mkdir(parents=True)
    (tmp_path / "my_conf" / "target" / "small.yaml").write_text(yaml_)
    monkeypatch.setenv("MIDRE_CONF", str(tmp_path / "my_conf"))
    return "small"


def step(
    defense: Defense,
    device: torch.device = CPU,
    watched: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> dict[str, Any]:
    """What one training step under a defense sees and computes, from the same start every time; ``watched``:
    a context of the step itself.
    """
    parts = compose(it=defense)
    recipe = parts.recipe({**RECIPE, "epochs": 10})
    model = assemble({"model": model_node("resnet18")}, 3, parts, seed=0).eval()
    progress = TrainingProgress(epoch=9, epochs=10)
    parts.on_other_people(Others().load("train"), seed=0)
    data = parts.on_dataset(Colours().load("train"), seed=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        own = parts.state(model)
    for module in (model, own):
        if module is not None:
            module.to(device)
    generator = torch.Generator().manual_seed(0)
    parts.on_epoch(model, progress)
    index = torch.arange(6)
    whole = Batch(*(part.to(device) for part in (data.images[index] / 255, data.labels[index], index)))
    with watched():
        batch = parts.on_batch(whole, model, progress, generator)
        batch = parts.before_step(batch, model, progress, generator)
        output = model(batch.images, tuple(parts.taps(model)))
        base = parts.base_loss(output, batch, progress)
        base = F.cross_entropy(output.logits, batch.targets) if base is None else base
        extras = parts.extra_losses(output, batch, progress, classify=model, generator=generator)
        extra = sum(extras.values())
        reported = parts.reports(output, batch)
    probabilities, shown = output.logits.detach().softmax(1), (255 * whole.images).byte()
    parts.deploy(parts.calibrate(probabilities, shown, whole.labels, key="it"), key="it")
    with watched():
        answers = parts.answer(probabilities, whole.images)
    return {
        "answers": answers,
        "images": batch.images,
        "targets": batch.targets,
        "extra": extra,
        "companions": None if batch.companions is None else batch.companions.images,
        "reported": reported,
        "state": own,
        "loss": base,
        "trains": parts.trainable(model),
        "recipe": recipe,
        "epochs": parts.trained_epochs(10),
        "drawn": generator.get_state(),
        "logits": output.logits,
    }


# -- values, names and options --


def test_every_config_is_in_the_list() -> None:
    assert {case.name for case in CASES} | OVERLAYS == set(config_files("defense"))


@EVERY
def test_its_yaml_builds_it_with_its_label(case: Case) -> None:
    defense = made(case)
    assert (defense.label, defense.exclusive) == (case.label, case.exclusive)
    assert pickle.loads(pickle.dumps(defense)).label == case.label  # another process can be handed it


@EVERY
def test_every_option_is_a_field_with_a_line_of_its_own_and_stands_in_the_yaml(case: Case) -> None:
    kind = type(made(case))
    if kind is NoDef:
        return
    assert is_dataclass(kind)
    options = {option.name for option in fields(kind) if option.init}
    assert set(values(case)) - {"_target_"} == options
    sources = [inspect.getsource(base) for base in kind.__mro__ if is_dataclass(base)]
    lines = "\n".join(sources).splitlines()
    documented = {m[1] for line in lines if (m := re.match(r" {4}(\w+): .*  # \S", line))}
    above = pairwise(lines)
    documented |= {
        m[1] for told, line in above if told.startswith("    #: ") and (m := re.match(r" {4}(\w+): ", line))
    }
    assert options <= documented
    text = (CONF_DIR / "defense" / f"{case.name}.yaml").read_text()
    assert all(re.search(rf"^  {option}:", text, re.M) for option in options)


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(CASES, 2)), ids=str)
def test_two_that_take_the_same_are_refused_and_others_compose(one: Case, two: Case) -> None:
    parts = {case.name: made(case) for case in (two, one)}
    if shared := one.exclusive & two.exclusive:
        with pytest.raises(
            ConfigError, match=f"defenses {two.name} and {one.name} both set the {min(shared)}"
        ):
            compose(**parts)
    elif reason := REFUSED_PAIRS.get(frozenset({one.name, two.name})):
        with pytest.raises(ConfigError, match=rf"defenses \w+ and \w+ contradict each other: .*{reason}"):
            compose(**parts)
    else:
        both = compose(**parts)
        assert both.exclusive == one.exclusive | two.exclusive
        labels = [case.label for case in (two, one) if case.name != "nodef"]
        assert both.label == " + ".join(labels)


# -- the null setting --


@pytest.mark.parametrize("case", [case for case in CASES if case.null is not None], ids=str)
def test_its_null_setting_is_nodef(case: Case) -> None:
    null, plain = step(made(case, **case.null or {})), step(NoDef())
    if case.name == "mid":  # a new head has other weights
        null |= {name: plain[name] for name in ("logits", "loss", "answers")}
    for name, expected in plain.items():
        assert (
            torch.equal(null[name], expected) if isinstance(expected, Tensor) else null[name] == expected
        ), name


@EVERY
def test_its_values_are_no_null_setting(case: Case) -> None:
    if case.name == "ee":  # acts on the batches
        labels = torch.arange(3).repeat(6)
        assert made(case).sampler(labels, batch_size=6, seed=0, drop_last=False) is not None
    elif case.name == "dcd":  # acts on the data set
        defense, train = made(case), Colours().load("train")
        defense.on_other_people(Others().load("train"), seed=0)
        assert len(defense.on_dataset(train, seed=0)) > len(train)
    elif case.name != "nodef":
        ours, plain = step(made(case)), step(NoDef())
        assert any(
            not torch.equal(ours[name], value) if isinstance(value, Tensor) else ours[name] is not value
            for name, value in plain.items()
        )


@EVERY
def test_a_step_draws_from_its_generator_alone(case: Case) -> None:
    torch.manual_seed(1)
    first = step(made(case))
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = step(made(case))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first["images"], again["images"]) and torch.equal(first["loss"], again["loss"])


@pytest.mark.gpu
@EVERY
def test_a_step_on_a_gpu_stays_there_and_never_waits_for_it(case: Case) -> None:
    step(made(case), CUDA)  # the first may load kernels
    done = step(made(case), CUDA, never_waiting)
    on_device = ("images", "targets", "loss", "logits", "answers")
    assert {done[name].device.type for name in on_device} == {"cuda"}
    assert bool((done["loss"] + done["extra"]).isfinite())


# -- training --


@EVERY
@pytest.mark.parametrize("network", NETWORKS)
def test_it_trains_on_every_network_or_is_refused_by_name(
    network: str, case: Case, tmp_path: Path, own_target: str
) -> None:
    defense = build(values(case, own_target if network in OWN else network))
    recipe = {"epochs": 2 if case.name == "tts" else 1, "batch_size": 9}

    def trained() -> dict[str, float]:
        _, numbers, history = train_node(tmp_path, model_node(network), recipe, **{case.name: defense})
        assert len(history) == defense.trained_epochs(recipe["epochs"]) and all(
            torch.tensor(epoch["loss"]).isfinite() for epoch in history
        )
        return numbers

    if network in case.refused:
        with pytest.raises(ConfigError, match=f"defense.{case.name}.*{case.refused[network]}"):
            trained()
    else:
        assert trained()["parameters_trained"] > 0


@each_device
@EVERY
def test_a_killed_training_resumes_and_its_weights_reload_to_identical_logits(
    case: Case, tmp_path: Path, device: torch.device
) -> None:
    epochs = 3 if case.name == "early_stopping" else 2  # two are trained
    recipe, node = {"epochs": epochs, "batch_size": 9}, model_node("resnet18")

    def train(folder: str, **more: Defense) -> tuple[Classifier, dict[str, float], list[dict[str, float]]]:
        options = {case.name: made(case), **more}
        return train_node(tmp_path / folder, node, recipe, device=device, **options)

    whole, _, history = train("whole")
    with pytest.raises(RuntimeError, match="killed"):
        train("broken", seen=Seen(killed_at=1))
    resumed, _, again = train("broken")
    if device == CPU:
        assert torch.equal(state(whole), state(resumed)) and history == again
    else:  # adds up in any order
        torch.testing.assert_close(state(whole), state(resumed), rtol=1e-2, atol=1e-2)
    defense = compose(it=made(case))
    reloaded = assemble({"model": node}, 3, defense, seed=9)
    reloaded.load_state_dict(whole.state_dict(), strict=True)
    reloaded.to(device)
    with torch.no_grad():
        for model in (reloaded, whole):  # noise outside training starts from its beginning
            defense.on_inference(model)
        images = IMAGES.to(device)
        torch.testing.assert_close(reloaded.eval()(images).logits, whole(images).logits, rtol=0, atol=0)


# -- what an attacker does who knows it --

#: What it gives an informed attacker; the others have nothing to give.
GIVES = {
    "midre": {"views"},
    "fe": {"views"},
    "random_pixels": {"views"},
    "rectangle": {"views"},
    "disc": {"views"},
    "blocks": {"views"},
    "gridmask": {"views"},
    "cutmix": {"views"},
    "random_crop": {"views"},
    "gaussian_blur": {"views"},
    "nls": {"identity_loss", "score"},
    "mid": {"target"},
    "loft": {"target"},
    "confidence_adaptation": {"identity_loss", "score"},
    "rolss": {"target"},
    "ssf": {"target"},
    "tts": {"target"},
    "ssd": {"asked"},
    "trapmid": {"views"},
    "atat": {"views"},
    "adversarial_training": {"views"},
}
#: Views that are the attacker's own, and no law of the training.
OWN_VIEWS = {"trapmid", "atat", "adversarial_training"}
VIEWED = pytest.mark.parametrize(
    "case", [case for case in CASES if GIVES.get(case.name) == {"views"}], ids=str
)


def known(case: Case, **options: Any) -> tuple[Informed, Classifier]:
    parts = compose(**{case.name: made(case, **options)})
    model = assemble({"model": model_node("resnet18")}, 3, parts, seed=0)
    parts.on_inference(model)
    return parts.informed(model.eval()), model


@EVERY
def test_it_says_what_an_attacker_does_who_knows_it_and_why(case: Case) -> None:
    found, _ = known(case)
    gives = {name for name in ("views", "identity_loss", "score", "target", "asked") if getattr(found, name)}
    assert gives == GIVES.get(case.name, set()) and not found.silent
    told = found.told()
    (reason,) = told["reasons"].values()
    assert list(told["reasons"]) == [case.name] and is_line(reason) and len(reason) > 20
    names = [
        *told["views"],
        *told["target"],
        *told.get("asked", ()),
        told["identity_loss"] or "-",
        told["score"] or "-",
    ]
    assert all(is_line(name) and "0x" not in name for name in names)


@pytest.mark.parametrize("case", [case for case in CASES if case.null is not None], ids=str)
def test_nothing_is_to_be_known_of_its_null_setting(case: Case) -> None:
    found, model = known(case, **case.null or {})
    assert not (found.views or found.identity_loss or found.score or found.target or found.asked)
    assert found.network(model) is model


def two_faces(size: int = 16) -> Tensor:
    """Two pictures of 8 bits as floats, [2, 3, size, size]."""
    drawn = torch.randint(0, 256, (2, 3, size, size), generator=torch.Generator().manual_seed(0))
    return drawn.float() / 255


def viewed(case: Case, images: Tensor, rng: ItemRNG) -> Tensor:
    found, _ = known(case)
    (view,) = found.views
    if isinstance(view, PictureView):
        view.pictures = two_faces(images.shape[-1])
    return view(images, rng, "copies", 0)


@VIEWED
def test_its_view_changes_images_by_the_law_of_its_training(case: Case) -> None:
    if case.name in OWN_VIEWS:
        return
    n = 1500
    images = two_faces().repeat_interleave(n, 0)
    _, model = known(case)
    defense, labels = made(case), torch.arange(2).repeat_interleave(n)
    data = defense.on_dataset(ImageSet((255 * images).round().byte(), labels, ("a", "b")), seed=0)
    batch = Batch(data.images / 255, labels, torch.arange(2 * n))
    progress = TrainingProgress(epoch=0, epochs=1)
    trained = defense.on_batch(batch, model, progress, torch.Generator().manual_seed(0)).images
    ours = viewed(case, images, ItemRNG(0, "law", items=torch.arange(2 * n)))
    for one, other in ((trained[:n], ours[:n]), (trained[n:], ours[n:])):
        for power in (1, 2):
            a, b = one.double() ** power, other.double() ** power
            error = ((a.var(0) + b.var(0)) / n).sqrt()
            assert bool(((a.mean(0) - b.mean(0)).abs() <= 5 * error + 1e-4).all())


@VIEWED
def test_its_view_changes_an_image_alike_in_any_company_and_gradients_pass_it(case: Case) -> None:
    images, rng = torch.rand(5, 3, 16, 16), ItemRNG(0, "test", items=torch.arange(5))
    whole = viewed(case, images, rng)
    torch.testing.assert_close(viewed(case, images[3:], rng[3:]), whole[3:])
    assert not torch.allclose(whole, images)
    alone = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(viewed(case, alone, rng)[2].sum(), alone)
    assert bool(gradient[2].any()) and not bool(gradient[[0, 1, 3, 4]].any())
    same = viewed(case, images[:1].repeat(3, 1, 1, 1), rng[:1].repeated(3))
    assert torch.equal(same[0], same[2])  # as in a selection, where all are changed alike


# -- values that belong to a network --

VALUES = json.loads((Path(__file__).parents[1] / "golden" / "defense_values.json").read_text())


@pytest.mark.parametrize("which", VALUES)
def test_every_target_has_the_values_of_the_paper(which: str) -> None:
    target, scale = which.split()
    names = ("bido", "mid", "rolss", "ssf", "tts", "tldmi")
    with packaged_configs():
        settings = settings_of([f"target={target}", f"scale={scale}", f"defense=[{','.join(names)}]"])
    parts = {name: build(settings["defense"][name]) for name in names}
    found: dict[str, Any] = {name: {"label": part.label} for name, part in parts.items()}
    with torch.device("meta"):
        model: Classifier = build(settings["target"]["model"], num_classes=10)
    found["bido"]["taps"] = list(parts["bido"].taps(model))
    trains, usual = parts["tldmi"].trainable(model), settings["target"]["recipe"]
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    found["tldmi"]["trained"] = sum(sizes[name] for name in trains)
    recipe = parts["tldmi"].recipe(usual)
    found["tldmi"]["recipe"] = {key: value for key, value in recipe.items() if value != usual[key]}
    for name in ("rolss", "ssf"):
        with torch.device("meta"):
            model = build(settings["target"]["model"], num_classes=10)
            try:
                parts[name].modify_backbone(model)
            except ConfigError:
                found[name] = "refused"
                continue
        k = getattr(parts[name], "k", 0.0)
        scaled = [path for path, m in model.named_modules() if isinstance(m, Shortcut) and m.k == k]
        numbers = sum(parameter.numel() for parameter in model.parameters())
        found[name] |= {"k": k, "shortcuts": scaled, "parameters": numbers, "fresh": list(model.fresh)}
    assert parts["tts"].stages == parts["ssf"].stages == parts["rolss"].stages
    assert {name: row for name, row in found.items() if name != "tts"} == VALUES[which]


def test_values_of_defenses_that_are_not_there_enter_no_key(tiny: Any) -> None:
    def keys(*overrides: str) -> dict[str, str]:
        plan = make_plan(tiny("target=ir152", "evaluator=facenet112", *overrides))
        return {name: stage.key for name, stage in plan.stages.items()}

    tuned = "target.defense_defaults.bido.lambda_x=0.1"
    assert keys(tuned) == keys()
    assert keys("defense=bido", tuned)["target"] != keys("defense=bido")["target"]


# -- by name, and without networks --


def test_one_or_several_are_built_by_name_with_their_options_replaced() -> None:
    assert build_defense("midre_wide", scale="mini").label == "MIDRE [0.1, 0.8]"
    assert build_defense("midre", a_h=0.3, a_l=0.3).label == "RE 0.3"
    assert build_defense("bido_coco").label == "BiDO-COCO [1, 50]"
    assert build_defense("tldmi", target="vgg16").label == "TL-DMI block4:1/3"
    both = build_defense(["midre", "nls"], midre={"a_h": 0.8})
    assert both.label == "MIDRE [0.1, 0.8] + NLS -0.05"


@pytest.mark.parametrize(
    ("names", "options", "named"),
    [
        ("midere", {}, "defense midere is unknown; known defenses: .*midre"),
        ("midre", {"size": 1}, "defense midre has no option size; it has: a_h, a_l"),
        ("midre", {"_target_": "os.system"}, "has no option _target_"),
        (["midre", "nls"], {"a_h": 0.8}, "a_h is none of the composed defenses midre, nls"),
        (["midre", "fe"], {}, "both set the erase"),
    ],
)
def test_mistakes_are_told_in_one_sentence(names: Any, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as error:
        build_defense(names, **options)
    assert "\n" not in str(error.value)


def test_importing_every_defense_loads_no_network() -> None:
    code = (
        "import sys, defenses; [getattr(defenses, name) for name in dir(defenses)]; "
        "networks = ('timm', 'torchvision', 'midre_exp.targets.architectures.'); "
        "print([name for name in sys.modules if name.startswith(networks)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert ast.literal_eval(done.stdout) == []


@EVERY
def test_a_training_that_diverges_is_told_with_its_epoch_and_leaves_nothing(case, tmp_path):
    optimizer = {"_target_": "torch.optim.SGD", "lr": 1e30}
    node = {**model_node("resnet18"), "width": 0.125}
    with pytest.raises(DivergedError, match=r"diverged in epoch 1 of 3 .*(nan|inf).*; lower .*lr"):
        train_node(tmp_path / "work", node, {"optimizer": optimizer}, it=made(case))
    assert not (tmp_path / "work" / "last.ckpt").exists()
