"""What an audit says and shows, from records of its runs; and when it stops."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from midre_exp.audit import ladder
from midre_exp.audit.__main__ import _parser as parser
from midre_exp.audit.__main__ import _rungs, main
from midre_exp.audit.ladder import Clock, Expected, OutOfTime, Tried, climb, deadline, first_that_fits
from midre_exp.audit.network import Checkpoint, Network
from midre_exp.audit.page import write_page
from midre_exp.audit.reading import NORMALISATIONS, Pictures, Preprocessing, Reading
from midre_exp.audit.rungs import RUNGS
from midre_exp.audit.settings import Subject, settings_for
from midre_exp.audit.verdict import ABOVE, NO_VERDICT, exit_code, judge_audit
from midre_exp.cost.forecast import Forecast
from midre_exp.data.base import Dataset
from midre_exp.errors import ConfigError, DivergedError
from midre_exp.plan.config import build
from midre_exp.plan.keys import node_of
from midre_exp.store.store import Store
from midre_exp.sweep.estimate import Estimate, Needed
from tests.report.paper_records import record

WAY = Preprocessing(48, "none", "half", *NORMALISATIONS["half"])


@pytest.fixture
def subject(tmp_path):
    root = tmp_path / "people"
    for name in ("anna", "bo", "cleo"):
        (root / name).mkdir(parents=True)
        for number in range(3):
            Image.new("L", (20, 24), 40 * number).save(root / name / f"{number}.png")
    node = {"_target_": "midre_exp.targets.ResNet", "depth": 18, "width": 0.25, "stem": "half"}
    network = Network("resnet18", node, "a ResNet-18")
    reading = Reading(network, WAY, ("anna", "cleo"), 98.0, 6, "all pictures", "alphabetical")
    checkpoint = Checkpoint(tmp_path / "net.pt", tmp_path / "net.pt", 2, (network,))
    return Subject(checkpoint, reading, Pictures(root), tmp_path / "out")


def tried(subject, attack="gmi", *, att=80.0, shares=(100.0, 60.0), judge=95.0, width=5.0, **config) -> Tried:
    rung = next(rung for rung in RUNGS if rung.attack == attack)
    settings = settings_for(subject, attack)
    for place, values in config.items():
        settings[place] = {**settings[place], **values}
    made = record(98.0, att, attack=attack, by_identity=list(shares), width=width)
    made["metrics"]["evaluator_acc"] = judge
    made["counts"] |= {"private_identities": 2, "identities": 2}
    made |= {"config": settings, "queries": 400, "seconds": {"prior": 60.0, "attack": 30.0}}
    made["artifacts"] |= {"attack": attack[0] * 16}
    return Tried(rung, settings, made)


def audit(subject, *every):
    return judge_audit(subject, every, seconds=60, command="midre-exp audit ...")


def test_the_verdict_names_people_and_what_it_took(subject):
    missed = Tried(RUNGS[0], settings_for(subject, "brepmi"), reason="it would take about 9 min")
    found = audit(subject, tried(subject), missed)
    assert found.verdict.startswith("People are exposed. Whoever has the weights of the network could")
    assert "200 queries per person" in found.verdict and found.worst == 80.0
    assert [(p.name, p.exposure) for p in found.persons] == [("anna", 100.0), ("cleo", 60.0)]
    assert "brepmi: it would take about 9 min" in found.not_tested
    assert any("no attack from labels alone was finished" in text for text in found.not_tested)
    assert exit_code(found, None) == 0 and exit_code(found, 90) == 0 and exit_code(found, 20) == ABOVE


def test_a_judge_below_the_floor_and_a_result_at_chance_are_no_exposure(subject):
    weak = audit(subject, tried(subject, judge=70.0))
    assert "may not be read" in weak.verdict and exit_code(weak, 20) == NO_VERDICT
    chance = audit(subject, tried(subject, att=52.0))
    assert chance.verdict.startswith("No exposure was found") and chance.readable
    nothing = audit(subject, Tried(RUNGS[0], settings_for(subject, "gmi"), reason="the time was over"))
    assert "says nothing" in nothing.verdict and exit_code(nothing, 20) == NO_VERDICT


def test_what_is_wrong_with_a_network_trained_anew_is_told(subject):
    one = tried(subject)
    anew = tried(subject, "brepmi")
    anew.record["alarms"] = {"target": ["it recognises 5 %"]}
    found = audit(subject, one, replace(anew, rung=replace(anew.rung, retrained=("nodef",))))
    assert "trained anew, NoDef: it recognises 5 %" in found.alarms and len(found.attacks) == 1


def test_the_page_shows_nobody_without_the_switch(subject):
    tensors = {
        "images": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        "labels": torch.arange(2),
        "restarts": torch.zeros(2, dtype=torch.int64),
    }
    Store(subject.out / "store").build(
        "attack", "g" * 16, config={}, upstream={}, make=lambda w: w.save_tensors("reconstructions", tensors)
    )
    for shown in (False, True):
        one = tried(subject, publish={"people": shown})
        found = replace(audit(subject, one), file="<b>net.pt", alarms=["labels | are odd"])
        markdown, page, plain = (path.read_text() for path in write_page(found, subject, [one]))
        assert page.count("data:image") == (4 if shown else 0)  # a picture and a reconstruction of each
        assert ("This page shows people" in page) == shown
        assert (
            ("Nobody of folder is shown" in page) == ("Nobody of folder is shown" in markdown) == (not shown)
        )
        assert "data:image" not in markdown and "anna" in markdown and "<b>" not in page
        assert json.loads(plain)["persons"][0]["name"] == "anna"


def test_the_config_is_of_the_network_as_it_was_read(subject):
    settings = settings_for(subject, "gmi")
    assert settings["target"]["model"] == {
        "_target_": "midre_exp.targets.ResNet",
        "depth": 18,
        "width": 0.25,
        "stem": "half",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    }
    assert settings["attack"]["image_to_target"] == [
        {"_target_": "midre_exp.data.transforms.Resize", "size": 48}
    ]
    assert settings["attack"]["identities"] == 2 and settings["data"]["people"] == "unknown"
    assert settings["data"]["private"]["private"] == ["anna", "cleo"]
    assert settings["data"]["public"]["_target_"].endswith("SynthFaces")  # bo has too few pictures
    pictures = settings_for(replace(subject, public=str(subject.pictures.root)), "gmi")
    assert pictures["data"]["public"]["_target_"].endswith("AnyPictures")
    anew = settings_for(subject, "gmi", retrained=("midre",))
    assert anew["target"]["checkpoint"] is None and [*anew["defense"]] == ["midre"]


def people_in(root, count, pictures=4):
    for person in range(count):
        (root / f"p{person}").mkdir(parents=True)
        for number in range(pictures):
            Image.new("L", (8, 8), 10 * number + person).save(root / f"p{person}" / f"{number}.png")
    return root


def test_a_verifier_learns_from_people_of_the_attackers_folder_or_it_is_told_why_not(subject, tmp_path):
    assert "no pictures of 10 other people are here" in subject.strangers  # bo is one, with three pictures
    assert settings_for(subject, "gmi").get("open_set") is None
    public = people_in(tmp_path / "public", 12)
    known = replace(subject, public=str(public))
    settings = settings_for(known, "gmi")
    assert settings["open_set"]["epochs"] == 120 and settings["open_set"]["batch_size"] == 12
    learnt = build(node_of(settings["data"], "verification"), kind=Dataset, trusted=())
    parts = [learnt.load(part) for part in ("train", "test")]
    assert parts[0].num_classes == 12 and sum(map(len, parts)) == 48
    assert parts[0].images.shape[-1] == settings["evaluator"]["resolution"]
    assert len(build(settings["data"]["public"], kind=Dataset, trusted=()).load("public")) == 48
    stated = settings_for(replace(known, overrides=("open_set.epochs=7",)), "gmi")
    assert stated["open_set"]["epochs"] == 7  # what the user says comes last
    few = replace(subject, public=str(people_in(tmp_path / "few", 9)))
    assert "4 or more pictures of 9 people, and 10 are needed" in few.strangers
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("L", (8, 8)).save(flat / "a.png")
    assert "does not say who is who" in replace(subject, public=str(flat)).strangers


def test_people_of_the_folder_whom_the_network_does_not_know_come_before_the_attackers(subject, tmp_path):
    people_in(subject.pictures.root, 10)
    both = replace(subject, pictures=Pictures(subject.pictures.root), public="synthetic")
    settings = settings_for(both, "gmi")
    learnt = build(node_of(settings["data"], "verification"), kind=Dataset, trusted=())
    assert learnt.load("train").classes == tuple(f"p{number}" for number in range(10))
    # and where the attacker's folder is that of the people themselves, they are no strangers
    inside = replace(both, public=str(subject.pictures.root))
    assert inside.strangers.people == 10


OPEN = {
    "verifier": {"identities": 16, "held_out": 4, "held_out_images": 24, "eer": 4.0, "pairs": 72},
    "decoys": 4,
    "tar": {"0.01": {"value": 31.25, "low": 20.0, "high": 42.0}},
    "rank": {"median": 1.0, "chance": 3.0, "first": 62.5, "first_low": 40.0, "first_high": 80.0},
    "missing": {"tar@0.001": "72 impostor pairs tell nothing of 0.001"},
}


def test_the_page_tells_what_a_verifier_says_or_why_none_was_asked(subject, tmp_path):
    markdown, page, plain = (
        path.read_text() for path in write_page(audit(subject, tried(subject)), subject, [tried(subject)])
    )
    for text in (markdown, page):
        assert "No judge was asked who never saw these people" in text and "--public DIR" in text
    assert (
        json.loads(plain)["verifier"]["why_not"] and "accepts" not in audit(subject, tried(subject)).verdict
    )

    known = replace(subject, public=str(people_in(tmp_path / "public", 12)))
    one = tried(known)
    for eer, counts in ((4.0, True), (9.0, False)):
        one.record["open_set"] = {**OPEN, "verifier": {**OPEN["verifier"], "eer": eer}}
        found = audit(known, one)
        assert ("never saw these people accepts 31.2 %" in found.verdict) == counts
        markdown, page, _ = (path.read_text() for path in write_page(found, known, [one]))
        for text in (markdown, page):
            assert ("above 5 %, so its word does not count" in text) != counts
            assert "1 of 5 (chance 3)" in text and "20.0–42.0" in text and "72 impostor pairs" in text


def test_a_file_of_ours_keeps_the_numbers_of_its_defense(subject):
    said = {"midre": {"_target_": "os.system", "a_l": 0.2, "elsewhere": 1}}
    known = replace(subject, checkpoint=replace(subject.checkpoint, trained_with=said))
    (node,) = settings_for(known, "gmi")["defense"].values()
    assert (
        node["a_l"] == 0.2
        and node["a_h"] == 0.4
        and node["_target_"] == "defenses.MIDRE"
        and "elsewhere" not in node
    )
    unknown = replace(subject.checkpoint, trained_with={"armour": {}})
    with pytest.raises(ConfigError, match="was trained with armour, which is no choice"):
        settings_for(replace(subject, checkpoint=unknown), "gmi")


# time


def test_what_does_not_fit_is_told_and_what_is_late_is_stopped(subject, monkeypatch):
    said: list[str] = []
    forecasts = iter(Expected(one, 0.0) for one in (1.0, 1000.0, 1.0, 1.0, 2.0))
    monkeypatch.setattr(ladder, "forecast_of", lambda *_, **__: next(forecasts))

    def late(settings):
        if settings["attack"]["name"] == "rlbmi":
            time.sleep(30)
        raise DivergedError("the prior diverged", "lower its rate")

    monkeypatch.setattr(ladder, "carry_out", late)
    node = {"prior": {"steps": 100}}
    monkeypatch.setattr(ladder, "settings_for", lambda _, attack, **__: {"attack": {"name": attack, **node}})
    clock = Clock(ladder._SPARE + 1.5)
    found = climb(subject, clock, said.append, [RUNGS[0], RUNGS[3], RUNGS[2], RUNGS[1]])
    assert found[0].reason.startswith("it would take about") and found[0].expected >= 1000.0
    assert "the prior diverged" in found[1].reason
    assert "was not finished in time" in found[2].reason and found[2].seconds < 10
    assert found[3].reason == "the time was over"


def test_priors_are_shorter_where_time_is_short_and_stay_so(tmp_path):
    def steps(expected: float, left: float, folder: str) -> int:
        settings = {"attack": {"prior": {"steps": 1000}}}
        said: list[str] = []
        ladder._fit_priors(tmp_path / folder, [settings], expected, left, said.append)
        assert bool(said) == (settings["attack"]["prior"]["steps"] < 1000)
        return settings["attack"]["prior"]["steps"]

    assert (steps(100, 600, "a"), steps(0, 1, "b"), steps(500, 600, "c"), steps(9e3, 600, "d")) == (
        *(1000, 1000, 500, 250),
    )
    assert steps(9e3, 600, "a") == 1000 and steps(1, 600, "d") == 250  # what was begun goes on


def test_a_clock_learns_how_slow_it_is_here():
    clock = Clock(100)
    assert clock.slowness == 1
    for took, forecast in ((30, 10), (20, 10), (90, 10), (0.1, 10)):
        clock.learn(took, Expected(forecast, 0))
    clock.learn(900, Expected(10, 0, is_all=False))
    assert clock.slowness == 3
    # what this machine took for the like of it is no slower for that, and teaches nothing
    assert Expected(10, 40).here(clock.slowness) == 70
    clock.learn(60, Expected(10, 40))
    clock.learn(500, Expected(0.5, 40))
    assert clock.slowness == 3 and sorted(clock._ratios) == [2, 2, 3, 9]


def test_what_was_measured_here_is_not_taken_for_a_count(monkeypatch):
    takes = [Forecast("counted", 5.0), Forecast("scaled", 20.0), Forecast("likened", 3.0), Forecast("")]
    stages = [Needed("attack", "k", "it", stored=False, takes=one) for one in takes]
    stages.append(Needed("target", "k", "it", stored=True, takes=Forecast("counted", 99.0)))
    monkeypatch.setattr(ladder, "estimate", lambda *_, **__: Estimate(1, 0, 0, stages))
    assert ladder.forecast_of([], counting=0) == Expected(5.0, 23.0, is_all=False)
    stages.pop(3)
    assert ladder.forecast_of([], counting=0).is_all


def test_a_defense_is_compared_by_the_strongest_attack_for_which_there_is_time(subject, monkeypatch):
    seconds = {"plgmi": 900.0, "gmi": 50.0, "brepmi": 9e3}
    monkeypatch.setattr(
        ladder, "settings_for", lambda _, attack, **__: {"attack": {"name": attack, "prior": {"steps": 9}}}
    )
    monkeypatch.setattr(
        ladder, "forecast_of", lambda every, **_: Expected(seconds[every[0]["attack"]["name"]], 0.0)
    )
    subject.out.mkdir()
    groups = [[rung for rung in RUNGS if rung.attack == name] for name in seconds]

    def chosen(minutes: float) -> str:
        return first_that_fits(subject, Clock(60 * minutes), groups)[0].attack

    assert (chosen(20), chosen(3), chosen(1)) == ("plgmi", "gmi", "brepmi")


def test_a_deadline_rings_once_and_leaves_nothing_behind():
    with pytest.raises(OutOfTime), deadline(0.01):
        time.sleep(5)
    with deadline(0.05):
        pass
    time.sleep(0.1)


# the command line


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--minutes", "0"], "--minutes 0 must be above 0"),
        (["--people", "0"], "--people 0 must be at least 1"),
        (["--defense", "armour"], "--defense armour is unknown"),
        (["--attacks", "gmi,charm"], "--attacks charm is unknown"),
        (["--public", "/nowhere"], "--public /nowhere is no folder"),
    ],
)
def test_mistakes_in_options_are_a_sentence_and_exit_code_2(words, told, tmp_path, capsys):
    given = ["--images", str(tmp_path), "--checkpoint", str(tmp_path / "net.pt"), *words]
    with pytest.raises(ConfigError, match=told):
        _rungs(parser().parse_args(given))
    assert main([*given, "--out", str(tmp_path / "out")]) == 2 and told in capsys.readouterr().err


@pytest.mark.parametrize("size", ["112x96", "0", "-3", "big"])
def test_a_size_that_is_no_square_is_refused_with_what_to_do(size, capsys):
    with pytest.raises(SystemExit) as refused:
        main(["--images", ".", "--checkpoint", "net.pt", "--size", size])
    told = " ".join(capsys.readouterr().err.split())
    assert (
        refused.value.code == 2 and f"{size} is no number of pixels" in told and "resizes them first" in told
    )


def test_a_missing_file_is_a_sentence(tmp_path, capsys):
    given = [
        "--images",
        str(tmp_path),
        "--checkpoint",
        str(tmp_path / "net.pt"),
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(given) == 2 and "does not exist" in capsys.readouterr().err
    assert (tmp_path / "o" / ".gitignore").read_text() == "*\n"
