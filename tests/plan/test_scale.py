"""A scale's values belong to what a part is, so parts of one's own get them too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from midre_exp.plan.compose import packaged_composer, packaged_configs, settings_of
from midre_exp.plan.config import OWN_CONFIGS, config_files, digest
from midre_exp.plan.scale import full_size_parts, scaled
from midre_exp.plan.suite import single_attacks
from midre_exp.sweep.estimate import show

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/scaled_attacks.json").read_text())
SCALES = ("mini", "paper", "smoke", "synth")
#: What an attack on GMI's class must say, for --plan looks at every key.
OPTIONS = (
    *(
        "restarts=1",
        "steps=2",
        "lr=0.1",
        "momentum=0.9",
        "identity_weight=1",
        "clip=null",
        "reference_batch=2",
    ),
    "identity_loss={_target_: attacks.CrossEntropy}",
)
OWN = {
    "attack/ascent.yaml": "defaults: [prior: gmi, _self_]\nname: ascent\nidentities: 5\n_target_: "
    "attacks.GMI\n",
    "attack/styled.yaml": "defaults: [prior: stylegan2, _self_]\nname: styled\n_target_: attacks.PPA\n",
    "attack/bare.yaml": "name: bare\n_target_: attacks.GMI\nprior: {name: own, image_size: 8}\n",
    "attack/prior/big.yaml": "name: big\n_target_: midre_exp.priors.GMIPrior\nimage_size: 8\n",
    "attack/prior/calm.yaml": "defaults: [gmi, _self_]\nname: calm\nlr: 1.0e-5\ngp_every: 4\n",
    "target/mine.yaml": "defaults: [resnet18, _self_]\nname: mine\nmodel: {mean: 0.4}\n",
    "target/small.yaml": "defaults: [recipe: lowres_sgd, _self_]\nname: small\nmodel: {_target_: m.S}\n",
    "evaluator/judge.yaml": "defaults: [/target@_here_: mine, _self_]\nresolution: ${resolution}\nseed: 1\n",
}


@pytest.fixture
def own(tmp_path, monkeypatch) -> Path:
    for name, text in OWN.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path))
    return tmp_path


def test_every_attack_composes_at_every_scale_as_when_values_were_keyed_by_attacks():
    with packaged_configs():
        composer = packaged_composer()
        found = {
            f"{attack} {scale}": digest(composer.settings([f"attack={attack}", f"scale={scale}"])["attack"])
            for attack in single_attacks()
            for scale in SCALES
        }
    assert found == GOLDEN


@pytest.mark.parametrize("scale", ["mini", "evidence"])
def test_a_scale_that_reduces_what_it_runs_has_values_for_every_attack_and_prior(scale):
    values = config_files("scale/attack"), config_files("scale/prior")
    lacking = [name for name in single_attacks() if f"{scale}_{name}" not in values[0]]
    lacking += [name for name in config_files("attack/prior") if f"{scale}_{name}" not in values[1]]
    assert not lacking


def test_an_attack_of_ones_own_searches_the_reduced_prior_of_its_scale(own):
    with packaged_configs():
        for mine, packaged in (("ascent", "gmi"), ("styled", "ppa")):
            for scale in SCALES:
                job = ["evaluator=vgg16", f"scale={scale}", "resolution=64"]
                nodes = [
                    settings_of([*job, f"attack={name}"])["attack"]["prior"] for name in (mine, packaged)
                ]
                if scale != "smoke" or mine == "ascent":
                    assert nodes[0] == nodes[1], (mine, scale)
        assert settings_of(["attack=ascent"])["attack"]["prior"]["width"] == 16
        assert settings_of(["attack=ascent", "attack.prior.width=32"])["attack"]["prior"]["width"] == 32
        assert settings_of(["attack=gmi", "attack/prior=stylegan2"])["attack"]["prior"]["z_dim"] == 64
        calm = settings_of(["attack/prior=calm"])["attack"]["prior"]
        assert (calm["name"], calm["width"], calm["gp_every"]) == ("calm", 16, 4)
        assert settings_of(["attack=bare"])["attack"]["prior"] == {"name": "own", "image_size": 8}


def test_a_target_of_ones_own_gets_the_values_of_the_one_it_is_made_from(own):
    assert scaled("mini", "target", "mine") == scaled("mini", "target", "judge") == "mini_resnet18"
    assert (
        scaled("mini", "target", "small") == "mini_small"
        and scaled("paper", "target", "mine") == "paper_mine"
    )
    with packaged_configs():
        settings = settings_of(["target=mine", "evaluator=judge"])
    for role in ("target", "evaluator"):
        model = settings[role]["model"]
        assert model["width"] == 0.25 and model["stem"] == "half" and model["mean"] == 0.4
        assert settings[role]["recipe"]["epochs"] == 18


def test_a_part_that_a_scale_has_no_values_for_is_told(own, capsys, tmp_path):
    with packaged_configs():
        every = {
            name: full_size_parts(settings_of(job))
            for name, job in {
                "packaged": [],
                "own": ["attack=ascent"],
                "prior": ["attack/prior=big"],
                "paper": ["attack=ascent", "scale=paper"],
                "family": ["target=mine", "evaluator=judge"],
                "target": ["target=small"],
            }.items()
        }
    assert every["packaged"] == every["paper"] == every["family"] == []
    (sentence,) = every["own"]
    assert sentence.startswith(
        "attack ascent keeps the size of its own yaml: scale mini has no values for it"
    )
    assert "scale/attack/mini_ascent.yaml" in sentence
    assert [text.split()[:2] for text in every["prior"]] == [["attack.prior", "big"]]
    assert [text.split()[:2] for text in every["target"]] == [["target", "small"]]
    options = [f"+attack.{option}" for option in OPTIONS]
    show([["attack=ascent", *options, f"paths.store={tmp_path}/s", f"paths.results={tmp_path}/r"]])
    assert sentence in capsys.readouterr().out
