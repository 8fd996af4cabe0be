"""Further judges: what they see, which keys they have, and that a run is the same with and without them."""

import json

import pytest
from hydra import compose

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import expand, packaged_composer, packaged_configs, settings_of
from midre_exp.stages import behind, make_plan, stages_of
from midre_exp.stages.seen_by import seen_by
from midre_exp.targets.floor import DOUBTFUL, doubt


def settings(*words):
    with packaged_configs():
        return settings_of(list(words))


@pytest.fixture(scope="module")
def judged():
    return settings("setup=S01", "jury=[resnet18,vgg16,facenet112]", "evaluator.recipe.epochs=3")


def test_a_further_judge_is_what_it_would_be_as_evaluator(judged):
    alone = settings("setup=S01", "evaluator=resnet18", "evaluator.recipe.epochs=3")
    seen = seen_by(judged, "resnet18")
    for part in ("evaluator", "metrics", "data"):
        assert seen[part] == alone[part]
    assert seen["jury"] is None


def test_the_evaluator_itself_judges_once(judged):
    assert judged["evaluator"]["name"] == "facenet112" and list(judged["jury"]) == ["resnet18", "vgg16"]
    assert settings("jury=[vgg16]")["jury"] is None


def test_a_judge_of_another_size_is_shown_pictures_at_its_own():
    seen = seen_by(
        settings("setup=S01", "scale=paper", "resolution=64", "jury=[inception_v3]"), "inception_v3"
    )
    assert seen["evaluator"]["resolution"] == seen["data"]["evaluation"]["size"] == 299
    assert [step["size"] for step in seen["metrics"]["image_to_evaluator"]] == [299]


def test_overrides_that_describe_one_network_are_not_the_others(judged):
    found = settings("jury=[resnet18]", "evaluator.model.width=0.5", "evaluator.seed=7")
    assert found["evaluator"]["model"]["width"] == 0.5
    assert found["jury"]["resnet18"]["model"] == settings("evaluator=resnet18")["evaluator"]["model"]
    assert found["jury"]["resnet18"]["seed"] == 7


def test_a_composer_and_hydra_find_the_same_judges():
    job = ["setup=S01", "jury=[resnet18]", "evaluator.floor=0"]
    with packaged_configs():
        assert packaged_composer().settings(job) == settings_of(job)


@pytest.mark.parametrize(
    "word, told", [("jury=resnet18", "no list"), ("jury=[nobody]", "nobody is no evaluator")]
)
def test_what_is_no_jury_is_refused_in_a_sentence(word, told):
    with pytest.raises(ConfigError, match=told):
        settings(word)


def test_a_run_is_judged_by_one_jury():
    with pytest.raises(ConfigError, match="name all judges"):
        expand(["setup=S01", "jury=[resnet18],[vgg16]"])
    assert expand(["setup=S01", "jury=[resnet18,vgg16]"]) == [["setup=S01", "jury=[resnet18,vgg16]"]]


def test_a_list_of_evaluators_is_one_and_its_jury():
    listed = settings("setup=S01", "evaluator=[vgg16,resnet18, facenet112]")
    assert listed == settings("setup=S01", "evaluator=vgg16", "jury=[resnet18,facenet112]")
    assert settings("evaluator=[vgg16]") == settings("evaluator=vgg16")
    assert expand(["evaluator=[vgg16,resnet18]"]) == [["evaluator=vgg16", "jury=[resnet18]"]]
    for words, told in (
        (["evaluator=[vgg16,resnet18]", "jury=[facenet112]"], "in one of them"),
        (["evaluator=[]"], "names nobody"),
    ):
        with pytest.raises(ConfigError, match=told):
            settings(*words)


def test_no_key_changes_with_a_jury_and_the_run_is_the_same(tiny):
    alone, more = make_plan(tiny()), make_plan(tiny("jury=[resnet18]"))
    assert alone.key == more.key
    assert {name: more[name].key for name in alone.stages} == {n: s.key for n, s in alone.stages.items()}
    added = [name for name in more.stages if name not in alone.stages]
    assert added == ["evaluator.resnet18", "verdicts.resnet18", "jury"]
    assert more["verdicts.resnet18"].upstream == {
        "attack": more["attack"].key,
        "evaluator.resnet18": more["evaluator.resnet18"].key,
        "prior": more["prior"].key,
    }


def test_adding_a_judge_leaves_the_others_as_they_are(tiny):
    one, two = make_plan(tiny("jury=[resnet18]")), make_plan(tiny("jury=[resnet18,facenet112]"))
    changed = {name for name in one.stages if one[name].key != two[name].key}
    assert changed == {"jury"}


def test_every_stage_of_a_judge_stands_for_one_of_the_evaluator(tiny):
    own = tiny("jury=[resnet18]")
    for stage in stages_of(own):
        kind, seen = behind(stage.name, own)
        assert stage.name == kind or (
            stage.name == f"{kind}.resnet18" and seen["evaluator"]["name"] == "resnet18"
        )


@pytest.mark.parametrize(
    "accuracy, floor, is_doubted",
    [
        (DOUBTFUL, "chance", False),
        (89.9, "chance", True),
        (89.9, 0, True),
        (89.9, None, True),
        (85.0, 80, False),
    ],
)
def test_a_judge_that_knows_few_people_is_in_doubt_unless_a_percentage_was_stated(
    accuracy, floor, is_doubted
):
    told = doubt("judge vgg16", accuracy, floor)
    assert (told is not None) is is_doubted
    assert told is None or told.startswith(f"judge vgg16 recognises {accuracy:.1f} %")


def test_a_jury_keeps_no_text_that_json_would_change(judged):
    assert json.loads(json.dumps(judged["jury"])) == judged["jury"]


def test_the_packaged_config_has_no_jury():
    with packaged_configs():
        assert compose("config").jury is None
