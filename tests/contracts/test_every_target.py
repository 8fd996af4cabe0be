"""What holds for every target of conf/target. A new one is found by its yaml."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from defenses import compose
from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.plan.choice import choice
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build, config_files
from midre_exp.runtime import Runtime
from midre_exp.targets import Classifier, build_target, load_checkpoint
from midre_exp.targets.assemble import assemble
from midre_exp.targets.blocks import traced_blocks
from midre_exp.targets.shortcut import Shortcut
from midre_exp.targets.training.train import train_classifier
from tests.devices import CUDA, each_device

NAMES = list(config_files("target"))
#: Pixels of the real size, where it is not 224.
SIZES = {
    "vgg16": 64,
    "ir152": 64,
    "facenet64": 64,
    "facenet112": 112,
    "inception_resnet_v1": 160,
    "inception_v3": 299,
}
#: Options a yaml leaves out on purpose: ResNet-18 has nothing to shorten.
LEFT_OUT = {"resnet18": {"blocks"}}
WITHOUT_SHORTCUTS = {"vgg16", "inception_v3"}
DENSE = {"densenet121", "densenet169"}  # concatenate their shortcuts
IMAGES = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

every = pytest.mark.parametrize("name", NAMES)
residual = pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_SHORTCUTS])


def reduced(name: str, seed: int = 0) -> Classifier:
    """The form of scale mini from a seed, in evaluation mode, no branch of which starts at zero."""
    node = {"model": choice("target", name, scale="mini")["model"]}
    model = assemble(node, 5, compose(), seed=seed).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("weight") and not parameter.any():
                parameter.copy_(0.5 + torch.rand(parameter.shape, generator=generator))
    return model


def weights_of(model: Classifier) -> Tensor:
    return torch.cat([value.flatten().double() for value in model.state_dict().values()])


def taps_of(model: Classifier) -> dict[str, Tensor]:
    with torch.no_grad():
        return dict(model(IMAGES, [name for name, _ in model.stages()]).taps)


def disturb(model: Classifier, parameters: Iterable[nn.Parameter]) -> None:
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.1)


# -- sizes and configs --


@every
def test_a_forward_pass_and_a_training_step_at_real_size(name: str) -> None:
    torch.manual_seed(0)
    model = build_target(name, num_classes=10).train()
    images = torch.rand(2, 3, SIZES.get(name, 224), SIZES.get(name, 224))
    labels = torch.tensor([3, 7])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    before = [parameter.detach().clone() for parameter in trained]
    optimizer = torch.optim.SGD(trained, lr=1e-3)
    output = model(images)
    assert output.logits.shape == (2, 10)
    assert output.features.shape[0] == 2 and output.features.ndim == 2
    loss = F.cross_entropy(output.logits, labels)
    if output.auxiliary is not None:
        loss = loss + model.auxiliary_weight * F.cross_entropy(output.auxiliary, labels)
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in trained)
    optimizer.step()
    moved = [not torch.equal(old, new) for old, new in zip(before, trained, strict=True)]
    # ResNeSt's residual branches start at zero and hide most weights from the first step.
    assert sum(moved) > (0.15 if name == "resnest101" else 0.9) * len(moved)
    with torch.no_grad():
        evaluated = model.eval()(images)
    assert evaluated.logits.isfinite().all()
    assert evaluated.auxiliary is None


@every
def test_its_yaml_lists_every_option_with_the_published_value(name: str) -> None:
    node = choice("target", name)["model"]
    with torch.device("meta"):
        kind = type(build_target(name, num_classes=5))
    parameters = inspect.signature(kind).parameters
    options = set(parameters) - {"num_classes"} - LEFT_OUT.get(name, set())
    assert node.pop("_target_") == f"midre_exp.targets.{kind.__name__}"
    assert set(node) == options
    own = {"depth", "image_size"}  # by which the targets of one class differ
    for option in options - own:
        default = parameters[option].default
        assert node[option] == (list(default) if isinstance(default, tuple) else default), option


@every
def test_the_reduced_form_is_small_and_takes_32_px(name: str) -> None:
    model = reduced(name)
    assert model(IMAGES).logits.shape == (3, 5)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert choice("target", name, scale="mini")["weights"] is None


@pytest.mark.slow
@every
def test_the_reduced_form_learns_the_synthetic_identities_without_defense(name: str, tmp_path: Path) -> None:
    with packaged_configs():
        settings = settings_of([f"target={name}", "scale=mini", "defense=nodef"])
    numbers = train_classifier(
        settings["target"],
        build(settings["data"]["private"]),
        compose(),
        seed=0,
        work=tmp_path,
        runtime=Runtime(quiet=True),
        title=name,
    ).numbers
    assert numbers["acc"] > 90


# -- images in, logits, features and taps out --


@every
def test_images_of_the_unit_range_are_normalised_first_and_by_no_weight(name: str) -> None:
    model = reduced(name)
    seen = model(IMAGES, ["input"]).taps["input"]
    assert torch.equal(seen, (IMAGES - model.mean) / model.std)
    assert not {"mean", "std"} & set(model.state_dict())
    before = model(IMAGES).logits
    model.set_normalisation(0.3, [0.9, 0.8, 0.7])
    assert not torch.allclose(model(IMAGES).logits, before)


@every
def test_taps_are_the_stages_and_the_last_is_the_features(name: str) -> None:
    model = reduced(name)
    names = [stage for stage, _ in model.stages()]
    output = model(IMAGES, names)
    assert list(output.taps) == names and not model(IMAGES).taps
    assert torch.equal(output.taps[names[-1]].flatten(1), output.features)
    torch.testing.assert_close(model.head(output.features), output.logits)
    with pytest.raises(
        ConfigError, match=rf"{type(model).__name__} has no tap nowhere; known taps: input, {names[0]}"
    ):
        model(IMAGES, ["nowhere"])


@pytest.mark.gpu
@every
def test_a_gpu_answers_what_a_cpu_answers(name: str) -> None:
    model = reduced(name).requires_grad_(False)
    expected = model(IMAGES)
    found = model.to(CUDA)(IMAGES.to(CUDA))
    torch.testing.assert_close(found.logits.cpu(), expected.logits, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.features.cpu(), expected.features, rtol=1e-3, atol=1e-3)


@each_device
@every
def test_every_weight_gets_a_gradient(name: str, device: torch.device) -> None:
    model = reduced(name).train().to(device)
    images = IMAGES.to(device, copy=True).requires_grad_()
    F.cross_entropy(model(images).logits, torch.tensor([0, 1, 2], device=device)).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    missing = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


@every
def test_a_new_head_takes_the_place_of_the_official_one(name: str) -> None:
    model = reduced(name)
    head = nn.Linear(model(IMAGES).features.shape[1], 9)
    model.head = head
    assert model.head is head and model.get_submodule(model.head_name) is head
    assert model(IMAGES).logits.shape == (3, 9)


# -- weights --


@every
def test_a_seed_gives_the_weights(name: str) -> None:
    assert torch.equal(weights_of(reduced(name)), weights_of(reduced(name)))
    assert not torch.equal(weights_of(reduced(name)), weights_of(reduced(name, seed=1)))


@every
def test_a_wrapped_checkpoint_comes_back_whole_or_is_refused(name: str, tmp_path: Path) -> None:
    source, file = reduced(name), tmp_path / "w.pth"
    torch.save({"model_state_dict": {f"model.{k}": v for k, v in source.state_dict().items()}}, file)
    for classes in (None, 5):  # counted in the file, or given
        model = build_target(name, classes, scale="mini", checkpoint=file)
        assert not model.training and torch.equal(weights_of(model), weights_of(source))
        assert torch.equal(model(IMAGES).logits, source(IMAGES).logits)
    with pytest.raises(CheckpointError, match="does not fit"):
        build_target(name, 8, scale="mini", checkpoint=str(file))
    for change in ({"extra": torch.zeros(2)}, None):
        state = dict(source.state_dict())
        state = {**state, **change} if change else {key: state[key] for key in list(state)[1:]}
        torch.save(state, file)
        with pytest.raises(CheckpointError):
            load_checkpoint(reduced(name), file)


# -- what a network says of itself --


@every
def test_blocks_make_up_the_network_up_to_the_last_of_them(name: str) -> None:
    model = reduced(name)
    stages = {stage: list(blocks) for stage, blocks in model.stage_blocks().items()}
    taps = [tap for tap, _ in model.stages()]
    assert [tap for tap in taps if tap in stages] == list(stages)
    parts = [part for blocks in stages.values() for block in blocks for part in block]
    assert len(set(parts)) == len(parts)  # every submodule once

    def parameters(stage: str) -> list[nn.Parameter]:
        return [
            p for block in stages[stage] for part in block for p in model.get_submodule(part).parameters()
        ]

    inside = {id(parameter) for stage in stages for parameter in parameters(stage)}
    outside = [p for key, p in model.named_parameters() if id(p) not in inside and not in_norm(model, key)]
    before = taps_of(model)
    disturb(model, outside)  # of pooling, embedding and head
    assert all(torch.equal(taps_of(model)[stage], before[stage]) for stage in stages)
    for stage in stages:  # its weights act from its own tap on, not before
        assert parameters(stage)
        model = reduced(name)
        disturb(model, parameters(stage))
        after = taps_of(model)
        assert not torch.equal(after[stage], before[stage])
        earlier = taps[: taps.index(stage)]
        assert all(torch.equal(after[tap], before[tap]) for tap in earlier)


def in_norm(model: Classifier, key: str) -> bool:
    """Whether a weight belongs to the norm of the features, which ends the last stage."""
    return bool(model.feature_norm) and key.startswith(f"{model.feature_norm}.")


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_blocks_read_from_the_stages_are_those_the_architecture_lists(name: str) -> None:
    model = reduced(name)
    found = traced_blocks(model, model.stages())
    for stage, blocks in model.stage_blocks().items():
        assert len(found[stage]) == len(blocks), stage
    assert [stage for stage in found if stage in model.stage_blocks()] == list(model.stage_blocks())


def test_stages_that_cannot_be_followed_are_told_with_what_to_do() -> None:
    model = reduced("maxvit")  # looks at the size of its images
    with pytest.raises(
        ConfigError, match=r"layers of stage stem of MaxViT cannot .*give the class a method stage_blocks"
    ):
        traced_blocks(model, model.stages())


@residual
def test_full_shortcuts_change_nothing_and_removed_ones_the_answer(name: str) -> None:
    model, plain = reduced(name), reduced(name)
    last = list(model.shortcuts())[-1]
    model.scale_shortcuts([last], 1.0)
    assert torch.equal(model(IMAGES).logits, plain(IMAGES).logits)
    model.scale_shortcuts([last], 0.0)
    assert not torch.allclose(model(IMAGES).features.mean(), plain(IMAGES).features.mean())
    keys, shapes = (
        [list(net.state_dict()), [v.shape for v in net.state_dict().values()]] for net in (model, plain)
    )
    if name in DENSE:
        assert keys[0] == shapes[0] and model.fresh == (f"features.{last}", "features.norm5")
    else:
        assert keys == shapes and model.fresh == type(model).fresh
        assert set(model.shortcuts()) == set(plain.shortcuts())
        carried = model.get_submodule(model.shortcuts()[last][0])
        assert isinstance(carried, Shortcut) and carried.k == 0


@pytest.mark.parametrize("name", sorted(WITHOUT_SHORTCUTS))
def test_networks_without_shortcuts_say_so(name: str) -> None:
    assert not reduced(name).shortcuts()


def test_a_shortcut_whose_weights_would_change_their_names_is_refused() -> None:
    model = reduced("resnet18")
    model.get_submodule("layer4.1").downsample = nn.Conv2d(64, 64, 1)
    with pytest.raises(
        ConfigError, match=r"shortcut layer4.1.downsample of ResNet is a Conv2d.*make it an nn.Sequential"
    ):
        model.scale_shortcuts(["layer4"], 0.5)
