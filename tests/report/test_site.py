"""The site, lists of runs and the forest plot, of made-up records that the product's own writer wrote."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import html5lib
import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.compose import packaged_composer, packaged_configs
from midre_exp.records import update_record
from midre_exp.records.comparable import comparable_config
from midre_exp.report.__main__ import main
from midre_exp.report.claims.render import render_claims
from midre_exp.report.figures.forest import render_forest
from midre_exp.report.runs.commands import command_of
from midre_exp.report.runs.folders import FoundRecord, ResultsFolder, read_folders
from midre_exp.report.runs.listing import render_runs
from midre_exp.report.site.build import LIST, render_site
from midre_exp.report.site.charts import trade_off
from midre_exp.report.site.contents import parts_of
from midre_exp.report.site.leaderboard import rows_of, tracks_of
from midre_exp.report.site.reported import reported_tracks
from tests.report.paper_records import PARTS, record
from tests.report.test_worst_case import suite

ROOT = Path(__file__).parents[2]
PARTS.setdefault("early_stopping", {"_target_": "defenses.EarlyStopping", "share": 0.5})
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> & {{ 7 * 7 }}'
SHARE = {"att_acc1": 40.0, "att_acc1_low": 30.0, "att_acc1_high": 50.0}


def spread(mean: float) -> list[float]:
    return [mean + offset for offset in (-4, -2, 0, 2, 4) * 6]


def run(acc, att, *names, attack="plgmi", threat="white_box", key="a" * 16, **values):
    """A record whose attack accuracy is known by identity, with hardly any spread."""
    made = record(acc, att, *names, attack=attack, by_identity=spread(att), **values)
    made["artifacts"] |= {"target": key, "evaluator": "e" * 16}
    return {**made, "threat": threat, "queries": 3000}


def interval(value):
    return {"value": value, "low": value - 3, "high": value + 3}


def judged(made):
    """With what judges and diagnostics add to a record."""
    rates = {"0.01": interval(31.0), "0.001": interval(12.0)}
    points = [{"eps": eps, **interval(value)} for eps, value in ((1, 41.0), (4, 9.0))]
    made["metrics"] |= {"tar@0.01": 31.0, "robust@1": 41.0, "train_acc": 99.0, "att_acc1_all_judges": 38.5}
    return {
        **made,
        "open_set": {
            "verifier": {"eer": 4.0},
            "rank": {"first": 20.0, "median": 3.0},
            "tar": rates,
        },
        "diagnostics": {
            "key": "d" * 16,
            "robust_accuracy": {"clean": interval(91.0), "area": interval(20.0), "points": points},
        },
        "controls": {"chance": 0.1, "prior": SHARE, "other_identity": SHARE},
        "jury": {
            "published": "facenet112",
            "judges": {
                "facenet112": {"acc": 95.0, "metrics": SHARE},
                "resnet18": {"acc": 91.0, "metrics": SHARE},
            },
            "all_agree": SHARE,
            "agreement": [],
        },
        "missing": {"fid": "no weights are chosen"},
    }


def arms():
    """An undefended target, stopped ones, and two defenses, of which an attacker by labels breaks one."""
    early = [
        run(acc, att, "early_stopping", share=share) for acc, att, share in ((90, 50, 0.5), (80, 20, 0.2))
    ]
    midre = [judged(run(91, 30 + seed, "midre", seed=seed, key=str(seed) * 16)) for seed in (0, 1)]
    return [
        run(95, 80, key="b" * 16),
        run(95, 60, attack="brepmi", threat="labels", key="b" * 16),
        *early,
        *midre,
        run(91, 35, "midre", attack="brepmi", threat="labels", key="0" * 16),
        run(94, 20, "nls", key="c" * 16),
        run(94, 59, "nls", attack="brepmi", threat="labels", key="c" * 16),
    ]


def written(folder: Path, *records) -> Path:
    for made in records:
        name = (
            f"{made['setup']['id']}-{'+'.join(made['defense']['parts'])}-s{made['seed']}-{made['key']}.json"
        )
        update_record(folder / "records" / name, made)
    return folder


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A results folder with records, answers to claims, a forest plot, a table, and hostile words in all."""
    place = tmp_path_factory.mktemp("results")
    evil = run(93, 50, "bido", key="f" * 16)
    evil["defense"]["label"], evil["alarms"] = HOSTILE, {"target": [HOSTILE]}
    evil["missing"], evil["commit"] = {HOSTILE: HOSTILE}, HOSTILE
    evil["setup"]["title"], evil["device"] = HOSTILE, HOSTILE
    real = run(90, 33, "cutmix", setup="lfw", key="9" * 16, config={"data": {"name": "lfw", "private": {}}})
    real |= {"classes": ["Ada Somebody", "Bob Anybody"], "data": {"name": "lfw", "resolution": 64}}
    folder = written(place / "mini", *arms(), suite(91, 30, 62, "midre", alarms=[HOSTILE]), evil, real)
    row = f"| {HOSTILE.replace('<', '&lt;')} | 50.00 |"
    (folder / "defenses.md").write_text(f"| Defense | AttAcc |\n|:---|---:|\n{row}\n\nCaption {HOSTILE}\n")
    label = HOSTILE.replace('"', '""')
    (folder / "defenses.csv").write_text(f'setup,attack,target,defense\nS19,plgmi,vgg16,"{label}"\n')
    render_claims([f"paths.results={place}"])
    told = json.loads((folder / "claims.json").read_text())
    told["claims"][0]["statement"] = HOSTILE
    (folder / "claims.json").write_text(json.dumps(told))
    render_forest([f"paths.results={place}"])
    return place


@pytest.fixture(scope="module")
def site(results, tmp_path_factory):
    out = tmp_path_factory.mktemp("site") / "out"
    assert main(["site", str(results), "--out", str(out)]) == 0
    return out


def pages(out: Path) -> list[Path]:
    return sorted(out.rglob("*.html"))


def dead_links(out: Path) -> list[str]:
    texts = {path.resolve(): path.read_text() for path in pages(out)}
    names = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        for link in set(re.findall(r'\b(?:href|src)="([^"]*)"', text)):
            parts = urlsplit(link)
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            alive = target.is_file() and (not parts.fragment or parts.fragment in names[target])
            if parts.scheme or parts.netloc or not alive:
                found.append(f"{path.name}: {link}")
    return found


def test_every_link_is_alive_and_none_leads_outside(site):
    assert len(pages(site)) > 20 and dead_links(site) == []
    (site / "row" / "extra.html").write_text('<a href="../index.html#nowhere">x</a><img src="gone.png">')
    assert sorted(dead_links(site)) == ["extra.html: ../index.html#nowhere", "extra.html: gone.png"]
    (site / "row" / "extra.html").unlink()


def test_every_page_is_valid_html(site):
    for path in pages(site):
        parser = html5lib.HTMLParser(strict=True)
        parser.parse(path.read_text())  # raises at the first mistake
        assert len(re.findall(r"<h1>", path.read_text())) == 1
    with pytest.raises(html5lib.html5parser.ParseError):
        html5lib.HTMLParser(strict=True).parse("<!doctype html><title>x</title><p></div>")


def test_no_record_table_or_claim_injects_html_and_nobody_real_is_named(site):
    shown = 0
    for path in pages(site):
        text = path.read_text()
        assert "<script>" not in text and "<img src=x" not in text
        assert "Ada" not in text and "Anybody" not in text
        shown += "&lt;script&gt;alert(1)" in text and "{{ 7 * 7 }}" in text
    assert shown >= 5  # its record, its row, its track, the table, the claims


def tracks(*records):
    found = written_in_memory(records)
    return {
        track.threat: {each.row.label: each for each in track.rows} for track in tracks_of(rows_of(found, {}))
    }


def written_in_memory(records):
    folder = ResultsFolder(Path("mini"), "mini")
    return [FoundRecord(one, Path(f"{one['key']}.json"), folder, True) for one in records]


def test_a_row_is_a_target_with_the_worst_of_all_attacks_that_see_no_more():
    found = tracks(*arms())
    assert set(found) == {"white_box", "labels"}
    white, labels = found["white_box"]["midre"], found["labels"]["midre"]
    assert white.row is labels.row and white.row.seeds == [0, 1] and white.row.shown == "MIDRE [0.1, 0.4]"
    assert (white.worst.name, white.worst.number.value, white.tried) == ("BREP-MI", 35.0, 2)
    assert [one.name for one in white.attacks] == ["BREP-MI", "PLG-MI"] and len(labels.attacks) == 1
    assert white.attacks[1].number.value == pytest.approx(30.5)
    low, high = white.attacks[1].number.low, white.attacks[1].number.high
    assert low < 30.5 < high
    attacked, gain = white.gain  # at 91 % the frontier has 56 %
    assert attacked.name == "PLG-MI" and gain.value == pytest.approx(56 - 30.5)
    assert white.open_set[1].value == 31 and white.row.of_target("robust@1").value == 41
    undefended = found["white_box"]["NoDef"]
    assert (
        undefended.gain is None
        and undefended.open_set is None
        and undefended.row.of_target("robust@1") is None
    )
    assert "early_stopping 0.2" in found["white_box"] and "early_stopping 0.2" not in found["labels"]


def test_a_defense_is_broken_by_an_attack_from_which_it_takes_next_to_nothing():
    white = tracks(*arms())["white_box"]
    assert white["nls"].broken_by == "BREP-MI" and white["nls"].status == "verified: broken by BREP-MI"
    assert white["midre"].broken_by is None and white["NoDef"].broken_by is None
    weak = [one for one in arms() if one["defense"]["label"] != "nls"]
    weak += [run(94, 78, "nls"), run(94, 59, "nls", attack="brepmi", threat="labels")]
    assert tracks(*weak)["white_box"]["nls"].broken_by is None  # it never protected
    assert tracks(*weak)["labels"]["nls"].broken_by is None
    faint = [one for one in arms() if one["attack"] != "brepmi"]
    faint += [run(95, 8, attack="brepmi", threat="labels", key="b" * 16)]
    faint += [run(94, 7, "nls", attack="brepmi", threat="labels", key="c" * 16)]
    assert tracks(*faint)["white_box"]["nls"].broken_by is None  # it has nothing to lose


def test_a_suite_gives_the_worst_case_and_an_informed_attacker_is_not_left_out():
    informed = run(91, 70, "midre", config={"attack": {"name": "plgmi", "informed": True}})
    white = tracks(*arms(), informed, suite(91, 30, 62, "midre", key="0" * 16))["white_box"]["midre"]
    assert [one.name for one in white.attacks] == [
        "worst case (low resolution)",
        "PLG-MI, informed",
        "BREP-MI",
        "PLG-MI",
    ]
    assert white.worst.by == "ppa_informed 62.0" and white.tried == 3 and white.worst.number.value == 72


def test_records_without_checksum_or_from_others_are_told(tmp_path):
    folder = written(tmp_path / "mini", *arms()[:1])
    (found,) = read_folders([folder]).records
    assert found.checked and found.origin is None
    next((folder / "checksums").iterdir()).unlink()
    (found,) = read_folders([folder]).records
    assert tracks_of(rows_of([found], {}))[0].rows[0].status == "recomputed here, no checksum"
    found.record["origin"] = [{"bundle": "their-lab.zip", "sha256": "0" * 64}]
    assert tracks_of(rows_of([found], {}))[0].rows[0].status == "external (their-lab.zip)"


def test_two_folders_made_apart_are_one_site_and_a_page_of_before_goes(tmp_path, caplog):
    mine, theirs = arms()[:4], arms()[4:]
    other = {**mine[0], "metrics": {**mine[0]["metrics"], "acc": 12.0}}
    written(tmp_path / "mine" / "mini", *mine)
    written(tmp_path / "theirs" / "mini", *theirs, other)
    found = read_folders([tmp_path / "mine", tmp_path / "theirs"])
    assert len(found.records) == len(arms()) and (found.repeated, found.differing) == (1, 1)
    assert "which is shown: metrics.acc" in caplog.text
    assert [folder.label for folder in found.folders] == ["mini", "theirs-mini"]
    out = tmp_path / "out"
    render_site([tmp_path / "mine", tmp_path / "theirs"], out)
    assert dead_links(out) == [] and "1 of them with other numbers" in (out / "index.html").read_text()
    assert "12.0" not in (out / "runs.html").read_text()
    before = len(pages(out))
    (out / "notes.txt").write_text("mine")
    render_site([tmp_path / "mine"], out)
    assert len(pages(out)) < before and dead_links(out) == [] and (out / "notes.txt").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    with pytest.raises(ConfigError, match="full is no site of ours"):
        render_site([tmp_path / "mine"], tmp_path / "full")
    (out / LIST).write_text("../thesis.tex\nindex.html\n")
    (tmp_path / "thesis.tex").write_text("")
    render_site([tmp_path / "mine"], out)
    assert (tmp_path / "thesis.tex").exists()


def test_what_is_not_measured_is_told_so(site):
    (row,) = [path for path in (site / "row").iterdir() if "-nls-" in path.name]
    text = row.read_text()
    assert re.search(r"Robust accuracy, 1/255</dt><dd><span class=\"none\">not measured", text)
    assert "judge who knows nobody</th><td>not measured" in text
    (judged_row,) = [path for path in (site / "row").iterdir() if "-midre-" in path.name]
    text = judged_row.read_text()
    assert (
        "41.0" in text and "Robust accuracy.</b>" in text and "Accepted by a judge who knows nobody" in text
    )
    assert "all agree on 40.0 %" in text and "Suite worst case (low resolution)" in text
    assert text.count('class="strip"') == 3 and "identity 29:" in text


def test_labels_of_a_chart_cover_neither_marks_nor_each_other():
    rows = list(tracks(*arms())["white_box"].values())
    chart = trade_off("vgg16", rows, "{}.html")
    assert len(chart.points) == 5 and all(point.place for point in chart.points)
    boxes = []
    for point in chart.points:
        width = 6.1 * len(point.label)
        left = point.place[0] - {"start": 0, "end": width, "middle": width / 2}[point.anchor]
        boxes.append((left, point.place[1] - 9, left + width, point.place[1] + 3))
    for i, a in enumerate(boxes):
        for b in boxes[i + 1 :]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert not any(a[0] < p.x < a[2] and a[1] < p.y < a[3] for p in chart.points)


def test_a_rendered_table_is_read_back():
    headings, lines, text = parts_of(
        "| a | b |\n|:--|--:|\n| x \\| &lt;y | 1 |\n\n![t](t.png)\n\nCaption\nof two lines"
    )
    assert headings == ["a", "b"] and lines == [["x | <y", "1"]] and text == ["Caption of two lines"]


def test_the_papers_rows_are_reported():
    found = {track.data: track for track in reported_tracks()}
    track = found["FaceScrub (attacker: FFHQ) at 224 px"]
    assert track.threat == "white-box"
    rows = {(row.target, row.defense): row for row in track.rows}
    assert rows["ResNet-18", "NoDef"].worst.att_acc1 == 88.67  # of 87.12 and 88.67, as printed


def test_claims_written_with_the_words_of_conf_are_shown_by_name_with_their_records(results, tmp_path):
    place = tmp_path / "mini"
    shutil.copytree(results / "mini", place)
    text = (place / "claims.json").read_text()
    (place / "claims.json").write_text(text.replace("PLG-MI on VGG16", "plgmi on vgg16"))
    assert "(plgmi on vgg16" in (place / "claims.json").read_text()
    assert main(["site", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    (page,) = (tmp_path / "out" / "shown").rglob("claims.html")
    shown = page.read_text()
    assert "plgmi on" not in shown and re.search(
        r"\(PLG-MI on VGG16, [a-z]+\).*\n?.*href=\"[^\"]*record/", shown
    )
    assert (
        '<td class="words">PLG-MI</td><td class="words">VGG16</td>'
        in (tmp_path / "out" / "runs.html").read_text()
    )


# lists of runs


def test_runs_are_chosen_as_a_sweep_names_them(results, capsys):
    def keys(*words):
        return [one.record["key"] for one in render_runs([str(results), *words])]

    names = ("midre", "MIDRE [0.1, 0.4]", "midre,fe")
    assert [len(keys(f"defense={name}")) for name in names] == [4, 4, 4]
    assert len(keys("defense=MIDRE", "attack=brepmi,plgmi", "seed=0")) == 2
    assert len(keys("threat=labels")) == 3 and keys("scale=paper") == []
    assert keys("defense=[midre,nls]") == [] and len(keys(f"key={keys('seed=1')[0][:6]}")) == 1
    assert "0 of 12 runs." in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"runs are chosen by scale, .*, not by colour; correct colour=red"):
        keys("colour=red")
    with pytest.raises(ConfigError, match="nothing holds no records"):
        render_runs(["nothing"])


def test_runs_as_json_are_plain(results, capsys):
    assert main(["runs", str(results), "attack=brepmi", "defense=nls", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["metrics"]["att_acc1"] == 59 and row["threat"] == "labels" and row["informed"] is False
    assert Path(row["path"]).is_file() and row["origin"] is None
    assert main(["claims", "--json"]) == 2 and main(["runs", "--out", "x"]) == 2
    assert main(["site", "scale=mini"]) == 2


def test_the_command_of_a_record_composes_to_its_config():
    jobs = [
        ["setup=demo", "scale=mini", "attack=ppa", "defense=midre_wide", "seed=1"],
        ["setup=S27", "scale=mini", "defense=[midre,nls]", "defense.midre.a_l=0.3", "seed=0"],
        ["setup=evidence", "scale=evidence", "target=ir152", "attack=brepmi", "defense=tldmi",
         "attack.informed=true", "open_set=verifier", "diagnostics=default", "jury=[resnet18]", "seed=2"],
    ]  # fmt: skip
    with packaged_configs():
        composer = packaged_composer()
        for job in jobs:
            config = composer.settings(job)
            made = record(90, 50, setup=config["setup"]["id"], attack=config["attack"]["name"])
            made |= {name: config[name]["name"] for name in ("target", "evaluator")}
            made |= {name: config[name] for name in ("scale", "seed")}
            made |= {"config": config, "data": {"name": config["data"]["name"], "resolution": 32}}
            made["defense"] = {"label": "x", "parts": config["defense"]}
            words = shlex.split(command_of([made]))
            assert words[:2] == ["midre-exp", "run"]
            again = composer.settings(words[2:])
            assert comparable_config(again) == comparable_config(config), job
            assert {name: again.get(name) for name in ("jury", "open_set", "diagnostics")} == {
                name: config.get(name) for name in ("jury", "open_set", "diagnostics")
            }
    assert command_of([made, {**made, "seed": 0}]).endswith("seed=0,2")
    made["defense"]["parts"] = {"nobody": {"_target_": "nobody.Knows"}}
    assert command_of([made]) is None


# the forest plot


def test_the_forest_has_a_line_for_each_measured_claim(results):
    folder = results / "mini"
    assert all((folder / f"forest.{kind}").stat().st_size > 1000 for kind in ("png", "pdf", "svg"))
    claims = json.loads((folder / "claims.json").read_text())["claims"]
    lines = (folder / "forest.csv").read_text().strip().split("\n")
    assert len(lines) == len(claims) + 1
    assert "claims were not measured and are not drawn" in (folder / "forest.md").read_text()


def test_without_answers_there_is_no_forest(tmp_path):
    with pytest.raises(
        ConfigError, match="holds no answers to claims; make them with midre-exp report claims"
    ):
        render_forest([f"paths.results={tmp_path}"])


def test_the_site_of_all_committed_records_has_no_dead_link_and_needs_no_torch(tmp_path):
    code = (
        "import sys\nfrom midre_exp.report.site.build import render_site\n"
        f"render_site([{str(ROOT / 'results')!r}], {str(tmp_path / 'out')!r})\n"
        "sys.exit(bool({'torch', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    assert dead_links(tmp_path / "out") == []
    kept = {path.stem for path in (ROOT / "results").glob("*/records/*.json")}
    assert len(list((tmp_path / "out" / "record").iterdir())) == len(kept)
