"""What ``python -m midre_exp.cost calibrate`` measured of a device, in ``~/.cache/midre-exp/rates`` (of
``XDG_CACHE_HOME`` where that is set): read without torch by whatever tells hours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from midre_exp.errors import UserError
from midre_exp.plan.answers import folder
from midre_exp.store.files import make_folder, read_json, write_json


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates that programs of one device reached."""

    device: str  #: its own name, as records have it; of a processor with its threads
    float32: float  #: TFLOP/s of convolutions and products
    tf32: float
    bf16: float
    bandwidth: float  #: TB/s of elementwise operators
    launch: float  #: seconds from one small kernel to the next
    memory: float  #: GB; 0 of a processor
    torch: str
    measured: str  #: the day
    busy: bool = False  #: whether something else ran meanwhile


def rates_file(device: str) -> Path:
    """Where the rates of a device are."""
    return folder() / "rates" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', device).strip('-')}.json"


@cache  # planning asks for every stage
def measured_rates(device: str) -> Rates | None:
    """Those of a device by its own name; None where it was not calibrated, or the file is no such one."""
    try:
        found: Any = read_json(rates_file(device))
        return _checked(found) if isinstance(found, Mapping) and found.get("device") == device else None
    except (OSError, UserError, TypeError, ValueError):
        return None


def write_rates(rates: Rates) -> Path:
    """Keep them; returns the file."""
    file = rates_file(rates.device)
    make_folder(file.parent)
    write_json(file, asdict(rates))
    measured_rates.cache_clear()
    return file


def _checked(found: Mapping[str, Any]) -> Rates:
    rates = Rates(**found)
    numbers = [getattr(rates, one.name) for one in fields(Rates) if one.type == "float"]
    if not all(isinstance(one, int | float) and one >= 0 for one in numbers):
        raise ValueError("rates are numbers")
    if not min(rates.float32, rates.tf32, rates.bf16, rates.bandwidth, rates.launch) > 0:
        raise ValueError("rates are positive")
    return rates
