"""What a reader must know of judges: the negative controls behind attack accuracies, and the jury."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from midre_exp.records import Record

#: Columns of comparisons: metric, heading, digits.
COLUMNS = (
    ("att_acc1_all_judges", "all judges", 2),
    ("judges_kappa", "kappa", 2),
    ("att_acc1_random", "random", 1),
    ("att_acc1_other", "as other", 1),
)


def about_columns(records: Sequence[Record]) -> str:
    """What the columns mean, sentences that end in a space; nothing where no record has them."""
    text = ""
    if any("jury" in record for record in records):
        text += (
            f"All judges: percent that {_judges(records)} all take for the person; AttAcc is the first "
            "one's; kappa: Cohen's, of the two that agree least. "
        )
    controlled = [record for record in records if "controls" in record]
    if controlled:
        chance = _span(record["controls"]["chance"] for record in controlled)
        text += (
            "Negative controls of AttAcc: random, as many random pictures of the prior (of one that draws "
            "classes, another person's); as other, the reconstructions scored for another of the attacked "
            f"people; chance is {chance} %. "
        )
    return text


def about_controls(records: Sequence[Record]) -> str:
    """The negative controls themselves, for tables and figures without such columns: a sentence that ends in
    a space; nothing where no record has any.
    """
    words = {"att_acc1_random": "random pictures of the prior", "att_acc1_other": "scored for another person"}
    told = [
        f"{text} {_span(values)} %"
        for name, text in words.items()
        if (values := [record["metrics"][name] for record in records if name in record["metrics"]])
    ]
    if not told:
        return ""
    chance = _span(record["controls"]["chance"] for record in records if "controls" in record)
    return f"Negative controls of attack accuracy: {', '.join(told)}, chance {chance} %. "


def _judges(records: Sequence[Record]) -> str:
    """All juries, each judge with its accuracy on test images, the published one first."""
    juries = []
    for record in records:
        if (jury := record.get("jury")) is not None:
            first = jury["published"]
            names = [first, *(name for name in jury["judges"] if name != first)]
            told = [f"{name} ({jury['judges'][name]['acc']:.1f} %)" for name in names]
            juries.append(f"{', '.join(told[:-1])} and {told[-1]}")
    return " or ".join(dict.fromkeys(juries))


def _span(values: Iterable[float]) -> str:
    """The least and the largest, where they differ as written."""
    found = sorted(values)
    low, high = f"{found[0]:.1f}", f"{found[-1]:.1f}"
    return low if low == high else f"{low} to {high}"
