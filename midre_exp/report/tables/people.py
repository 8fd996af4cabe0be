"""The people of one run, from most to least exposed."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from midre_exp.records import Record


def people_of_run(record: Record) -> pd.DataFrame:
    """A row for each attacked identity: his name or number, the percent of his reconstructions that the
    evaluator recognises and, where the record tells, of his test images that the target does. Empty for a
    record from before there were numbers of each.
    """
    shares = record.get("per_identity", {}).get("att_acc1", [])
    names = record.get("classes", [])
    tests: Mapping[str, list[int]] = record.get("test_per_identity", {})
    rows = [
        {
            "person": names[label] if label < len(names) else f"identity {label}",
            "recognised %": share,
            **(
                {"test images right": f"{tests['right'][label]} of {tests['images'][label]}"}
                if label < len(tests.get("right", []))
                else {}
            ),
        }
        for label, share in enumerate(shares)
    ]
    table = pd.DataFrame(rows)
    if table.empty:
        return table
    table = table.sort_values("recognised %", ascending=False, kind="stable")
    return table.assign(**{"recognised %": table["recognised %"].map("{:.0f}".format)})
