from __future__ import annotations

from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import expand, packaged_configs, settings_of
from midre_exp.plan.config import build, digest, plain


def test_a_target_outside_the_allowed_packages_is_never_imported(tmp_path: Path):
    trace = tmp_path / "ran"
    for target, argument in (
        ("os.system", f"touch {trace}"),
        ("torch.load", str(trace)),
        ("builtins.eval", "1"),
    ):
        with pytest.raises(ConfigError, match=r"not allowed; add runtime.trusted_packages=\["):
            build({"_target_": target, "_args_": [argument]})
    assert not trace.exists()


def test_a_forbidden_target_is_found_at_any_depth():
    node = {
        "_target_": "midre_exp.data.transforms.HorizontalFlip",
        "p": [{"x": {"_target_": "os.getcwd"}}],
    }
    with pytest.raises(ConfigError, match=r"os\.getcwd"):
        build(node)


def test_a_prefix_must_end_at_a_dot():
    with pytest.raises(ConfigError, match="not allowed"):
        build({"_target_": "attacks_of_mine.Evil"})


def test_users_allow_their_own_packages_by_name():
    assert build({"_target_": "collections.Counter"}, trusted=["collections"]) == {}


def test_wrong_arguments_are_one_sentence_about_the_target():
    with pytest.raises(
        ConfigError, match=r"cannot build midre_exp\.data\.transforms\.HorizontalFlip with q=1"
    ):
        build({"_target_": "midre_exp.data.transforms.HorizontalFlip", "q": 1})
    with pytest.raises(ConfigError, match=r"p=2 must lie in \[0, 1\]"):
        build({"_target_": "midre_exp.data.transforms.HorizontalFlip", "p": 2})


def test_a_digest_depends_on_content_and_not_on_order():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    with pytest.raises(ValueError):
        digest({"a": float("nan")})


def test_missing_values_are_named():
    with pytest.raises(ConfigError, match=r"data\.root"):
        plain(OmegaConf.create({"data": {"root": "???"}}))


def test_the_command_line_beats_scale_and_scale_beats_setup():
    with packaged_configs():
        assert settings_of(["setup=demo", "scale=mini"])["resolution"] == 32
        assert settings_of(["setup=demo", "scale=paper"])["resolution"] == 64
        assert settings_of(["setup=demo", "scale=mini", "resolution=16"])["resolution"] == 16
        assert settings_of(["setup=demo", "data=folder", "data.root=x"])["data"]["name"] == "folder"


def test_defenses_combine_and_one_can_be_addressed():
    with packaged_configs():
        settings = settings_of(["defense=[nodef,midre]", "defense.midre.a_h=0.7"])
    assert list(settings["defense"]) == ["nodef", "midre"] and settings["defense"]["midre"]["a_h"] == 0.7


def test_a_misspelt_key_does_not_compose():
    with packaged_configs(), pytest.raises(ConfigCompositionException):
        settings_of(["defense=midre", "defense.midre.ah=0.7"])


def test_a_sweep_expands_to_its_product_with_later_overrides_winning():
    jobs = expand(["setup=demo", "defense=nodef,[midre,nodef]", "seed=0,1", "seed=2,3"])
    assert jobs == [
        ["setup=demo", "defense=nodef", "seed=2"],
        ["setup=demo", "defense=nodef", "seed=3"],
        ["setup=demo", "defense=[midre,nodef]", "seed=2"],
        ["setup=demo", "defense=[midre,nodef]", "seed=3"],
    ]
