"""What a run's seed changes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import Composer, expand, packaged_composer, packaged_configs, settings_of
from midre_exp.plan.vary import WORDS, seed_of, with_seeds_of_run_0
from midre_exp.records.comparable import comparable_config
from midre_exp.stages import make_plan

ALL = f"vary=[{','.join(WORDS)}]"


@pytest.fixture(scope="module")
def composer() -> Iterator[Composer]:
    with packaged_configs():
        yield packaged_composer()


#: What every reconstruction is told by.
JUDGED = ("metrics", "verdicts")


def keys(composer, *job):
    return {name: stage.key for name, stage in make_plan(composer.settings(list(job))).stages.items()}


def test_by_default_a_seed_moves_target_and_attack_alone(composer):
    first, second = keys(composer, "seed=0"), keys(composer, "seed=1")
    assert {name for name in first if first[name] != second[name]} == {"target", "attack", *JUDGED}
    assert keys(composer, "seed=0", ALL) == first  # run 0 is the same whatever varies


@pytest.mark.parametrize(
    "word, moved",
    [
        ("training", {"target", "attack", *JUDGED}),
        ("attack", {"attack", *JUDGED}),
        ("evaluator", {"evaluator", "features", *JUDGED}),
        ("prior", {"prior", "attack", *JUDGED}),
        ("identities", {"target", "evaluator", "features", "prior", "attack", *JUDGED}),
    ],
)
def test_a_word_moves_what_it_names_and_what_rests_on_it(composer, word, moved):
    first, second = (keys(composer, f"seed={seed}", f"vary=[{word}]") for seed in (0, 1))
    assert {name for name in first if first[name] != second[name]} == moved


def test_seeds_and_words_compose_in_a_sweep(composer):
    jobs = expand(["seed=0,1,2", ALL])
    found = [composer.settings(job) for job in jobs]
    assert [s["evaluator"]["seed"] for s in found] == [1000, 1001, 1002]
    assert [s["data"]["private"]["seed"] for s in found] == [0, 1, 2]
    assert (
        [seed_of(s, "training") for s in found] == [0, 1, 2] == [s["attack"]["prior"]["seed"] for s in found]
    )
    common = [comparable_config(with_seeds_of_run_0(s)) | {"seed": 0} for s in found]
    assert common[0] == common[1] == common[2]


def test_a_record_of_before_there_was_a_choice_is_of_the_same_thing(composer):
    settings = composer.settings(["seed=1"])
    assert comparable_config({k: v for k, v in settings.items() if k != "vary"}) == comparable_config(
        settings
    )
    assert seed_of({"seed": 3}, "attack") == 3


@pytest.mark.parametrize(
    "words, told",
    [
        (["vary=[people]"], "vary has people; give some of [training,attack,evaluator,prior,identities]"),
        (["vary=training"], "vary=training is no list; give some of"),
        (["vary=[prior,prior]"], "says a word twice"),
        (["vary=[identities]", "data.seed=5"], "data.seed='${varied:identities,5}', or leave identities out"),
        (["vary=[identities]", "data=celeba_celeba"], "data=celeba_celeba has one set of private identities"),
        (
            ["vary=[evaluator]", "evaluator.checkpoint=x.pt"],
            "changes nothing where evaluator.checkpoint=x.pt",
        ),
        (["vary=[prior]", "attack=ppa", "attack.prior.pretrained=ffhq"], "leave prior out of vary"),
        (
            ["vary=[identities]", "data=folder", "data.root=/", "data.private_identities=[a]"],
            "changes nothing where data.private_identities",
        ),
    ],
)
def test_what_cannot_vary_is_refused_in_a_sentence(composer, words, told):
    for compose in (composer.settings, settings_of):
        with pytest.raises(ConfigError) as found:
            compose(words)
        assert told in str(found.value) and "\n" not in str(found.value)


def test_a_seed_written_as_the_sentence_says_varies(composer):
    settings = composer.settings(["vary=[identities]", "seed=2", "data.seed='${varied:identities,5}'"])
    assert settings["data"]["seed"] == 7 == settings["data"]["private"]["seed"]
