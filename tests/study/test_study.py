from __future__ import annotations

import json
import re
import subprocess

import pandas as pd
import pytest

from midre_exp.errors import ConfigError, DataError, StoreError
from midre_exp.study.__main__ import main
from midre_exp.study.answers import read_answers, read_keys
from midre_exp.study.questionnaire import make_study
from midre_exp.study.score import score
from tests.study.greys import GREYS, OVERRIDES, answer_file, choice, questions_on, record_of


@pytest.fixture
def pair(tmp_path):
    return record_of(tmp_path, "a", "NoDef"), record_of(tmp_path, "b", "MIDRE [0.1, 0.4]")


@pytest.mark.parametrize("selected", [False, True])
def test_the_key_tells_which_picture_is_whose(tmp_path, selected):
    pair = [
        record_of(tmp_path, name, label, selected=selected) for name, label in zip("ab", GREYS, strict=True)
    ]
    page, key = tmp_path / "study.html", tmp_path / "key.json"
    assert make_study(tuple(pair), page, key, choice(tmp_path)) == 6
    content = json.loads(key.read_text())
    assert content["runs"]["b"]["defense"] == "MIDRE [0.1, 0.4]"
    shown = questions_on(page)
    for entry, (photograph, left, right) in zip(content["questions"], shown, strict=True):
        expected = {run: shade + entry["identity"] for run, shade in zip("ab", GREYS.values(), strict=True)}
        assert left.getpixel((3, 3)) == (expected[entry["left"]],) * 3
        assert right.getpixel((3, 3)) == (expected["b" if entry["left"] == "a" else "a"],) * 3
        assert len(photograph.getcolors()) > 50
    assert sorted(entry["identity"] for entry in content["questions"]) == list(range(6))
    assert sum(entry["left"] == "a" for entry in content["questions"]) == 3  # neither run has the better side


def test_the_page_is_blind_and_needs_nothing_else(pair, tmp_path):
    page, key = tmp_path / "study.html", tmp_path / "key.json"
    make_study(pair, page, key, choice(tmp_path))
    text = page.read_text()
    for word in ("NoDef", "MIDRE", "gmi", "vgg16", "S01", "synth-0", "a" * 16, "b" * 16):
        assert word not in text
    assert not re.findall(r"""(?:src|href)=["']?http""", text)


def test_another_seed_is_another_order_and_the_same_seed_the_same_bytes(pair, tmp_path):
    texts = []
    for number, seed in enumerate((0, 0, 1)):
        make_study(
            pair, tmp_path / f"{number}.html", tmp_path / f"{number}.json", choice(tmp_path, seed=seed)
        )
        texts.append([(tmp_path / f"{number}.{ending}").read_text() for ending in ("html", "json")])
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[2][0] and texts[0][1] != texts[2][1]


def test_only_the_first_identities_of_both_runs_are_asked_about(tmp_path):
    pair = record_of(tmp_path, "a", "NoDef", identities=3), record_of(tmp_path, "b", "NoDef", identities=6)
    key = tmp_path / "key.json"
    assert make_study(pair, tmp_path / "s.html", key, choice(tmp_path)) == 3
    assert make_study(pair, tmp_path / "s.html", key, choice(tmp_path, identities=2)) == 2
    assert {entry["identity"] for entry in json.loads(key.read_text())["questions"]} == {0, 1}


def test_what_cannot_be_compared_is_refused_in_a_sentence(pair, tmp_path):
    with pytest.raises(ConfigError, match="are the same run"):
        make_study((pair[0], pair[0]), tmp_path / "s.html", tmp_path / "k.json", choice(tmp_path))
    other = json.loads(pair[1].read_text())
    other["config"]["data"]["private"]["identities"] = 9
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(ConfigError, match="different private images"):
        make_study(
            (pair[0], tmp_path / "other.json"), tmp_path / "s.html", tmp_path / "k.json", choice(tmp_path)
        )
    with pytest.raises(StoreError, match=r"reconstructions of run a{16} are not in .*elsewhere.*--store"):
        make_study(
            pair,
            tmp_path / "s.html",
            tmp_path / "k.json",
            choice(tmp_path, store=str(tmp_path / "elsewhere")),
        )
    assert not (tmp_path / "s.html").exists()


def test_answers_are_counted_for_the_run_that_stood_there(pair, tmp_path, capsys):
    page, row = tmp_path / "study.html", tmp_path / "row.csv"
    places = ["--out", str(page), "--store", str(tmp_path / "store")]
    assert main(["make", *map(str, pair), *OVERRIDES, *places]) == 0
    key = tmp_path / "study.key.json"
    left = [entry["left"] for entry in json.loads(key.read_text())["questions"]]
    for_b = ["left" if run == "b" else "right" for run in left]
    files = [
        answer_file(tmp_path / "1.csv", key, for_b, "p1"),
        answer_file(tmp_path / "2.csv", key, [*for_b[:5], "right" if for_b[5] == "left" else "left"], "p2"),
        answer_file(tmp_path / "again.csv", key, for_b, "p1"),  # the same file under another name
    ]
    assert main(["score", *map(str, files), "--key", str(key), "--out", str(row)]) == 0
    a, b = pd.read_csv(row).to_dict("records")
    assert (a["selections"], b["selections"], b["of"], b["participants"]) == (1, 11, 12, 2)
    assert (a["majorities"], b["majorities"], b["ties"], b["identities"]) == (0, 5, 1, 6)
    assert b["share"] == pytest.approx(100 * 11 / 12)
    assert "MIDRE [0.1, 0.4]" in capsys.readouterr().out


def test_the_interval_is_the_exact_binomial_one():
    runs = {name: {"setup": "S01", "attack": "gmi", "defense": name, "seed": 0} for name in "ab"}
    answers = pd.DataFrame({"participant": "p", "identity": range(10), "run": ["a"] * 10})
    a, b = score(answers, runs).to_dict("records")
    # k = n: the lower end p solves p^n = 0.025
    assert a["share_low"] == pytest.approx(100 * 0.025**0.1) and a["share_high"] == pytest.approx(100)
    assert b["share_low"] == 0 and b["share_high"] == pytest.approx(100 * (1 - 0.025**0.1))


@pytest.mark.parametrize(
    "lines, message",
    [
        (["participant,answer"], "does not begin with study,participant"),
        (["HEAD", "other,p,1,left,5"], "line 2 belongs to study other"),
        (["HEAD", "STUDY,p,7,left,5"], "line 2 .* from 1 to 6"),
        (["HEAD", "STUDY,p,1,middle,5"], "left or right"),
        (["HEAD", "STUDY,p,1,left,5", "STUDY,p,1,right,5"], "line 3: p has answered question 1 differently"),
        (["HEAD", "STUDY,p"], "line 2"),
        (["HEAD", ""], "no answers"),
    ],
)
def test_wrong_answer_files_are_named_with_their_line(lines, message, pair, tmp_path):
    key = tmp_path / "k.json"
    make_study(pair, tmp_path / "s.html", key, choice(tmp_path))
    keys = read_keys([key])
    text = "\n".join(lines).replace("HEAD", "study,participant,question,answer,milliseconds")
    path = tmp_path / "answers.csv"
    path.write_text(text.replace("STUDY", next(iter(keys))))
    with pytest.raises(DataError, match=message):
        read_answers([path], keys)


def test_studies_of_two_seeds_are_scored_together_but_not_of_other_runs(pair, tmp_path):
    paths = []
    for seed in (0, 1):
        paths.append(tmp_path / f"k{seed}.json")
        make_study(pair, tmp_path / "s.html", paths[-1], choice(tmp_path, seed=seed))
    keys = read_keys(paths)
    files = [answer_file(tmp_path / f"{k.stem}.csv", k, ["left"] * 6, k.stem) for k in paths]
    assert len(read_answers(files, keys)) == 12
    make_study(pair[::-1], tmp_path / "s.html", paths[1], choice(tmp_path))
    with pytest.raises(ConfigError, match="in another order"):
        read_keys(paths)
    with pytest.raises(DataError, match="no key of a study"):
        read_keys([pair[0]])


def test_mistakes_end_in_one_sentence_and_code_2(tmp_path, capsys):
    assert main(["make", str(tmp_path / "x.json"), str(tmp_path / "y.json")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_private_images_are_those_of_the_users_own_config(pair, tmp_path):
    places = (tmp_path / "s.html", tmp_path / "k.json")
    with pytest.raises(
        ConfigError, match=r"a.json attacked private images of which identities differ .*7 there, 9"
    ):
        make_study(pair, *places, choice(tmp_path, overrides=(*OVERRIDES, "data.private.identities=9")))
    for path in pair:
        made = json.loads(path.read_text())
        made["data"]["name"] = made["config"]["data"]["name"] = "lost"
        path.write_text(json.dumps(made))
    with pytest.raises(ConfigError, match="is of data lost, which is none of your configs; give data=NAME"):
        make_study(pair, *places, choice(tmp_path))
    assert make_study(pair, *places, choice(tmp_path, overrides=("data=synthfaces", *OVERRIDES))) == 6


def test_a_record_runs_nothing_of_what_it_names(pair, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "harmful.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\ndef call(**_): open({str(tmp_path / 'ran')!r}, 'w')"
    )
    for path in pair:
        made = json.loads(path.read_text())
        made["config"]["data"]["private"] = {"_target_": "harmful.call"}
        made["config"]["runtime"] = {"trusted_packages": ["harmful"]}
        path.write_text(json.dumps(made))
    with pytest.raises(ConfigError, match="private images of which _target_ differ"):
        make_study(pair, tmp_path / "s.html", tmp_path / "k.json", choice(tmp_path))
    assert not (tmp_path / "ran").exists() and not (tmp_path / "s.html").exists()


def test_people_are_asked_about_only_with_the_switch_and_where_git_keeps_nothing(pair, tmp_path):
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
    (checkout / ".gitignore").write_text("/private/\n")
    page, key = checkout / "study.html", tmp_path / "k.json"
    people = (*OVERRIDES, "data.people=consented")
    with pytest.raises(ConfigError, match="Nobody of synthfaces is shown: the people in it are consented"):
        make_study(pair, tmp_path / "outside.html", key, choice(tmp_path, overrides=people))
    shown = choice(tmp_path, overrides=(*people, "publish.people=true"))
    with pytest.raises(ConfigError, match="private photographs where git keeps it; give --out outside"):
        make_study(pair, page, key, shown)
    assert not page.exists()
    for path in (checkout / "private" / "s.html", tmp_path / "outside.html"):
        assert make_study(pair, path, key, shown) == 6
        assert "This page shows people (consented)" in path.read_text()
