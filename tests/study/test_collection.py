from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from midre_exp.errors import DataError
from midre_exp.records import read_record
from midre_exp.report.tables.comparison import caption, comparison, printable
from midre_exp.study.__main__ import main
from midre_exp.study.collection import ExportChoice, export
from midre_exp.study.mllm import category, picture_of, read_judge, subject_of
from midre_exp.study.verdict import confusion
from tests.study.greys import GREYS, OVERRIDES, record_of

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "fmllm.json").read_text())


def test_answers_count_as_in_the_official_program():
    for answer, counts, _, kind in GOLDEN["decisions"]:
        assert category(answer) == kind, answer
        assert (category(answer) == "yes") == counts, answer


def test_a_no_at_either_end_is_one_whatever_is_known():
    assert category("no, I know") == category("I know them: no.") == "no"
    assert category("I now say no way") == category("no, nothing") == "refuse"


def test_the_question_is_chosen_as_in_the_official_program():
    for folder, subject in GOLDEN["task_by_path"]:
        assert subject_of(folder) == subject


def test_the_evaluator_is_measured_as_in_the_official_program():
    judge, evaluator = (
        {picture_of(name): said == "yes" for name, said in GOLDEN[rows]}
        for rows in ("judge_rows", "conventional_rows")
    )
    both = sorted(judge.keys() & evaluator.keys())
    found = confusion([judge[p] for p in both], [evaluator[p] for p in both])
    expected = GOLDEN["numbers"]
    assert len(both) == GOLDEN["joined"]
    assert {name: expected[name] for name in ("TP", "TN", "FP", "FN")} == {
        name: found[name] for name in ("TP", "TN", "FP", "FN")
    }
    assert (round(found["FPR"], 2), round(found["FNR"], 2)) == (expected["FPR"], expected["FNR"])
    assert found["false_hits"] == pytest.approx(60)
    # the evaluator's own answers given back: nothing is false
    same = confusion([evaluator[p] for p in both], [evaluator[p] for p in both])
    assert (same["FPR"], same["FNR"], same["false_hits"]) == (0, 0, 0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """A folder with two runs of six people and their export."""
    folder = tmp_path_factory.mktemp("exported")
    runs = [record_of(folder, name, label) for name, label in zip("ab", GREYS, strict=True)]
    given = ExportChoice(store=str(folder / "store"), overrides=OVERRIDES, controls=4)
    assert export(runs, folder / "out", given) == 2 * (12 + 4) + 2 * 4
    return folder


@pytest.fixture
def copy(exported, tmp_path) -> Path:
    shutil.copytree(exported, tmp_path / "copy")
    return tmp_path / "copy"


def setups(folder: Path) -> dict[str, Path]:
    """The folders that are asked about: a, b, same, other, a_crossed, b_crossed."""
    told = json.loads((folder / "out" / "export.json").read_text())
    runs = {run["key"][0]: run for run in told["runs"]}
    places = {
        **told["controls"],
        **{name: run["folder"] for name, run in runs.items()},
        **{f"{name}_crossed": run["crossed"] for name, run in runs.items()},
    }
    return {name: folder / "out" / place for name, place in places.items()}


def ask(setup: Path, says, *, judge: str = "model_1", head: str = "filename,response,label") -> Path:
    """The file that the official evaluation writes beside the pictures."""
    path = setup / f"gemini_results_{judge}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(head.split(","))
        for picture in sorted((setup / "all-images").rglob("*.png")):
            said = says(*picture_of(picture.name))
            writer.writerow([picture.name, said, said.lower()][: len(head.split(","))])
    return path


def ask_all(folder: Path, says, **names) -> None:
    """Ask about run a and the controls, to which a good judge knows the answers."""
    places = setups(folder)
    ask(places["a"], says, **names)
    ask(places["same"], lambda *_: "Yes.", **names)
    ask(places["other"], lambda *_: "No", **names)
    ask(places["a_crossed"], lambda *_: "no", **names)


def test_the_layout_is_the_published_one(exported):
    places = setups(exported)
    inside = places["a"].relative_to(exported / "out")
    assert inside.parts[0] == "AttackSamples" and len(inside.parts) == 5
    assert subject_of(str(inside)) == "face"  # though the data's own name says nothing
    private = exported / "out" / "AttackSamples" / inside.parts[1] / "private-data"
    for place, setup in places.items():
        pictures = sorted((setup / "all-images").rglob("*.png"))
        assert len({picture.name for picture in pictures}) == len(pictures)  # it resumes by base name
        for picture in pictures:
            label, restart = picture_of(picture.name)
            assert picture.name == f"ID={label}_T={restart}.png" and picture.parent.name == str(label)
            references = sorted((setup / "private-data" / str(label)).iterdir())
            assert len(references) == 4
            assert [r.read_bytes() for r in references] == [
                r.read_bytes() for r in sorted((private / str(label)).iterdir())
            ]
            shown = picture.read_bytes()
            if place in ("same", "other"):
                assert shown not in {r.read_bytes() for r in references}
            else:
                colour = Image.open(picture).getpixel((0, 0))[0]
                base = 100 if restart or "crossed" in place else [*GREYS.values()]["ab".index(place[0])]
                assert (colour - base == label) == ("crossed" not in place) and 0 <= colour - base < 6
    rows = [*csv.reader((places["a"] / "prediction.csv").open())]
    assert rows[0] == ["filename", "prediction"] and len(rows) == 13
    assert all((said == "yes") == (picture_of(name)[0] % 2 == 0) for name, said in rows[1:])


def test_controls_are_photographs_of_whom_they_say(exported):
    places, person = setups(exported), {}
    for picture in (places["same"] / "all-images").rglob("*.png"):
        person[picture.read_bytes()] = picture_of(picture.name)[0]
    known = {}
    for picture in (places["other"] / "all-images").rglob("*.png"):
        owner = person.get(picture.read_bytes())
        known[picture_of(picture.name)[0]] = owner
        assert owner != picture_of(picture.name)[0]
    assert len(known) == 4 and sum(owner is not None for owner in known.values()) >= 1


def test_answers_become_one_more_judge(copy, capsys):
    def says(label, restart):
        return "Yes" if label < 2 else "I cannot determine that" if label == 5 else "No."

    ask_all(copy, says)
    ask_all(copy, lambda label, _: "yes" if label == 0 else "no", judge="other", head="filename,prediction")
    record, table = copy / "a.json", copy / "t.csv"
    (copy / "prompt.txt").write_text("Same?")
    given = ["import", str(copy / "out"), str(record), "--prompt", str(copy / "prompt.txt")]
    assert main([*given, "--out", str(table)]) == 0
    assert "model_1" in capsys.readouterr().out and len(pd.read_csv(table)) == 2
    made = read_record(record)
    block = made["mllm"]["model_1"]
    assert block["said_same"] == pytest.approx(100 / 3) and block["pictures"] == 12
    assert block["said_same_low"] < block["said_same"] < block["said_same_high"]
    assert (block["refused"], block["unanswered"]) == (2, 0)
    # it accepts 0 and 1, the evaluator 0, 2 and 4, each twice
    assert [block["evaluator"][name] for name in ("TP", "FP", "FN", "TN")] == [2, 4, 2, 4]
    assert [block["controls"][kind]["said_same"] for kind in ("same", "other", "crossed")] == [100, 0, 0]
    assert not block["alarms"] and len(block["prompt_sha256"]) == 64 and block["part"] == "test"
    assert block["answers"]["5"] == "0:refuse 1:refuse"
    # 2 of 12 both yes, 8 both no
    assert block["kappa_with"]["other"] == pytest.approx((10 / 12 - 11 / 18) / (1 - 11 / 18))
    assert printable(comparison([made]))["same: model_1"].tolist() == ["33.3"]
    assert "model_1 (yes to 100 % of further photographs of the person" in caption("T", [made])
    assert made["metrics"] == json.loads((copy / "b.json").read_text())["metrics"]  # never among them


def test_a_model_that_fails_the_controls_or_was_asked_none_is_marked(copy):
    places = setups(copy)
    ask(places["a"], lambda *_: "yes")
    assert main(["import", str(copy / "out"), str(copy / "a.json")]) == 0
    assert "has answered no controls" in read_record(copy / "a.json")["mllm"]["model_1"]["alarms"][0]
    for place in ("same", "other"):
        ask(places[place], lambda *_: "yes")
    assert main(["import", str(copy / "out"), str(copy / "a.json")]) == 0
    (alarm,) = read_record(copy / "a.json")["mllm"]["model_1"]["alarms"]
    assert "to 100 % of 4 photographs of somebody else" in alarm


def test_calls_that_failed_are_told(copy):
    path = ask(setups(copy)["a"], lambda *_: "yes")
    path.write_text("\n".join(path.read_text().splitlines()[:-3]) + "\n")
    assert main(["import", str(copy / "out"), str(copy / "a.json")]) == 0
    block = read_record(copy / "a.json")["mllm"]["model_1"]
    assert (block["pictures"], block["unanswered"]) == (9, 3)


@pytest.mark.parametrize(
    "lines, message",
    [
        (["filename,response,label", "ID=77_T=0.png,yes,yes"], "line 2 .*no answer about a picture of this"),
        (["filename,response", "ID=0_T=0.png"], "line 2"),
        (["filename,label", "ID=0_T=0.png,yes", "x/ID=0_T=0_c.png,no"], "line 3: ID=0_T=0.png was answered"),
        (["ID=0_T=0.png,yes"], "does not begin with the names of its columns"),
        (["filename,label"], "holds no answers"),
        ([], "does not begin"),
    ],
)  # fmt: skip
def test_wrong_files_are_named_with_their_line(lines, message, tmp_path):
    path = tmp_path / "x_results_y.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=message):
        read_judge(path, [(0, 0)])


def test_mistakes_are_told_in_a_sentence_and_write_nothing(copy, capsys):
    out, a, store = copy / "out", str(copy / "a.json"), ["--store", str(copy / "store")]
    before = (copy / "a.json").read_bytes()
    mistakes = {
        "holds no answers; they are files": ["import", str(out), a],
        "is no export, or one that": ["import", str(copy), a],
        "is no empty folder": ["export", a, *OVERRIDES, "--out", str(out), *store],
    }
    for sentence, arguments in mistakes.items():
        assert main(arguments) == 2
        said = capsys.readouterr().err
        assert sentence in said and said.count("\n") == 1
    ask(setups(copy)["a"], lambda *_: "yes")
    ask(setups(copy)["a"], lambda *_: "yes").rename(setups(copy)["a"] / "qwen_results_model_1.csv")
    ask(setups(copy)["a"], lambda *_: "yes")
    assert main(["import", str(out), a]) == 2 and "are of one model" in capsys.readouterr().err
    assert main(["import", str(out), a, "--judge", "nobody"]) == 2
    told = out / "export.json"
    told.write_text(told.read_text().replace('"seed": 0', '"seed": 1'))
    assert main(["import", str(out), a]) == 2 and "is damaged" in capsys.readouterr().err.replace("\n", " ")
    assert (copy / "a.json").read_bytes() == before


def test_people_are_not_given_away_unless_the_user_says_so(exported, tmp_path, capsys):
    given = ["export", str(exported / "a.json"), *OVERRIDES, "data.people=consented"]
    places = ["--out", str(tmp_path / "out"), "--store", str(exported / "store"), "--controls", "1"]
    assert main([*given, *places]) == 2
    assert "publish.people=true" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*given, "publish.people=true", *places]) == 0
    assert "shows people (consented)" in (tmp_path / "out" / "READ_THIS_FIRST.txt").read_text()
