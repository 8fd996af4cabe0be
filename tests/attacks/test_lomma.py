from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor, nn

from attacks.gmi import GMI
from attacks.kedmi import KedMI
from attacks.lomma import LogitLoss
from attacks.losses import feature_regulariser, logit_identity
from midre_exp.attack import NOT_OPTIONS
from midre_exp.data.base import ImageSet, to_float
from midre_exp.errors import CheckpointError, ConfigError, DivergedError, UserError
from midre_exp.numerics import Numerics
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import CONF_DIR, build, plain, without
from midre_exp.run import run
from midre_exp.runtime import Runtime
from midre_exp.seeding import ItemRNG
from midre_exp.surrogates.base import initial_surrogates
from midre_exp.surrogates.lomma import LommaSurrogates, distillation_loss
from midre_exp.surrogates.student import Student
from midre_exp.targets.base import Output
from midre_exp.threat import Threat, Victim
from midre_exp.weights import checkpoint
from midre_exp.weights.state_dict import load_backbone
from tests.golden.fill import golden
from tests.priors.small import Killed, same


def small(**changes) -> LommaSurrogates:
    """The surrogates of conf/attack/surrogates/lomma.yaml, made tiny."""
    node = {
        **plain(OmegaConf.load(CONF_DIR / "attack" / "surrogates" / "lomma.yaml")),
        "students": ["b0", "b1"],
        "width": 0.125,
        "depth": 0.25,
        "weights": None,
        "steps": 4,
        "batch_size": 8,
        "statistics_images": 300,
        **changes,
    }
    made = initial_surrogates(node, num_classes=3)
    assert isinstance(made, LommaSurrogates)
    return made


def loss(**changes) -> LogitLoss:
    node = plain(OmegaConf.load(CONF_DIR / "attack" / "lomma_gmi.yaml").identity_loss)
    return build({**node, **changes})


def public(n: int = 40, size: int = 32) -> ImageSet:
    images = torch.randint(0, 256, (n, 3, size, size), generator=torch.Generator().manual_seed(0))
    return ImageSet(images.to(torch.uint8), torch.zeros(n, dtype=torch.int64), ("somebody",))


class Colours(nn.Module):
    """A target that answers by the mean of each colour."""

    def forward(self, images, taps=()):
        features = images.mean((2, 3))
        return Output(40 * features, features)


def victim(threat=Threat.WHITE_BOX):
    return Victim.of(Colours(), 3, threat)


def prepared(**changes) -> LommaSurrogates:
    made = small(**changes).eval().requires_grad_(False)
    made.feature_mean, made.feature_std = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.3])
    return made


def rng(n: int) -> ItemRNG:
    return ItemRNG(0, "attack", items=torch.arange(n))


def of(found: LogitLoss, surrogates: LommaSurrogates | None, images: Tensor, step: int = 0) -> Tensor:
    labels = torch.arange(len(images)) % 3
    return found(victim(), surrogates, images, labels, rng(len(images)), step)


IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(5) % 3

# the identity loss


def test_the_mean_over_a_batch_is_the_official_loss():
    surrogates = prepared()
    output = Colours()(IMAGES)
    answers = [output.logits, *(student(IMAGES).logits for student in surrogates.networks.values())]
    expected = sum(F.nll_loss(answer, LABELS) for answer in answers) / 3
    expected = expected + 0.5 * (output.features - surrogates.feature_mean).pow(2).mean()
    found = of(loss(regulariser=0.5), surrogates, IMAGES)
    assert found.shape == (5,)
    torch.testing.assert_close(found.mean(), expected)


def test_the_parts_of_lomma_are_options():
    alone = prepared(students=[])
    output = Colours()(IMAGES)
    ask_logit = of(loss(regulariser=0.0), alone, IMAGES)
    torch.testing.assert_close(ask_logit, -output.logits[torch.arange(5), LABELS])
    baseline = of(loss(criterion="cross_entropy", regulariser=0.0), alone, IMAGES)
    torch.testing.assert_close(baseline, F.cross_entropy(output.logits, LABELS, reduction="none"))
    augmented = of(loss(criterion="cross_entropy", regulariser=0.0), prepared(students=["b0"]), IMAGES)
    assert not torch.allclose(augmented, baseline)


def test_the_regulariser_is_drawn_from_each_item_s_own_stream_where_the_paper_says_so():
    surrogates, sampling = prepared(students=[]), loss(p_reg="sample")
    first, second = (of(sampling, surrogates, IMAGES, step) for step in (0, 1))
    assert not torch.allclose(first, second)
    assert torch.equal(first, of(sampling, surrogates, IMAGES, 0))
    noise = rng(5).normal("p_reg", 3, step=1)
    towards = surrogates.feature_mean + surrogates.feature_std * noise
    output = Colours()(IMAGES)
    expected = logit_identity(output.logits, LABELS) + (output.features - towards).square().mean(1)
    torch.testing.assert_close(second, expected)
    surrogates.feature_std.zero_()
    torch.testing.assert_close(of(sampling, surrogates, IMAGES), of(loss(), surrogates, IMAGES))


def test_an_item_has_the_same_loss_in_any_batch():
    surrogates = prepared()
    together = of(loss(), surrogates, IMAGES)
    alone = [
        loss()(victim(), surrogates, IMAGES[i : i + 1], LABELS[i : i + 1], rng(5)[i : i + 1], 0)
        for i in range(5)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-4, atol=1e-4)


def test_gradients_raise_the_label_and_pull_features_to_the_statistics():
    logits, features = torch.randn(4, 3, requires_grad=True), torch.randn(4, 6, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    (raised,) = torch.autograd.grad(logit_identity(logits, labels).sum(), logits)
    torch.testing.assert_close(raised, -F.one_hot(labels, 3).float())
    towards = torch.ones(6)
    (pulled,) = torch.autograd.grad(feature_regulariser(features, towards).sum(), features)
    torch.testing.assert_close(pulled, 2 / 6 * (features - towards))


def test_images_get_gradients_through_every_model_and_students_none():
    surrogates = prepared()
    images = IMAGES.clone().requires_grad_()
    of(loss(), surrogates, images).sum().backward()
    assert (images.grad != 0).any()
    assert all(p.grad is None for p in surrogates.parameters())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"criterion": "margin"}, "criterion=margin is unknown; use logit or cross_entropy"),
        ({"p_reg": "median"}, "p_reg=median is unknown; use mean or sample"),
        ({"regulariser": -1.0}, "regulariser=-1.0 must not be negative"),
    ],
)
def test_unknown_choices_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        loss(**changes)


def test_without_surrogates_the_loss_says_what_is_missing():
    with pytest.raises(ConfigError, match=r"set attack\.surrogates"):
        of(loss(), None, IMAGES)


# distillation


def test_the_distillation_loss_matches_the_golden_numbers():
    values = golden("lomma_distillation")
    student, teacher = torch.tensor(values["student_logits"]), torch.tensor(values["teacher_logits"])
    for temperature, expected in values["value_by_temperature_official"].items():
        found = distillation_loss(student, teacher, float(temperature))
        assert found.item() == pytest.approx(expected, rel=1e-5)
    assert distillation_loss(teacher + 3.0, teacher, 1.0).item() == pytest.approx(0.0, abs=1e-6)


def test_students_are_torchvision_s_networks_under_the_official_names():
    from torchvision.models import efficientnet_b2

    theirs, ours = efficientnet_b2().state_dict(), Student(name="b2", num_classes=7).state_dict()
    renamed = {Student.own_key(key): value.shape for key, value in theirs.items()}
    renamed.pop(None)
    shapes = {key: value.shape for key, value in ours.items() if not key.startswith("fc_layer.")}
    assert shapes == renamed
    assert ours["fc_layer.weight"].shape == (7, 1408)
    assert {key.split(".")[0] for key in ours} == {"feature", "fc_layer"}


def test_public_weights_of_torchvision_load_into_a_student_but_for_its_head(tmp_path):
    from torchvision.models import efficientnet_b0

    source = efficientnet_b0(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "b0.pth")
    student = Student(name="b0", num_classes=5)
    kept = load_backbone(student, str(tmp_path / "b0.pth")).kept
    assert set(kept) == {"fc_layer.weight", "fc_layer.bias"}
    images = torch.rand(2, 3, 32, 32)
    pooled = source.eval().avgpool(source.features(images)).flatten(1)
    torch.testing.assert_close(student.eval()(images).features, pooled)


@pytest.mark.parametrize("stem", ["imagenet", "small"])
def test_reduced_students_work_at_32_pixels(stem):
    student = Student(name="b1", num_classes=4, width=0.125, depth=0.25, stem=stem)
    student(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    side = {"imagenet": 1, "small": 2}[stem]
    assert student.feature[0](torch.rand(2, 3, 32, 32)).shape[2:] == (side, side)


# the stage


def test_a_killed_distillation_continues_to_the_same_bytes_without_asking_again(tmp_path):
    whole, broken, continued = small(), small(), small()
    runtime, target = Runtime(checkpoint_seconds=0), victim()
    numbers = whole.fit(public(), target, seed=3, work=tmp_path / "whole", runtime=runtime)
    assert target.queries == 40
    assert set(numbers) == {"queries", "distillation_b0", "distillation_b1"} and numbers["queries"] == 40
    work = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        broken.fit(
            public(),
            victim(),
            seed=3,
            work=work,
            runtime=Killed(checkpoint_seconds=0, at=3, title="distilling"),
        )
    assert checkpoint.load(work / "students.pt")["step"] == 3
    torch.manual_seed(5)  # what others draw plays no part
    again = victim()
    assert continued.fit(public(), again, seed=3, work=work, runtime=runtime) == numbers
    assert again.queries == 0
    assert same(continued, whole) and not same(broken, whole)


def test_a_student_learns_what_it_would_learn_alone(tmp_path):
    # one step: later ones draw stochastic depth in turn
    both, alone = small(steps=1), small(steps=1, students=["b0"])
    alone.networks.load_state_dict(both.networks.state_dict(), strict=False)
    for name, made in (("both", both), ("alone", alone)):
        made.fit(public(), victim(), seed=0, work=tmp_path / name, runtime=Runtime())
    assert same(both.networks["b0"], alone.networks["b0"])


def test_a_student_comes_to_answer_like_the_target(tmp_path):
    colours = torch.randint(0, 256, (90, 3, 1, 1), generator=torch.Generator().manual_seed(0))
    images = colours.to(torch.uint8).expand(90, 3, 32, 32).contiguous()
    shown = ImageSet(images, torch.zeros(90, dtype=torch.int64), ("somebody",))
    made = small(students=["b0"], steps=40, batch_size=30, lr=0.1)
    made.fit(shown, victim(), seed=0, work=tmp_path, runtime=Runtime())
    assert not made.training
    with torch.no_grad():
        answers = made.networks["b0"](to_float(images)).logits.argmax(1)
    wanted = colours.flatten(1).argmax(1)
    assert (answers == wanted).float().mean() > 0.7  # a third by chance


def test_distillation_in_bf16_rounds_and_learns_alike(tmp_path):
    losses = []
    for numerics in (Numerics(), Numerics(precision="bf16", channels_last=True)):
        made, runtime = small(students=["b0"]), Runtime(numerics=numerics)
        numbers = made.fit(public(), victim(), seed=0, work=tmp_path / str(numerics), runtime=runtime)
        losses.append(numbers["distillation_b0"])
    assert {value.dtype for value in made.networks.parameters()} == {torch.float32}
    assert (
        losses[0] != losses[1] == pytest.approx(losses[0], rel=0.15)
    )  # batch norm of eight images amplifies


@pytest.mark.parametrize("students", [[], ["b0"]])
def test_the_statistics_are_mean_and_deviation_of_as_many_public_images(tmp_path, students):
    images, target = public(600, size=2), victim()
    made = small(students=[], statistics_images=300)
    if students:
        images = public(40)
        made = small(students=students, statistics_images=1000, steps=1)
    made.fit(images, target, seed=0, work=tmp_path, runtime=Runtime())
    if students:  # fewer images than asked for: all of them
        features = to_float(images.images).mean((2, 3))
        torch.testing.assert_close(made.feature_mean, features.mean(0))
        torch.testing.assert_close(made.feature_std, features.std(0))
    else:
        assert target.queries == 300
        features = to_float(images.images).mean((2, 3))
        # 300 of 600: within 4 deviations of the mean of a sample
        assert ((made.feature_mean - features.mean(0)).abs() < 4 * features.std(0) / 300**0.5).all()
        assert not torch.allclose(made.feature_mean, features[:300].mean(0))  # shuffled


def test_each_image_keeps_its_own_answer(tmp_path):
    images = public()
    small(steps=1).fit(images, victim(), seed=0, work=tmp_path, runtime=Runtime())
    logits = checkpoint.load(tmp_path / "answers.pt")["logits"]
    torch.testing.assert_close(logits, Colours()(to_float(images.images)).logits)


def test_the_state_dict_of_prepared_surrogates_restores_them(tmp_path):
    made = small()
    made.fit(public(), victim(), seed=0, work=tmp_path, runtime=Runtime())
    again = small(seed=1)
    again.restore(made.state_dict())
    assert same(made, again) and again.feature_mean.shape == (3,)


def test_published_students_and_statistics_replace_preparation(tmp_path):
    source, paths = small(seed=9), {}
    for name, student in source.networks.items():
        paths[name] = str(tmp_path / f"{name}.tar")
        torch.save({"state_dict": {f"module.{k}": v for k, v in student.state_dict().items()}}, paths[name])
    paths["p_reg"] = str(tmp_path / "p_reg.pt")
    torch.save({"fea_mean": torch.ones(3), "fea_logvar": torch.full((3,), 2.0)}, paths["p_reg"])
    made = small(pretrained=paths)
    assert made.fit(public(), victim(), seed=0, work=tmp_path, runtime=Runtime()) == {"queries": 40}
    assert same(made.networks, source.networks)
    assert made.feature_mean.tolist() == [1, 1, 1] and made.feature_std.tolist() == [2, 2, 2]

    torch.save({"fea_mean": torch.ones(4), "fea_logvar": torch.ones(4)}, paths["p_reg"])
    with pytest.raises(CheckpointError, match=r"statistics \[4\], but the target's features are \[3\]"):
        small(pretrained=paths).fit(public(), victim(), seed=0, work=tmp_path, runtime=Runtime())
    torch.save({"mean": torch.ones(3)}, paths["p_reg"])
    with pytest.raises(CheckpointError, match="instead of fea_mean and fea_logvar"):
        small(pretrained=paths).fit(public(), victim(), seed=0, work=tmp_path, runtime=Runtime())


def test_the_learning_rate_is_halved_every_so_many_epochs(tmp_path, monkeypatch):
    rates = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: (rates.append(self.param_groups[0]["lr"]), step(self))
    )
    made = small(students=["b0"], epochs=3, steps=None, lr_epochs=2, lr=0.4, batch_size=20)
    made.fit(public(), victim(), seed=0, work=tmp_path, runtime=Runtime())
    assert rates == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.2, 0.2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"students": ["b9"]}, "student b9 is unknown"),
        ({"stem": "large"}, "surrogates.stem=large is unknown"),
        ({"width": 0.0}, "surrogates.width=0.0"),
        ({"steps": 0}, "surrogates.steps=0 must be at least 1"),
        ({"temperature": 0.0}, "surrogates.temperature=0.0 must be positive"),
        ({"statistics_images": 1}, "surrogates.statistics_images=1 must be at least 2"),
        ({"pretrained": {"b0": "x.tar", "b1": None}}, "surrogates.pretrained names b0, .*each of them"),
        ({"weights": {"b0": "x.pth"}}, "surrogates.weights names b0, but the students are b0, b1"),
    ],
)
def test_surrogates_that_cannot_be_prepared_are_refused_by_name(changes, words):
    with pytest.raises(ConfigError, match=words):
        small(**changes)


@pytest.mark.parametrize(
    ("images", "target", "changes", "words"),
    [
        (public(7), victim(), {}, "surrogates.batch_size=8 exceeds the 7 public images"),
        (public(), victim(Threat.SCORES), {}, "use it with a white-box attack"),
        (public(), victim(), {"lr": 1e30}, "a student diverged before step 4; lower attack.surrogates.lr"),
    ],
)
def test_unusable_images_or_victims_and_divergence_are_user_errors(tmp_path, images, target, changes, words):
    with pytest.raises(UserError, match=words):
        small(**changes).fit(images, target, seed=0, work=tmp_path, runtime=Runtime())


def test_a_target_without_answers_and_published_statistics_without_numbers_are_refused(tmp_path):
    broken = Victim.of(lambda images: Output(images.mean((2, 3)) * torch.nan, images.mean((2, 3))), 3)
    with pytest.raises(DivergedError, match="the target gave answers that are not finite"):
        small().fit(public(), broken, seed=0, work=tmp_path, runtime=Runtime())
    deaf = Victim.of(lambda images: Output(images.mean((2, 3)), images.mean((2, 3)) * torch.nan), 3)
    with pytest.raises(DivergedError, match=r"answers to public images diverged \(not finite: mean, std\)"):
        small().fit(public(), deaf, seed=0, work=tmp_path, runtime=Runtime())
    file = tmp_path / "p_reg.pt"
    torch.save({"fea_mean": torch.ones(3), "fea_logvar": torch.tensor([1.0, torch.nan, 1.0])}, file)
    whole = Victim.of(lambda images: Output(images.mean((2, 3)), images.mean((2, 3))), 3)
    with pytest.raises(CheckpointError, match=r"cannot be used \(not finite: fea_logvar\)"):
        made = small(pretrained={"p_reg": str(file)}, students=[])
        made.fit(public(), whole, seed=0, work=tmp_path / "again", runtime=Runtime())


# the configs


@pytest.mark.parametrize("scale", ["mini", "paper"])
@pytest.mark.parametrize(("name", "kind"), [("gmi", GMI), ("kedmi", KedMI)])
def test_each_variant_is_its_attack_with_another_identity_loss(scale, name, kind):
    with packaged_configs():
        plainly, lomma = (
            settings_of([f"attack={choice}", f"scale={scale}", "data=synthfaces"])["attack"]
            for choice in (name, f"lomma_{name}")
        )
    differing = {key for key in {*plainly, *lomma} if plainly.get(key) != lomma.get(key)}
    own = {"clip"} if name == "kedmi" else {"steps"} if scale == "mini" else set()
    assert differing == {"name", "identity_loss", "surrogates"} | own
    made = build(without(lomma, *NOT_OPTIONS))
    assert isinstance(made, kind) and isinstance(made.identity_loss, LogitLoss)
    assert made.clip == 1.0


def test_a_whole_run_prepares_surrogates_and_attacks(tiny):
    sizes = ("attack.surrogates.steps=2", "attack.surrogates.batch_size=8", "attack.surrogates.width=0.125")
    path = run(tiny("attack=lomma_kedmi", "attack.surrogates.students=[b0]", *sizes))
    assert '"surrogates"' in path.read_text()
