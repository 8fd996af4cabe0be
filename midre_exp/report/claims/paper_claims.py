"""What the MIDRE paper claims, each with the comparison of records that would show it."""

from __future__ import annotations

from functools import partial

from midre_exp.report.claims.comparisons import (
    against,
    at_equal_share,
    better_trade_off,
    combined,
    cost,
    erasing,
    everywhere,
    per_share,
    wider,
)
from midre_exp.report.claims.decisions import Claim

#: The largest loss of accuracy under MIDRE that the paper prints (Table 5 Setup 2: 86.90 to 79.85): what
#: "small" can mean at most.
SMALL_COST = 7.05

POINTS = "points of attack accuracy"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "erasing-protects",
        "Random erasing lowers attack accuracy",
        "abstract, Sec. 4.2",
        POINTS,
        partial(erasing, metric="att_acc1"),
        "below",
        needs="MIDRE and NoDef of one setup",
    ),
    Claim(
        "small-cost",
        f"Random erasing costs at most {SMALL_COST:g} points of accuracy, the most the paper prints",
        "Sec. 4.2, Tables 3 and 5",
        "points of accuracy lost",
        cost,
        "below",
        SMALL_COST,
        needs="MIDRE and NoDef of one setup",
    ),
    Claim(
        "partial-beats-entire",
        "Erasing a share of every image protects more than leaving that share of the images out (RE, EE)",
        "Sec. 3.3, Table 1",
        POINTS,
        partial(at_equal_share, first="RE", second="EE", metric="att_acc1"),
        "below",
        needs="RE and EE with the same share",
    ),
    Claim(
        "random-beats-fixed-accuracy",
        "A new place every time costs less accuracy than a fixed one (RE, FE)",
        "Sec. 3.3, Table 1",
        "points of accuracy",
        partial(at_equal_share, first="RE", second="FE", metric="acc"),
        "above",
        needs="RE and FE with the same share",
    ),
    Claim(
        "random-beats-fixed-attack",
        "A new place every time is attacked less successfully than a fixed one (RE, FE)",
        "Sec. 3.3, Table 1",
        POINTS,
        partial(at_equal_share, first="RE", second="FE", metric="att_acc1"),
        "below",
        needs="RE and FE with the same share",
    ),
    *(
        Claim(
            f"better-than-{name.lower()}",
            f"MIDRE has a better trade-off Δ than {name}",
            source,
            "% of draws won",
            partial(better_trade_off, other=name),
            "above",
            ranked=True,
            needs=f"NoDef, MIDRE and {name} of one setup",
        )
        for name, source in (
            ("NLS", "Table 3, Fig. 5"),
            ("BiDO", "Table 5, Fig. 5"),
            ("MID", "Fig. 5"),
            ("TL-DMI", "Fig. 5"),
            ("RoLSS", "Sec. 4.1"),
            ("SSF", "Sec. 4.1"),
            ("TTS", "Sec. 4.1"),
        )
    ),
    *(
        Claim(
            f"more-than-{name.lower()}",
            f"MIDRE is attacked less successfully than a target trained with {words}",
            "Table 4",
            POINTS,
            partial(against, other=name, metric="att_acc1"),
            "below",
            needs=f"MIDRE and {name} of one setup",
        )
        for name, words in (
            ("CutMix", "CutMix"),
            ("RandomCropping", "random cropping"),
            ("GaussianBlur", "Gaussian blur"),
        )
    ),
    Claim(
        "combining-helps",
        "MIDRE with another defense is attacked less successfully than either alone",
        "Sec. 4.4, Table 5",
        POINTS,
        combined,
        "below",
        every=True,
        needs="MIDRE, another defense and both together",
    ),
    Claim(
        "more-is-stronger-share",
        "The larger the share erased, the lower the attack accuracy (RE)",
        "Sec. 3.1, Fig. 2, Table 1",
        f"{POINTS} per 10 % of the image",
        per_share,
        "below",
        needs="RE with two or more shares",
    ),
    Claim(
        "more-is-stronger-range",
        "The range up to 0.8 protects more than the range up to 0.4",
        "Sec. 4.2, Fig. 5",
        POINTS,
        wider,
        "below",
        needs="MIDRE with two ranges",
    ),
    *(
        Claim(
            f"holds-across-{word}",
            f"Random erasing lowers attack accuracy on all {words}",
            "Table 2, Sec. 4.2",
            POINTS,
            partial(everywhere, what=what),
            "below",
            every=True,
            needs=f"MIDRE and NoDef on two or more {words}",
        )
        for word, words, what in (
            ("architectures", "architectures", lambda group: group.target),
            ("attacks", "attacks", lambda group: group.attack),
            ("data", "data sets", lambda group: group.data),
        )
    ),
)
