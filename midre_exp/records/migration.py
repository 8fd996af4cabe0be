"""Records of earlier versions in today's form: what a field that came later means where it is absent is
written out. No number is made up, and a record that has the field keeps its own.

``schema`` is the major version of a record. It changes when a field that was always there goes or means
something else, and then this file gets a step from the one to the other; a new optional field changes
nothing, for readers pass over what they do not know. So far there has been one major.
"""

from __future__ import annotations

from typing import cast

from midre_exp.records.schema import SCHEMA, Record


def migrated(record: Record) -> Record:
    """A copy of a readable record (``problem_of`` finds nothing) with the fields that every record of today
    has and that earlier ones left to their readers.
    """
    config = record["config"]
    absent: dict[str, object] = {
        "schema": SCHEMA,
        # until a choice was given seeds moved the training and the attack
        "vary": config.get("vary", ["training", "attack"]),
        # until attacks that see less were written, and only those say otherwise
        "threat": "white_box",
        "per_identity": {},
        "missing": {},
    }
    return cast(Record, {**absent, **record})
