"""Claims as data, when they were registered, and the statistics of registered ones."""

from __future__ import annotations

import subprocess
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from midre_exp.errors import ConfigError
from midre_exp.plan.config import OWN_CONFIGS
from midre_exp.records.claims import REPORT_CONF, registered_claims
from midre_exp.report.claims.cells import Cells, combined, mean_of
from midre_exp.report.claims.decisions import decide_all
from midre_exp.report.claims.definitions import Claim, known_defenses, load_claim, load_claims
from midre_exp.report.claims.intervals import comparison_groups
from midre_exp.report.claims.permutation import EXACT, holm, sign_flip_p
from midre_exp.report.claims.registration import AFTER, NOT_KNOWN, registrations
from midre_exp.report.claims.render import family, overview, p_values, render_claims
from midre_exp.store.files import write_json
from tests.report.paper_records import record

GOOD = """\
statement: MIDRE lowers attack accuracy
source: here
contrast: {kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}
direction: below
unit: points
needs: both
scales: [mini]
"""


def written(folder: Path, text: str = GOOD, name: str = "own") -> Claim:
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return load_claim(name, path, known_defenses())


# -- as data --


@pytest.mark.parametrize(
    "old, new, told",
    [
        ("unit: points\n", "", "own.yaml lacks unit; it needs statement, source"),
        ("unit:", "units: x\nunit:", "own.yaml: units is read by nothing; did you mean unit? a claim takes"),
        ("direction: below", "direction: down", "own.yaml: direction=down cannot be used; give below or abo"),
        (
            "kind: difference",
            "kind: diffrence",
            "own.yaml: contrast.kind is one of difference, informed",
        ),
        ("second: NoDef, ", "", "own.yaml lacks contrast.second; it needs first, second, metric"),
        (
            "metric: att_acc1",
            "metric: fid",
            "own.yaml: contrast.metric=fid cannot be used; give acc, att_acc1",
        ),
        ("first: MIDRE", "first: MIDER", "own.yaml: contrast.first names no defense: MIDER; there are "),
        ("first: MIDRE", "share: 3, first: MIDRE", "own.yaml: contrast.share is read by nothing"),
        (
            "{kind",
            "{where: {atack: gmi}, kind",
            "contrast.where.atack is read by nothing; did you mean contr",
        ),
        ("{kind: difference", "[kind", "own.yaml is no yaml of a claim"),
        ("scales: [mini]", "scales: []", "own.yaml: scales="),
        (
            "scales: [mini]",
            "scales: [minni]",
            "own.yaml: scales has minni; there are audit, demo, evidence, ",
        ),
        (
            "{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}",
            "{kind: better_trade_off, first: MIDRE, second: NoDef}",
            "contrast.kind: better_trade_off has no p-value, so it cannot be registered",
        ),
        (
            "{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}",
            "{kind: slope_over_share, defense: MIDRE}",
            "contrast.kind: slope_over_share has no p-value, so it cannot be registered",
        ),
        (
            "metric: att_acc1",
            "metric: robust_area",
            "contrast.metric: robust_area has no p-value, so it cannot be registered",
        ),
        (
            "{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}",
            "{kind: between_attacks, attack: ppa, against: pla, metric: att_acc1}",
            "own.yaml: contrast names no attack: pla; there are brepmi, ",
        ),
        (
            "{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}",
            "{kind: above_chance, attacks: [ppa], defenses: [NoDef, MIDER], times: 3}",
            "own.yaml: contrast.defenses names no defense: MIDER; there are ",
        ),
        (GOOD, "- a list", "own.yaml"),
    ],
)
def test_a_mistake_in_a_claim_names_file_and_key(tmp_path, old, new, told):
    with pytest.raises(ConfigError) as found:
        written(tmp_path, GOOD.replace(old, new))
    assert told in str(found.value) and "\n" not in str(found.value)


def test_a_claim_of_the_users_own_config_folder_is_decided_beside_the_packaged_ones(tmp_path, monkeypatch):
    written(tmp_path / "conf" / "claim")
    monkeypatch.setenv(OWN_CONFIGS, str(tmp_path / "conf"))
    claims = load_claims("mini")
    registered = {claim.name: claim.meaning for claim in claims if claim.scales is not None}
    assert "own" in registered and "ppdg-over-ppa" in registered
    assert registered_claims("mini") == registered and registered_claims("synth") == {}
    for number, run in enumerate([record(90, 60), record(88, 40, "midre")]):
        write_json(tmp_path / "mini" / "records" / f"{number}.json", run)
    render_claims([f"paths.results={tmp_path}"])
    text = (tmp_path / "mini" / "claims.md").read_text()
    assert "### MIDRE lowers attack accuracy: undecided" in text  # no numbers by identity, no p
    assert f"{len(registered)} registered claims: an answer needs also p < 0.05" in text
    assert "1 without p" in text


def test_the_packaged_claims_say_all_that_evidence_asks():
    own = {claim.name: claim for claim in load_claims("evidence") if claim.scales is not None}
    assert len(own) >= 10 and all(claim.path.parent == REPORT_CONF / "claim" for claim in own.values())
    assert own["price-converged"].threshold == 3 and own["cutmix-does-not-protect"].threshold == -3
    assert own["labels-only-converged"].where.attack == "brepmi"


def test_a_range_is_part_of_a_defenses_name_where_it_is_given(tmp_path):
    narrow, wide = record(88, 40, "midre"), record(80, 20, "midre", a_h=0.8)
    groups, _ = comparison_groups([record(90, 60), narrow, wide])
    either = written(tmp_path)
    one = written(tmp_path, GOOD.replace("first: MIDRE", 'first: "MIDRE [0.1, 0.8]"'), "one")
    assert [e.value for e in either.effects(groups)] == [-20, -40]
    assert [e.value for e in one.effects(groups)] == [-40]
    elsewhere = written(tmp_path, GOOD.replace("{kind", "{where: {attack: [gmi, ppa]}, kind"), "elsewhere")
    assert elsewhere.effects(groups) == []


# -- registered before the runs --


def git(folder: Path, *command: str) -> str:
    name = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *name, "-C", folder, *command], capture_output=True, check=True, text=True)
    return done.stdout.strip()


def committed(folder: Path) -> str:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "x", "--allow-empty")
    return git(folder, "rev-parse", "--short=12", "HEAD")


def test_git_tells_whether_a_claim_was_there_before_the_runs(tmp_path):
    git(tmp_path, "init", "-q")
    before = committed(tmp_path)
    folder = tmp_path / "claim"
    written(folder, GOOD.replace("below", "above"))
    other = committed(tmp_path)
    claim = written(folder)
    first = committed(tmp_path)
    (folder / "own.yaml").write_text("# a comment changes nothing\n" + GOOD)
    later = committed(tmp_path)
    claim = load_claim("own", folder / "own.yaml", known_defenses())

    def told(*commits: str | None) -> str:
        runs = [{**record(90, 60), "commit": commit} for commit in commits]
        return registrations([claim], runs)["own"]

    at = git(tmp_path, "rev-parse", "--short", first)
    assert told(first, later) == told(f"{later}+changes.12345678") == f"at {at}, before the runs"
    assert told(first, other) == told(before) == AFTER
    assert told(later, "0123456789ab") == told(None, later) == NOT_KNOWN
    changed = written(folder, GOOD.replace("below", "above"))
    assert registrations([changed], [{**record(90, 60), "commit": later}])["own"] == AFTER
    narrow = written(folder, GOOD.replace("{kind", "{where: {setup: S20}, kind"))
    last = committed(tmp_path)
    runs = [{**record(90, 60), "commit": before}, {**record(90, 60, setup="S20"), "commit": last}]
    assert "before the runs" in registrations([narrow], runs)["own"]  # what it does not look at is no matter
    assert registrations([narrow], [*runs, {**runs[0], "setup": {"id": "S20"}}])["own"] == AFTER


def test_without_git_the_digests_of_the_records_tell(tmp_path):
    claim = written(tmp_path / "claim")

    def told(*digests: str | None) -> str:
        runs = [record(90, 60) | ({} if d is None else {"claims": {"own": d}}) for d in digests]
        return registrations([claim], runs)["own"]

    assert told(claim.meaning, claim.meaning) == "before the runs (by the digests in the records)"
    assert told(claim.meaning, "0" * 16) == AFTER
    assert told(claim.meaning, None) == NOT_KNOWN


# -- p-values --


def test_null_data_has_uniform_p_values():
    rng = np.random.default_rng(1)
    ps = np.sort([sign_flip_p(rng.normal(size=12)) for _ in range(400)])
    assert np.abs(ps - np.arange(1, 401) / 400).max() < 1.63 / 20  # Kolmogorov and Smirnov, 1 %


def test_drawn_patterns_agree_with_all_of_them(monkeypatch):
    parts = np.random.default_rng(2).normal(0.5, 1, size=EXACT)
    exact = sign_flip_p(parts)
    monkeypatch.setattr("midre_exp.report.claims.permutation.EXACT", 3)
    assert sign_flip_p(parts) == pytest.approx(exact, abs=0.01) and sign_flip_p(parts) == sign_flip_p(parts)


def test_the_exact_p_value_is_the_share_of_patterns():
    parts = np.array([3.0, 1.0, 2.0, -0.5])
    sums = [abs(np.dot(signs, parts)) for signs in product((1, -1), repeat=4)]
    assert sign_flip_p(parts) == np.mean(np.array(sums) >= parts.sum())
    assert sign_flip_p(np.zeros(5)) == 1.0 == sign_flip_p(np.array([]))
    assert sign_flip_p(np.array([1.0, 1.0, 1.0, 0.0])) == 2 / 8


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def cells(*parts: float, seed: int | None = None) -> Cells:
    row = np.asarray(parts) / len(parts)
    return Cells({("faces", seed): row}, {("faces", seed): np.full(len(parts), 1 / len(parts))})


def test_the_margin_is_taken_off_every_part():
    assert cells(3.0, 5.0).less(1.0).tolist() == [1.0, 2.0]


def test_an_identity_is_one_cluster_of_several_effects():
    mean = mean_of([cells(2.0, 4.0), cells(6.0, 0.0)])
    assert mean is not None and mean.less(0).tolist() == [2.0, 1.0]
    apart = mean_of([cells(2.0, 4.0, seed=0), cells(6.0, 0.0, seed=1)])
    assert apart is not None and len(apart.less(0)) == 4 and apart.less(1).sum() == pytest.approx(2.0)
    assert mean_of([cells(1.0), None]) is None and combined([(1, cells(1.0)), (-1, cells(1.0, 2.0))]) is None


# -- answers of registered claims --


def runs(rng, *arms, identities=60, seeds=3, training=0.0):
    """Records of arms (names, how much is taken from every identity), whose identities are easy or not."""
    easy = rng.uniform(20, 90, identities)
    for names, taken in arms:
        for seed in range(seeds):
            chance = np.clip(easy - taken + training * rng.normal(), 0, 100) / 100
            hits = 100 * rng.binomial(4, chance, identities) / 4
            right = {"right": rng.binomial(10, 0.98, identities).tolist(), "images": [10] * identities}
            mean, acc = float(hits.mean()), 10 * float(np.mean(right["right"]))
            found = record(acc, mean, *names, seed=seed, by_identity=hits.tolist())
            yield {**found, "test_per_identity": right}


def answers(text: str, tmp_path: Path, records) -> tuple[str, float | None]:
    (found,) = decide_all([written(tmp_path, text)], comparison_groups(list(records))[0])
    return found.answer, found.corrected_p


def test_a_planted_effect_is_found_and_its_contrary_contradicted(tmp_path):
    rng = np.random.default_rng(3)
    planted = list(runs(rng, ((), 0), (("midre",), 15)))
    answer, p = answers(GOOD, tmp_path, planted)
    assert answer == "supported" and p is not None and p < 0.001
    assert answers(GOOD.replace("below", "above"), tmp_path, planted)[0] == "contradicted"
    # as much as that it is not
    assert answers(GOOD + "margin: -15\n", tmp_path, planted)[0] == "undecided"
    assert answers(GOOD + "margin: -40\n", tmp_path, planted)[0] == "contradicted"


BETWEEN = GOOD.replace(
    "{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}",
    "{kind: between_attacks, attack: smile, against: rlbmi, metric: att_acc1, asked: 0.1}",
).replace("below", "above")
ABOVE_CHANCE = GOOD.replace(
    "{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}",
    '{kind: above_chance, attacks: [smile, lokt], defenses: [NoDef, "MIDRE [0.1, 0.4]"], times: 3}',
).replace("direction: below", "direction: above\ncases: every")


def of_attacks(rng, gains, queries=(6000, 60000), **values):
    """Records of two attacks on both arms, by how much more than the second the first finds."""
    easy = rng.uniform(30, 60, 40)
    for names, gain in gains.items():
        for seed in range(3):
            for attack, more, asked in (("smile", gain, queries[0]), ("rlbmi", 0, queries[1])):
                hits = np.clip(easy + more + rng.normal(0, 2, 40), 0, 100).tolist()
                found = record(
                    90, float(np.mean(hits)), *names, seed=seed, attack=attack, by_identity=hits, **values
                )
                found["config"]["attack"] = {"name": attack}
                before = asked // 2  # of what the first attack asks, for its surrogate
                yield {**found, "queries": asked - before, "queries_before": before}


def test_one_attack_is_compared_with_another_on_the_same_targets_and_at_its_share_of_queries(tmp_path):
    gains = {(): 12.0, ("midre",): 6.0}
    found = list(of_attacks(np.random.default_rng(5), gains))
    groups, _ = comparison_groups(found)
    claim = written(tmp_path, BETWEEN)
    effects = claim.effects(groups)
    assert [effect.value for effect in effects] == [pytest.approx(12, abs=1), pytest.approx(6, abs=1)]
    # identities and seeds that both share cancel
    assert all(np.std(effect.draws) < 1 for effect in effects)
    assert answers(BETWEEN, tmp_path, found)[0] == "supported"
    assert answers(BETWEEN.replace("above", "below"), tmp_path, found)[0] == "contradicted"
    dearer = list(of_attacks(np.random.default_rng(5), gains, queries=(6010, 60000)))
    assert answers(BETWEEN, tmp_path, dearer)[0] == "not measured"
    elsewhere = [{**run, "target": "ir152"} if run["attack"] == "smile" else run for run in found]
    assert answers(BETWEEN, tmp_path, elsewhere)[0] == "not measured"


def test_every_attack_must_beat_chance_on_every_arm_by_the_largest_p(tmp_path):
    rng, attacks = np.random.default_rng(6), ("smile", "lokt")

    def found(weakest: float):
        for attack, names in product(attacks, ((), ("midre",))):
            level = weakest if (attack, names) == ("lokt", ("midre",)) else 40.0
            for seed in range(3):
                hits = (100 * rng.binomial(4, level / 100, 40) / 4).tolist()
                run = record(90, float(np.mean(hits)), *names, seed=seed, attack=attack, by_identity=hits)
                run["config"]["attack"] = {"name": attack}
                yield {**run, "controls": {"chance": 2.0}}

    strong = list(found(40.0))
    answer, p = answers(ABOVE_CHANCE, tmp_path, strong)
    assert answer == "supported" and p < 0.001
    assert answers(ABOVE_CHANCE, tmp_path, list(found(6.0)))[0] == "undecided"
    assert answers(ABOVE_CHANCE, tmp_path, list(found(0.0)))[0] == "contradicted"
    without_one = [run for run in strong if run["attack"] != "lokt" or run["defense"]["label"] != "midre"]
    assert len(without_one) == len(strong) - 3
    assert answers(ABOVE_CHANCE, tmp_path, without_one)[0] == "not measured"
    uncontrolled = [{k: v for k, v in run.items() if k != "controls"} for run in strong]
    assert answers(ABOVE_CHANCE, tmp_path, uncontrolled)[0] == "not measured"


def test_accuracy_has_p_values_where_images_are_told_apart_by_identity(tmp_path):
    price = GOOD.replace("{kind: difference, first: MIDRE, second: NoDef, metric: att_acc1}", "PRICE")
    price = price.replace("PRICE", "{kind: accuracy_lost, defense: MIDRE}") + "margin: 3\n"
    rng = np.random.default_rng(4)
    told = list(runs(rng, ((), 0), (("midre",), 15)))
    assert answers(price, tmp_path, told)[0] == "supported"
    untold = [{name: value for name, value in r.items() if name != "test_per_identity"} for r in told]
    assert answers(price, tmp_path, untold) == ("undecided", None)


def test_a_registered_claim_without_a_p_value_says_so_in_its_line(tmp_path):
    records = list(runs(np.random.default_rng(3), ((), 0), (("midre",), 15)))
    untold = [{name: value for name, value in r.items() if name != "per_identity"} for r in records]
    for told, p in ((records, "< 0.001"), (untold, "no p-value"), ([], "")):
        (found,) = decide_all([written(tmp_path)], comparison_groups(told)[0])
        assert overview([found], {"own": "before"})[0]["p"] == p
    free = written(tmp_path, GOOD.replace("scales: [mini]\n", ""))
    assert p_values(decide_all([free], comparison_groups(untold)[0])[0]) == {"p": "", "corrected p": ""}


def test_an_answer_needs_the_interval_too(tmp_path):
    """Trainings differ by more than the effect: identity by identity it is clear, over seeds it is not."""
    hits = {0: 0.0, 1: 0.0, 2: 60.0}
    records = [
        record(90, 30 + (0 if names else hits[s]), *names, seed=s,
               by_identity=[30.0 + (0 if names else hits[s])] * 40)
        for s, names in product(range(3), ((), ("midre",)))
    ]  # fmt: skip
    (found,) = decide_all([written(tmp_path)], comparison_groups(records)[0])
    assert found.p is not None and found.p < 0.01 and found.answer == "undecided"


def test_the_correction_counts_claims_that_were_not_measured(tmp_path):
    records = list(runs(np.random.default_rng(5), ((), 0), (("midre",), 15)))
    claims = [
        written(tmp_path),
        *(written(tmp_path, GOOD.replace("MIDRE", "NLS"), f"n{i}") for i in range(9)),
    ]
    found = decide_all(claims, comparison_groups(records)[0])
    assert found[0].p is not None and found[0].corrected_p == pytest.approx(10 * found[0].p)
    assert [decision.answer for decision in found] == ["supported", *["not measured"] * 9]


def test_the_null_control_stays_undecided(tmp_path):
    path = REPORT_CONF / "claim" / "null-control.yaml"
    claim = load_claim("null", path, known_defenses())
    told = []
    for draw in range(20):
        groups, _ = comparison_groups(list(runs(np.random.default_rng(draw), ((), 0), seeds=2)))
        (found,) = decide_all([claim], groups)
        assert found.p is not None and len(found.effects) == 1
        told.append(found.answer)
    assert told.count("undecided") >= 17  # alone, without the others that it is corrected for
    one_seed, _ = comparison_groups([record(90, 60, by_identity=[60.0] * 5)])
    assert decide_all([claim], one_seed)[0].answer == "not measured"


def test_the_page_says_what_the_null_control_does_not_know(tmp_path):
    claims = [load_claim("null", REPORT_CONF / "claim" / "null-control.yaml", known_defenses())]
    assert "one training a side" in family(decide_all(claims, []))
    assert "one training a side" not in family(decide_all([written(tmp_path)], []))


# -- intervals --


def test_between_seeds_the_variance_is_that_of_a_mean_of_seeds():
    """s^2 / S, not (S - 1) / S of it, and shared by all defenses."""
    lists = [[10.0] * 50, [40.0] * 50, [70.0] * 50]
    several = [
        record(88, x[0], *names, seed=s, by_identity=x)
        for names in ((), ("midre",))
        for s, x in enumerate(lists)
    ]
    (group,), _ = comparison_groups(several)
    draws = group.draws(group.defenses[0], "att_acc1")
    assert draws.var() == pytest.approx(np.var([10, 40, 70], ddof=1) / 3, rel=0.05)
    assert np.array_equal(draws, group.draws(group.defenses[1], "att_acc1"))


def test_accuracy_is_paired_by_the_same_test_images():
    right = np.random.default_rng(6).integers(2, 10, 80)
    pair = [
        {**record(float(10 * np.mean(r)), 50, *names),
         "test_per_identity": {"right": r.tolist(), "images": [10] * 80}}
        for names, r in (((), right), (("midre",), right - 1))
    ]  # fmt: skip
    (group,), _ = comparison_groups(pair)
    base, midre = (group.draws(defense, "acc") for defense in group.defenses)
    assert np.allclose(base - midre, 10) and base.std() > 1
    assert base.mean() == pytest.approx(10 * right.mean(), abs=0.2)


def test_identities_that_vary_with_the_seed_are_resampled_within_it():
    every = ["training", "attack", "identities"]

    def seeds(vary):
        rng = np.random.default_rng(7)
        for s in range(3):
            hits = rng.permutation([0.0, 100.0] * 20).tolist()
            moved = s if "identities" in vary else 0
            config = {"vary": vary, "data": {"name": "synthfaces", "seed": moved, "private": {"seed": moved}}}
            yield record(90, 50, seed=s, by_identity=hits, config=config)

    (varied,), left_out = comparison_groups(list(seeds(every)))
    (fixed,), _ = comparison_groups(list(seeds(every[:2])))
    assert left_out == 0 and len(varied.defenses[0].seeds) == 3 and "identities" in varied.varied
    assert fixed.varied == {"training", "attack"}
    cells = [group.cells(group.defenses[0], "att_acc1") for group in (varied, fixed)]
    assert [len(c.less(0)) for c in cells if c is not None] == [120, 40]
    # 2 of 3 seeds of 40 identities each: as 80 identities, or the 40 of all seeds
    assert varied.draws(varied.defenses[0], "att_acc1").std() == pytest.approx(50 / 80**0.5 * 1.22, rel=0.1)
