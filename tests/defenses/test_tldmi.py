from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.modules.batchnorm import _BatchNorm

from defenses import build_defense, compose
from defenses.rolss import RoLSS
from defenses.ssf import SSF
from defenses.tldmi import TLDMI, blocks_before
from midre_exp.errors import ConfigError
from midre_exp.plan.config import build
from midre_exp.targets import build_target
from midre_exp.targets.base import Classifier
from tests.defenses.conftest import RECIPE
from tests.defenses.networks import network, state, train

CONF = Path(__file__).parents[2] / "conf"
TARGETS = sorted(path.stem for path in (CONF / "target").glob("*.yaml"))


def tldmi(target: str = "resnet18", **changes: Any) -> TLDMI:
    return build_defense("tldmi", target=target, **{"training": "shared", **changes})


def trained(model: Classifier, defense: TLDMI) -> int:
    names = set(defense.trainable(model) or ())
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name in names)


# -- which part --


@pytest.mark.parametrize(
    ("target", "classes", "count", "percent"),
    [
        ("vgg16", 1000, 13_855_208, 82.6),
        ("ir152", 1000, 17_825_256, 28.5),
        ("facenet64", 1000, 34_391_912, 97.1),
        ("maxvit", 530, 18_066_258, 58.9),
        ("resnest101", 530, 26_973_970, 57.0),
        ("resnet18", 530, None, 75.7),
        ("resnet50", 530, None, 65.3),
        ("resnet101", 530, None, 36.8),
        ("resnet152", 530, None, 27.1),
        ("densenet121", 530, None, 36.1),
        ("densenet169", 530, None, 50.9),
        ("inception_resnet_v1", 530, None, 59.5),  # these three are an own choice
        ("inception_v3", 530, None, 65.8),
        ("vggface_resnet50", 530, None, 65.3),
    ],
)
def test_the_trained_shares_are_the_published_ones(
    target: str, classes: int, count: int | None, percent: float
) -> None:
    with torch.device("meta"):
        model = build_target(target, num_classes=classes)
    found = trained(model, tldmi(target))
    assert count in (None, found)
    assert round(100 * found / sum(p.numel() for p in model.parameters()), 1) == percent


@pytest.mark.parametrize(
    ("target", "cut", "percent"),
    [
        ("resnet18", "stem", 99.9),
        ("resnet18", "layer1", 98.6),
        ("resnet18", "layer2", 94.0),
        ("resnet18", "layer4", 2.4),
        ("densenet121", "denseblock1", 95.4),
        ("densenet121", "denseblock2", 82.7),
        ("densenet121", "denseblock3", 43.1),
        ("densenet121", "denseblock4", 7.3),
        ("maxvit", "block1", 95.3),
    ],
)
def test_a_cut_freezes_the_stage_it_names_too(target: str, cut: str, percent: float) -> None:
    with torch.device("meta"):
        model = build_target(target, num_classes=530)
    found = trained(model, tldmi(target, cut=cut))
    assert round(100 * found / sum(p.numel() for p in model.parameters()), 1) == percent


def test_the_published_cuts_are_these_blocks() -> None:
    with torch.device("meta"):
        vgg, ir152, facenet = (build_target(name, num_classes=2) for name in ("vgg16", "ir152", "facenet64"))
    frozen = blocks_before(vgg, tldmi("vgg16").cut)
    assert frozen[-1] == ("feature.24", "feature.25", "feature.26") and len(frozen) == 8
    assert blocks_before(ir152, tldmi("ir152").cut)[-1] == ("feature.body.46",)
    frozen = blocks_before(facenet, tldmi("facenet64").cut)
    assert frozen == [("feature.input_layer",), *((f"feature.body.{index}",) for index in range(6))]


def test_a_share_of_a_stage_is_rounded_to_whole_units() -> None:
    model = network("resnet18")  # two blocks in each stage
    for cut, last in (("layer3:1/2", "layer3.0"), ("layer3:2/2", "layer3.1"), ("layer3:1/9", "layer2.1")):
        assert blocks_before(model, cut)[-1] == (last,)
    assert blocks_before(model, "all_but_last") == blocks_before(model, "layer3")


def test_parameters_frozen_by_the_architecture_stay_frozen() -> None:
    with torch.device("meta"):
        model = build_target("vgg16", num_classes=5)
    names = tldmi("vgg16").trainable(model) or ()
    assert "bn.weight" in names and "bn.bias" not in names


def test_the_stem_of_an_ir_network_can_train_as_in_the_released_code() -> None:
    model = network("ir152")
    strict, released = (set(tldmi("ir152", train_stem=flag).trainable(model) or ()) for flag in (False, True))
    assert {name.rsplit(".", 2)[0] for name in released - strict} == {"feature.input_layer"}
    assert strict < released


# -- training --


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "maxvit", "ir152"])
def test_frozen_parameters_stay_and_frozen_statistics_follow_the_option(name: str, tmp_path: Path) -> None:
    start = {key: value.clone() for key, value in network(name).state_dict().items()}
    for freeze in (False, True):
        defense = tldmi(name, freeze_bn_stats=freeze)
        model, numbers, _ = train(tmp_path / str(freeze), name, {"epochs": 1}, tldmi=defense)
        moved = {key for key, value in model.state_dict().items() if not torch.equal(value, start[key])}
        names = set(defense.trainable(model) or ())
        parameters = dict(model.named_parameters())
        assert moved & parameters.keys() <= names
        assert len(moved & names) > 0.9 * len(names)
        assert numbers["parameters_trained"] == sum(parameters[key].numel() for key in names)
        frozen = [
            (path, layer)
            for path, layer in model.named_modules()
            if isinstance(layer, _BatchNorm) and f"{path}.weight" not in names
        ]
        assert frozen
        for path, layer in model.named_modules():
            if isinstance(layer, _BatchNorm):
                still = freeze and f"{path}.weight" not in names
                assert (f"{path}.running_mean" not in moved) == still, path


def test_a_cut_of_none_is_no_defense(tmp_path: Path) -> None:
    defense = tldmi("vgg16", cut="none", training="own", freeze_bn_stats=True)
    assert defense.recipe(RECIPE) is RECIPE and defense.exclusive == {"freeze"}
    plain, *_ = train(tmp_path / "plain", "resnet18", {"epochs": 1})
    ours, *_ = train(tmp_path / "ours", "resnet18", {"epochs": 1}, tldmi=tldmi(cut="none"))
    assert torch.equal(state(plain), state(ours))


def test_other_targets_and_the_shared_recipe_train_as_usual() -> None:
    for defense in (tldmi("resnet18", training="own"), tldmi("vgg16", training="shared")):
        assert defense.recipe(RECIPE) is RECIPE and defense.exclusive == {"freeze"}


# -- with others --


@pytest.mark.parametrize("k", [0.0, 0.5])
def test_a_densenet_cannot_have_its_last_block_rebuilt_and_fine_tuned(k: float) -> None:
    ssf = SSF(k=k, stages=None)
    for parts in (
        {"tldmi": tldmi("densenet121"), "ssf": ssf},
        {"ssf": ssf, "tldmi": tldmi("densenet121")},
    ):
        with pytest.raises(
            ConfigError, match=r"tldmi and rolss \(or ssf\) contradict each other on a DenseNet"
        ):
            network("densenet121", **parts)
    network("densenet121", tldmi=tldmi(cut="none"), ssf=ssf)


def test_it_composes_with_rolss_elsewhere(tmp_path: Path) -> None:
    rolss = RoLSS(stages=None)
    model, numbers, _ = train(tmp_path / "a", "resnet18", {"epochs": 1}, tldmi=tldmi(), rolss=rolss)
    assert numbers["parameters_trained"] < numbers["parameters"]
    assert compose(tldmi=tldmi(), rolss=rolss).label == "TL-DMI layer3 + RoLSS"
    assert not model.get_submodule("layer1.0.conv1").weight.requires_grad


# -- mistakes --


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"cut": 26}, "defense.tldmi.cut=26 is unknown"),
        ({"training": "paper"}, "defense.tldmi.training=paper is unknown; use one of own, shared"),
        ({"train_stem": "no"}, "defense.tldmi.train_stem=no must be true or false"),
        ({"freeze_bn_stats": 1}, "defense.tldmi.freeze_bn_stats=1 must be true or false"),
    ],
)
def test_values_out_of_range_are_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as error:
        tldmi(**changes)
    assert named in str(error.value)


@pytest.mark.parametrize(
    ("cut", "named"),
    [
        ("block3", "defense.tldmi.cut=block3 is no stage of ResNet; use one of stem, layer1"),
        ("layer3:3/2", "must name a share of the stage above 0 and at most 1"),
        ("layer3:0/2", "must name a share"),
        ("layer3:1/0", "must name a share"),
        ("layer3 half", "is unknown; use a stage, stage:n/m, all_but_last or none"),
    ],
)
def test_a_cut_the_network_does_not_have_is_an_error_before_training(cut: str, named: str) -> None:
    with pytest.raises(ConfigError) as error:
        network("resnet18", tldmi=tldmi(cut=cut))
    assert named in str(error.value)


def test_the_command_line_can_cut_elsewhere(tiny: Any) -> None:
    node = tiny("defense=tldmi", "target=vgg16", "defense.tldmi.cut=block3:1/3")["defense"]["tldmi"]
    assert build(node).label == "TL-DMI block3:1/3"
