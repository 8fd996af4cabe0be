from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from midre_exp.errors import ConfigError, DataError
from midre_exp.records import read_record, records, update_record
from midre_exp.report.runs.captions import alarms_of
from midre_exp.report.tables.comparison import caption, comparison, printable
from midre_exp.study.__main__ import main
from midre_exp.study.answers import read_answers, read_keys
from midre_exp.study.people import findings
from midre_exp.study.same_person import SameChoice, make_same_study
from tests.study.greys import GREYS, OVERRIDES, answer_file, questions_on, record_of

KINDS = ("reconstruction", "same", "other", "crossed")


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """A folder with a page about two runs of six people, four controls of each kind."""
    folder = tmp_path_factory.mktemp("asked")
    runs = [record_of(folder, name, label) for name, label in zip("ab", GREYS, strict=True)]
    given = SameChoice(store=str(folder / "store"), overrides=OVERRIDES, controls=4)
    assert make_same_study(runs, folder / "s.html", folder / "k.json", given) == 2 * 6 + 3 * 4
    return folder


def key_of(folder: Path) -> dict:
    return json.loads((folder / "k.json").read_text())


def answers_of(folder: Path, name: str, says) -> Path:
    """The file of a rater who says ``says(question)`` is the same person."""
    words = ["same" if says(question) else "different" for question in key_of(folder)["questions"]]
    return answer_file(folder / f"{name}.csv", folder / "k.json", words, name)


def careful(question) -> bool:
    """Knows photographs, and takes the reconstructions of people 0 to 3 by run a for them."""
    return question["kind"] == "same" or (
        question["kind"] == "reconstruction" and question["run"] == 0 and question["of"] < 4
    )


def found_in(folder: Path, *files: Path):
    keys = read_keys([folder / "k.json"])
    return findings(read_answers(files, keys), keys)


def test_every_kind_of_question_shows_what_the_key_says(asked):
    questions, shown = key_of(asked)["questions"], questions_on(asked / "s.html")
    counts = {kind: sum(q["kind"] == kind for q in questions) for kind in KINDS}
    assert counts == {"reconstruction": 12, "same": 4, "other": 4, "crossed": 4}
    assert [q["kind"] for q in questions[:12]] != ["reconstruction"] * 12  # controls stand between
    beside: dict[int, list[bytes]] = {}
    for question, (picture, *photographs) in zip(questions, shown, strict=True):
        assert len(photographs) == 4
        around = [photograph.tobytes() for photograph in photographs]
        assert beside.setdefault(question["identity"], around) == around  # the same ones for every run
        assert len(set(around)) == 4
        is_own = question["identity"] == question["of"]
        assert is_own == (question["kind"] in ("reconstruction", "same"))
        if question["run"] is None:
            assert len(picture.getcolors()) > 50 and picture.tobytes() not in around
        else:
            base = 100 if question["restart"] else [*GREYS.values()][question["run"]]
            assert picture.getpixel((3, 3)) == (base + question["of"],) * 3
            assert question["hit"] == (question["of"] % 2 == 0)
    for question, (picture, *_) in zip(questions, shown, strict=True):
        if question["kind"] == "other":  # a photograph of whom the key says, which stands nowhere beside his
            assert picture.tobytes() not in beside.get(question["of"], [])


def test_the_page_does_not_tell_what_a_picture_is(asked):
    text = (asked / "s.html").read_text()
    for word in ("NoDef", "MIDRE", "gmi", "vgg16", "S01", "synth-0", "crossed", "reconstruction", "a" * 16):
        assert word not in text


def test_hits_controls_and_agreement_of_several_raters(asked):
    def lenient(question):  # one more of run a, and one of run b
        return careful(question) or (question["kind"] == "reconstruction" and question["of"] == 4)

    files = [
        answers_of(asked, name, says) for name, says in [("p1", careful), ("p2", careful), ("p3", lenient)]
    ]
    found = found_in(asked, *files)
    a, b, same, other, crossed = found.table.to_dict("records")
    assert (a["said_same"], a["pictures"]) == (pytest.approx(100 * 4 / 6), 6)  # one of three is no majority
    assert a["mean_yes"] == pytest.approx(100 * (4 * 3 + 1) / 18)
    assert (b["said_same"], b["mean_yes"]) == (0, pytest.approx(100 / 18))
    # k = 0 of 6: the upper end p solves (1 - p)^6 = 0.025
    assert (b["said_same_low"], b["said_same_high"]) == (0, pytest.approx(100 * (1 - 0.025 ** (1 / 6))))
    assert (same["said_same"], other["said_same"], crossed["said_same"]) == (100, 0, 0)
    assert same["pictures"] == 12  # answers
    # of 12 reconstructions 4 all yes, 6 all no, 2 with one of three: by hand
    observed, yes = (10 + 2 * (1 / 3)) / 12, 14 / 36
    chance = yes**2 + (1 - yes) ** 2
    assert found.agreement.kappa == pytest.approx((observed - chance) / (1 - chance))
    assert "3 raters on the 12 reconstructions" in str(found.agreement) and not found.warnings
    block = found.blocks["a" * 16]
    # people accept 0 to 3, the evaluator 0, 2 and 4
    assert [block["evaluator"][name] for name in ("TP", "FP", "FN", "TN")] == [2, 1, 2, 1]
    assert block["evaluator"]["FPR"] == 50 and block["evaluator"]["false_hits"] == pytest.approx(100 / 3)


def test_two_raters_have_cohens_kappa_and_one_has_none(asked):
    def strict(question):
        return careful(question) and question["of"] != 0

    files = [answers_of(asked, "p1", careful), answers_of(asked, "p2", strict)]
    both = found_in(asked, *files).agreement
    chance = (4 * 3 + 8 * 9) / 144
    assert both.kappa == pytest.approx((11 / 12 - chance) / (1 - chance)) and "Cohen's" in str(both)
    alone = found_in(asked, files[0]).agreement
    assert alone.kappa is None and "One rater alone" in str(alone)


@pytest.mark.parametrize(
    "says, told",
    [
        (lambda q: True, "100 % of 4 photographs of somebody else"),
        (lambda q: False, "0 % of 4 further photographs"),
    ],
)
def test_a_rater_who_fails_the_controls_is_told_and_counted_apart(asked, says, told):
    files = [answers_of(asked, "p1", careful), answers_of(asked, "p2", says)]
    found = found_in(asked, *files)
    assert len(found.warnings) == 1 and "rater p2" in found.warnings[0] and told in found.warnings[0]
    block = found.blocks["a" * 16]
    assert block["said_same_by_fit_raters"] == pytest.approx(100 * 4 / 6)
    assert block["unfit_raters"] == 1 and told in block["alarms"][0]


def test_who_was_shown_no_control_is_no_witness(asked):
    keys = read_keys([asked / "k.json"])
    answers = read_answers([answers_of(asked, "p1", careful)], keys)
    questions = key_of(asked)["questions"]
    kept = [a for a in answers if questions[a.question - 1]["kind"] == "reconstruction"]
    assert "has answered no controls" in findings(kept, keys).warnings[0]


def test_what_people_said_is_in_the_record_and_a_column(asked, tmp_path, capsys):
    folder = tmp_path / "mini"
    (folder / "records").mkdir(parents=True)
    places = [folder / "records" / f"{name}.json" for name in "ab"]
    for place in places:
        place.write_bytes((asked / place.name).read_bytes())
    files = [answers_of(asked, name, careful) for name in ("p1", "p2")]
    files.append(answers_of(asked, "p3", lambda q: True))
    given = ["score", *map(str, files), "--key", str(asked / "k.json"), "--record", *map(str, places)]
    assert main([*given, "--out", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    assert "Fleiss' kappa" in said and "Warning: rater p3" in said and "photographs of somebody else" in said
    assert "nan" not in said
    assert len(pd.read_csv(tmp_path / "t.csv")) == 5
    kept = [read_record(place) for place in places]  # with its checksum
    assert kept[0]["study"]["said_same"] == pytest.approx(100 * 4 / 6)
    assert [*records(folder)["said_same_people"]] == pytest.approx([100 * 4 / 6, 0])
    table = printable(comparison(kept))
    assert table["same: people"].tolist() == ["66.7", "0.0"]
    assert "people (3 raters, kappa " in caption("T", kept)
    assert "yes to 100 % of further photographs of the person, 33 % of somebody else's" in caption("T", kept)
    assert any("rater p3" in sentence for sentence in alarms_of(kept[0]))


def test_a_run_that_is_done_again_keeps_what_people_said_of_the_same_reconstructions(asked, tmp_path, caplog):
    path = tmp_path / "mini" / "records" / "a.json"
    path.parent.mkdir(parents=True)
    made = json.loads((asked / "a.json").read_text()) | {"seconds": {"attack": 1.5, "metrics": 1.0}}
    path.write_text(json.dumps(made))
    files = [answers_of(asked, "p1", careful)]
    assert main(["score", str(files[0]), "--key", str(asked / "k.json"), "--record", str(path)]) == 0
    update_record(path, made | {"seconds": {"attack": 1.5, "metrics": 2.0}})
    assert read_record(path)["study"]["raters"] == 1 and read_record(path)["seconds"]["metrics"] == 2
    update_record(path, made | {"seconds": {"attack": 3.0, "metrics": 2.0}})
    assert "study" not in read_record(path) and "verdicts of people were of the former ones" in caplog.text


def test_mistakes_are_told_in_a_sentence(asked, tmp_path, capsys):
    run = str(asked / "a.json")
    places = ["--store", str(asked / "store"), "--out", str(tmp_path / "s.html")]
    mistakes = {
        "controls need two people": ["make", "--ask", "same", run, *OVERRIDES, *places, "--identities", "1"],
        "--controls=0 must be at least 1": ["make", "--ask", "same", run, *places, "--controls", "0"],
        "is no record; give the .json files": ["make", "data=lfw", *places],
        "asked of two records, not of 1": ["make", run, *OVERRIDES, *places],
        "--photographs belongs to pages": ["make", run, run, *places, "--photographs", "2"],
    }
    for sentence, arguments in mistakes.items():
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
    file = answers_of(asked, "p1", careful)
    (tmp_path / "other.json").write_text(
        json.dumps(json.loads((asked / "a.json").read_text()) | {"key": "c" * 16})
    )
    given = ["score", str(file), "--key", str(asked / "k.json"), "--record"]
    assert main([*given, str(tmp_path / "other.json")]) == 2
    assert "is of none of the runs that were asked about" in capsys.readouterr().err
    left = file.read_text().replace(",same,", ",left,")
    (tmp_path / "left.csv").write_text(left)
    with pytest.raises(DataError, match="same or different"):
        read_answers([tmp_path / "left.csv"], read_keys([asked / "k.json"]))


def test_a_key_that_was_changed_is_refused(asked, tmp_path):
    content = key_of(asked)
    content["questions"][0]["hit"] = not content["questions"][0]["hit"]
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="is damaged"):
        read_keys([tmp_path / "k.json"])
    with pytest.raises(ConfigError, match="different questions"):
        record_of(tmp_path, "a", "NoDef"), record_of(tmp_path, "b", "MIDRE [0.1, 0.4]")
        paths = [str(tmp_path / f"{name}.json") for name in "ab"]
        assert main(["make", *paths, *OVERRIDES, "--store", str(tmp_path / "store"),
                     "--out", str(tmp_path / "c.html")]) == 0  # fmt: skip
        read_keys([tmp_path / "c.key.json", asked / "k.json"])
