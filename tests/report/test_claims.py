from __future__ import annotations

import json

import numpy as np
import pytest

from midre_exp.errors import ConfigError
from midre_exp.report.claims.contrasts import ordered_trade_off
from midre_exp.report.claims.decisions import decide
from midre_exp.report.claims.definitions import load_claims
from midre_exp.report.claims.effects import difference
from midre_exp.report.claims.intervals import DRAWS, comparison_groups
from midre_exp.report.claims.render import caption, overview, render_claims
from midre_exp.store.files import write_json
from tests.report.paper_records import record

BY_NAME = {claim.name: claim for claim in load_claims("mini")}


def decision(name, *records):
    return decide(BY_NAME[name], comparison_groups(records)[0])


def test_a_clear_drop_is_supported_with_its_size_and_interval():
    found = decision("erasing-protects", record(90, 60), record(88, 40, "midre"))
    assert found.answer == "supported"
    assert found.overall.value == pytest.approx(-20)
    # two intervals of +-4 in quadrature: +-5.66
    assert found.overall.low == pytest.approx(-25.66, abs=0.4)
    assert found.overall.high == pytest.approx(-14.34, abs=0.4)
    assert found.effects[0].detail == "midre 40.00 against NoDef 60.00"


@pytest.mark.parametrize("att, answer", [(40, "supported"), (58, "undecided"), (80, "contradicted")])
def test_the_answer_follows_the_interval(att, answer):
    assert decision("erasing-protects", record(90, 60), record(88, att, "midre")).answer == answer


@pytest.mark.parametrize("acc, answer", [(88, "supported"), (83, "undecided"), (70, "contradicted")])
def test_a_small_cost_is_at_most_what_the_paper_prints(acc, answer):
    found = decision("small-cost", record(90, 60), record(acc, 40, "midre"))
    assert found.answer == answer and found.overall.value == pytest.approx(90 - acc)


def test_without_records_a_claim_is_not_measured_and_says_what_it_needs():
    found = decision("partial-beats-entire", record(90, 60), record(88, 40, "midre"))
    assert (found.answer, found.overall.value, found.effects) == ("not measured", None, ())
    assert "RE and EE" in found.overall.detail


def test_withholding_is_compared_at_equal_share_only():
    re = record(88, 30, "midre", a_l=0.4)
    same, other = record(90, 60, "ee"), record(90, 60, "ee", share=0.1)
    assert decision("partial-beats-entire", re, other).answer == "not measured"
    assert decision("partial-beats-entire", re, other, same).answer == "supported"
    assert decision("random-beats-fixed-accuracy", re, record(80, 30, "fe")).answer == "supported"
    assert decision("random-beats-fixed-attack", re, record(80, 30, "fe")).answer == "undecided"


def test_runs_of_other_configurations_are_never_compared():
    other = record(88, 40, "midre", config={"attack": {"name": "plgmi", "steps": 3}})
    found, left_out = comparison_groups([record(90, 60), record(90, 50, "nls"), other])
    assert left_out == 1 and [len(group.defenses) for group in found] == [2]


def test_folders_execution_and_options_that_are_off_make_no_other_configuration():
    moved = {
        "data": {"private": {"root": "elsewhere"}, "name": "synthfaces"},
        "paths": {"results": "r"},
        "numerics": {"precision": "float32"},
    }
    found, left_out = comparison_groups([record(90, 60), record(88, 40, "midre", config=moved)])
    assert left_out == 0 and len(found[0].defenses) == 2


def test_seeds_are_averaged_and_their_deviation_widens_the_interval():
    def interval(*atts):
        runs = [record(88, att, "midre", seed=seed) for seed, att in enumerate(atts)]
        effect = decision("erasing-protects", record(90, 60), *runs).overall
        return effect.value, effect.high - effect.low

    alone, together, apart = interval(40.0), interval(40.0, 40.0), interval(20.0, 60.0)
    assert alone[0] == together[0] == apart[0] == pytest.approx(-20)
    assert together[1] == pytest.approx(
        alone[1], rel=0.05
    )  # the same identities: more seeds alone do not help
    assert apart[1] > 3 * together[1]


def test_by_identity_the_bootstrap_is_paired():
    rng = np.random.default_rng(0)
    easy = rng.uniform(0, 100, 300)  # identities differ a lot, the defense takes 5 points from each
    lists = [easy.clip(10).tolist(), (easy.clip(10) - 5).tolist()]
    defenses = [
        record(90, float(np.mean(x)), *names, by_identity=x)
        for x, names in zip(lists, ((), ("midre",)), strict=True)
    ]
    (group,), _ = comparison_groups(defenses)
    assert group.paired
    case = difference(group, group.with_defense("MIDRE")[0], group.with_defense()[0], "att_acc1")
    assert case.draws.shape == (DRAWS,)
    assert case.value == pytest.approx(-5) and case.draws.std() < 1e-9
    alone = group.draws(group.with_defense()[0], "att_acc1")
    assert alone.std() == pytest.approx(np.std(lists[0]) / 300**0.5, rel=0.05)


def test_accuracy_and_attack_accuracy_of_a_draw_are_of_the_same_identities():
    hits = np.arange(40) % 11
    run = record(50, float(10 * hits.mean()), by_identity=(10.0 * hits).tolist())
    # the target is right on an image of an attacked identity as often as its reconstruction is recognised
    run["test_per_identity"] = {"right": [*hits.tolist(), *[5] * 60], "images": [10] * 100}
    (group,), _ = comparison_groups([run])
    (defense,) = group.defenses
    acc, attack = (group.draws(defense, metric) for metric in ("acc", "att_acc1"))
    assert attack.std() > 1
    np.testing.assert_allclose(acc, 0.4 * attack + 0.6 * 50)


def test_by_identity_seeds_are_resampled_too():
    lists = [[20.0] * 50, [60.0] * 50]
    runs = [record(88, x[0], "midre", seed=seed, by_identity=x) for seed, x in enumerate(lists)]
    (group,), _ = comparison_groups(runs)
    assert set(np.round(group.draws(group.defenses[0], "att_acc1"), 6)) == {20.0, 60.0}


def test_draws_are_the_same_at_every_call():
    pair = [record(90, 60), record(88, 40, "midre")]
    assert decision("erasing-protects", *pair).overall == decision("erasing-protects", *pair).overall


def test_bargains_are_ordered_by_what_they_give_and_cost():
    taken = np.array([-5.0, 10.0, 10.0, 10.0, 30.0])
    lost = np.array([-1.0, 10.0, 2.0, 0.0, -1.0])
    assert list(np.argsort(ordered_trade_off(taken, lost))) == [0, 1, 2, 3, 4]
    assert ordered_trade_off(np.array([10.0]), np.array([4.0]))[0] == 2.5


def test_the_better_trade_off_wins():
    base, midre = record(90, 60, width=1.0), record(88, 20, "midre", width=1.0)
    worse, better = record(80, 50, "nls", width=1.0), record(92, 10, "nls", width=1.0)
    assert decision("better-than-nls", base, midre, worse).answer == "supported"
    assert decision("better-than-nls", base, midre, worse).overall.value > 99
    found = decision("better-than-nls", base, midre, better)
    assert found.answer == "contradicted" and "Δ OP" in found.effects[0].detail


def test_tldmi_without_public_training_is_not_measured():
    def runs(weights):
        return [
            record(90, 60, weights=weights),
            record(88, 20, "midre", weights=weights),
            record(50, 50, "tldmi", weights=weights),
        ]

    assert decision("better-than-tl-dmi", *runs(None)).answer == "not measured"
    assert decision("better-than-tl-dmi", *runs("imagenet")).answer == "supported"


def test_a_combination_must_beat_both_of_its_parts():
    both = record(85, 20, "midre", "nls")
    assert (
        decision("combining-helps", record(88, 40, "midre"), record(88, 50, "nls"), both).answer
        == "supported"
    )
    found = decision("combining-helps", record(88, 40, "midre"), record(88, 22, "nls"), both)
    assert found.answer == "undecided" and "nls 22.00" in found.effects[1].detail
    assert found.overall.value == pytest.approx(-2)
    assert (
        decision("combining-helps", record(88, 40, "midre"), record(88, 2, "nls"), both).answer
        == "contradicted"
    )


def test_a_combination_is_compared_with_the_same_parameters_only():
    both, other = record(85, 20, "midre", "nls"), record(88, 40, "midre", a_h=0.8)
    assert decision("combining-helps", other, both).answer == "not measured"


def test_more_erasing_is_a_slope():
    runs = [
        record(90, att, "midre", a_l=share, a_h=share) for share, att in ((0.1, 80), (0.2, 70), (0.3, 60))
    ]
    found = decision("more-is-stronger-share", *runs)
    assert found.answer == "supported" and found.overall.value == pytest.approx(-10)
    assert decision("more-is-stronger-share", runs[0]).answer == "not measured"
    wide = decision("more-is-stronger-range", record(90, 40, "midre"), record(90, 60, "midre", a_h=0.8))
    assert wide.answer == "contradicted" and wide.overall.value == pytest.approx(20)


def test_a_claim_about_all_architectures_needs_two_and_falls_with_one():
    good = [record(90, 60), record(88, 40, "midre")]
    bad = [record(90, 60, setup="S20", target="ir152"), record(88, 75, "midre", setup="S20", target="ir152")]
    assert decision("holds-across-architectures", *good).answer == "not measured"
    found = decision("holds-across-architectures", *good, *bad)
    assert found.answer == "contradicted" and found.overall.where == "ir152"
    assert decision("erasing-protects", *good, *bad).answer == "undecided"  # the mean over both
    assert decision("holds-across-attacks", *good, *bad).answer == "not measured"


def test_the_mean_over_independent_places_is_surer_than_one():
    def width(*setups):
        runs = [
            r for name in setups for r in (record(90, 60, setup=name), record(88, 40, "midre", setup=name))
        ]
        effect = decision("erasing-protects", *runs).overall
        return effect.high - effect.low

    assert width("S19", "S20") == pytest.approx(width("S19") / 2**0.5, rel=0.06)


def test_the_caption_says_how_the_intervals_were_made():
    pair = [record(90, 60), record(88, 40, "midre")]
    text = caption(comparison_groups(pair)[0], 3, {})
    assert "normal approximation" in text and "One seed" in text and "3 records" in text and "abc" in text
    lists = [record(90, 60, by_identity=[60.0] * 4), record(88, 40, "midre", by_identity=[40.0] * 4)]
    assert "paired bootstrap" in caption(comparison_groups(lists)[0], 0, {})
    (shown,) = overview([decision("erasing-protects", *pair)], {"erasing-protects": "not known"})
    assert shown["Effect"] == "-20.00"


def test_the_command_writes_both_files(tmp_path, capsys):
    folder = tmp_path / "mini"
    with pytest.raises(ConfigError, match="holds no records"):
        render_claims([f"paths.results={tmp_path}"])
    for number, run in enumerate([record(90, 60), record(88, 40, "midre")]):
        write_json(folder / "records" / f"{number}.json", run)
    render_claims([f"paths.results={tmp_path}"])
    assert "supported" in capsys.readouterr().out
    claims = {claim["name"]: claim for claim in json.loads((folder / "claims.json").read_text())["claims"]}
    assert set(claims) == set(BY_NAME)
    assert claims["erasing-protects"]["answer"] == "supported"
    assert claims["erasing-protects"]["effect"]["low"] < -20 < claims["erasing-protects"]["effect"]["high"]
    text = (folder / "claims.md").read_text()
    assert "### Random erasing lowers attack accuracy: supported" in text and "Needs RE and EE" in text


def test_a_claim_on_the_strict_number_asks_records_with_a_jury_alone():
    name = "erasing-protects-all-judges"
    plain = record(90, 60, by_identity=[60.0] * 8), record(88, 40, "midre", by_identity=[40.0] * 8)
    assert decision(name, *plain).answer == "not measured"
    for one, strict in zip(plain, (50.0, 10.0), strict=True):
        one["metrics"]["att_acc1_all_judges"] = strict
        one["per_identity"]["att_acc1_all_judges"] = [strict] * 8
    found = decision(name, *plain)
    assert found.answer == "supported" and found.overall.value == pytest.approx(-40)


def test_a_judge_in_doubt_marks_the_defenses_it_judged():
    sure, weak = record(90, 60), record(90, 60)
    weak["metrics"]["evaluator_acc"] = 89.0
    groups = [comparison_groups([one])[0][0] for one in (sure, weak)]
    assert [group.defenses[0].shown.endswith("†") for group in groups] == [False, True]
