from __future__ import annotations

import pytest

import midre_exp.plan.keys
from midre_exp.data.synthetic.synthfaces import SynthFaces
from midre_exp.errors import DataError
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.digests import first_difference
from midre_exp.plan.keys import absent_data_allowed, fingerprints_once, is_pretrained, reads_public
from midre_exp.stages import make_plan
from tests.conftest import STAGES


def changed(tiny, *overrides: str, base: tuple[str, ...] = ()) -> set[str]:
    """The stages whose key an override changes."""
    before, after = make_plan(tiny(*base)), make_plan(tiny(*base, *overrides))
    return {name for name in STAGES if before[name].key != after[name].key}


@pytest.mark.parametrize(
    "override, stages",
    [
        ("defense=midre", {"target", "attack", "metrics", "verdicts"}),
        ("seed=1", {"target", "attack", "metrics", "verdicts"}),
        ("target.recipe.epochs=9", {"target", "attack", "metrics", "verdicts"}),
        ("evaluator.recipe.epochs=9", {"evaluator", "features", "metrics", "verdicts"}),
        ("attack.prior.lr=0.1", {"prior", "attack", "metrics", "verdicts"}),
        ("attack.steps=9", {"attack", "metrics", "verdicts"}),
        ("metrics.measure.top1.group=9", {"metrics", "verdicts"}),
        ("data.train_per_identity=5", {"target", "evaluator", "features", "attack", "metrics", "verdicts"}),
        ("data.public_images=40", {"prior", "attack", "metrics", "verdicts"}),
        ("runtime.chunk=1", set()),
        ("runtime.threads=2", set()),
        ("paths.store=elsewhere", set()),
        ("tracking=wandb", set()),
    ],
)
def test_an_override_changes_exactly_the_stages_it_matters_to(tiny, override, stages):
    assert changed(tiny, override) == stages


def test_the_run_key_also_names_setup_and_scale(tiny):
    assert make_plan(tiny()).key != make_plan(tiny("setup=demo")).key
    assert make_plan(tiny()).key != make_plan(tiny("scale=paper", "resolution=32")).key
    assert make_plan(tiny()).key == make_plan(tiny()).key


def test_a_prior_trained_against_the_target_is_keyed_by_it(tiny):
    shared = ("attack.prior._target_=tests.plugins.TargetedPrior", "runtime.trusted_packages=[tests]")
    assert "prior" in changed(tiny, "defense=midre", base=shared)
    assert "prior" not in changed(tiny, "defense=midre")


def test_the_first_difference_is_named():
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b was 1, is 2"
    assert first_difference({"a": 1}, {"a": 1, "z": 3}) == "z was absent, is 3"
    assert first_difference({"a": [1]}, {"a": [1]}) is None


def test_a_weight_file_counts_by_its_content(tiny, tmp_path):
    one, copy, other = (tmp_path / name for name in ("one.pt", "copy.pt", "other.pt"))
    one.write_bytes(b"weights"), copy.write_bytes(b"weights"), other.write_bytes(b"other weights")
    keys = [make_plan(tiny(f"target.checkpoint={path}"))["target"].key for path in (one, copy, other)]
    assert keys[0] == keys[1] != keys[2]


def test_datasets_are_asked_once_for_many_plans_over_the_same_data(tiny, monkeypatch):
    asked = []
    honest = SynthFaces.fingerprint

    def counted(self, role):
        asked.append(role)
        return honest(self, role)

    monkeypatch.setattr(SynthFaces, "fingerprint", counted)
    with fingerprints_once():
        first = make_plan(tiny("defense=nodef"))
        second = make_plan(tiny("defense=midre"))
    # private, public, and the private images at the evaluator's size, which are the same node here
    assert sorted(asked) == ["private", "public"]
    assert first["evaluator"].key == second["evaluator"].key
    asked.clear()
    make_plan(tiny("defense=nodef"))
    assert len(asked) == 2


def test_data_that_are_not_here_are_looked_for_once(tmp_path, monkeypatch):
    looked = []
    honest = midre_exp.plan.keys.build

    def counted(node, **given):
        looked.append(node["_target_"])
        return honest(node, **given)

    monkeypatch.setattr(midre_exp.plan.keys, "build", counted)
    with packaged_configs():
        settings = settings_of(["setup=S01", "scale=paper", f"paths.data={tmp_path}"])
    with fingerprints_once():
        told = []
        for _ in range(3):
            with pytest.raises(DataError) as error:
                make_plan(settings)
            told.append(str(error.value))
        assert len(set(told)) == 1 and str(tmp_path) in told[0]
        with absent_data_allowed():
            key = make_plan(settings).key
    assert len(looked) == 3  # private, public, and private images as the evaluator sees them
    with absent_data_allowed():
        assert make_plan(settings).key == key


def test_published_weights_need_no_public_images():
    assert is_pretrained({"pretrained": "ffhq.pkl"})
    assert is_pretrained({"pretrained": {"generator": "G.tar", "critic": None}})
    assert not is_pretrained({"pretrained": {"generator": None, "critic": None}})
    assert not is_pretrained({"pretrained": None})
    assert not is_pretrained({})
    assert not reads_public({"prior": {"pretrained": "ffhq.pkl"}})
    loaded = {"pretrained": "ffhq.pkl"}
    assert reads_public({"prior": loaded, "surrogates": {"_target_": "midre_exp.surrogates.LommaSurrogates"}})
    assert not reads_public({"prior": loaded, "surrogates": {"_target_": "attacks.LongTailedSurrogate"}})
