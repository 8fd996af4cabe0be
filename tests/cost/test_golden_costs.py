"""What every setup costs at scale paper, beside numbers that another program counted (tests/golden/costs.csv:
one step of each stage on fake tensors, times the configured steps). They are rounded to one or two digits.

Known differences, each with its reason:

- The golden hours are of optimisers that launch kernels for every tensor; ours launch them for many, as
  PyTorch does on a GPU. With single tensors S34's target would take 37.6 hours here (golden 35.0, ours 26.9).
- Its float32 hours of S27 to S37 were scaled from those in tf32; those of S34 and S35 are less than their
  operations alone take.
- S37's attack was given the operations of S36's, whose target is smaller.
- S20 and S23 on 40 GB: 36.9 GB fit beside what a CUDA context takes; the golden margin was larger.
- The bf16 and H200 hours of S36 and S37 were scaled from those of an A100, as shipped.
- S34 and S35 on 24 GB: their attack never separates 8 items, which do not fit; the golden has 4.
- S26 is counted as a group of 300 walks, which is never separated, so nothing grows with the chunk.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from midre_exp.cost.accelerators import ACCELERATORS, GB, RESERVED, Accelerator, phase_seconds
from midre_exp.cost.counted import Counted, Phase
from midre_exp.cost.forecast import described
from midre_exp.cost.programs import count_stage
from midre_exp.cost.remembered import Wanted
from midre_exp.cost.runs import once, with_published
from midre_exp.cost.sizes import sizes_of
from midre_exp.plan.compose import packaged_composer, packaged_configs

Row = Mapping[str, str]
#: A setup's phases by what the golden counts together.
Phases = Mapping[str, tuple[Phase, ...]]

PARTS = {
    "target": ("target",),
    "evaluator": ("evaluator",),
    "prior": ("prior", "surrogates"),
    "attack": ("attack",),
}
STYLE = [f"S{number}" for number in range(27, 38)]
IFGMI = ["S36", "S37"]
COPIED = {("S37", "attack")}
OTHER_CHUNK = {("S20", "40gb"), ("S23", "40gb"), ("S34", "24gb"), ("S35", "24gb")}


def rows() -> list[Row]:
    """The golden ones."""
    path = Path(__file__).parents[1] / "golden" / "costs.csv"
    return list(csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#")))


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Phases]:
    """Every setup, stages that are shared counted once."""
    nowhere, known = tmp_path_factory.mktemp("nowhere"), dict[str, Counted]()
    found: dict[str, Phases] = {}
    places = [f"paths.{name}={nowhere / name}" for name in ("data", "store", "runs", "results", "weights")]
    with packaged_configs():
        composer, remember = packaged_composer(), once()
        for row in rows():
            settings = composer.settings([f"setup={row['setup']}", "scale=paper", *places])
            sizes = sizes_of(settings, remember)
            assert sizes is not None
            settings = with_published(settings)
            stages = {}
            for stage in {*described(settings)} & {stage for group in PARTS.values() for stage in group}:
                key = Wanted.of(stage, settings, sizes).key
                if key not in known:
                    known[key] = count_stage(stage, settings, sizes)
                stages[stage] = known[key]
            found[row["setup"]] = parts_of(stages)
    return found


def parts_of(stages: Mapping[str, Counted]) -> Phases:
    """What the golden counts: trainings without their test images, attacks without judging in passing."""
    left_out = ("validation", "judgement in passing")
    return {
        part: tuple(
            phase
            for name in names
            if name in stages
            for phase in stages[name].phases
            if phase.name not in left_out
        )
        for part, names in PARTS.items()
    }


def hours(phases: tuple[Phase, ...], device: str, precision: str) -> float:
    """``shipped``: convolutions in tf32, all else in float32."""
    kind = next(one for one in ACCELERATORS if one.name == device)
    return sum(_seconds(phase, kind, precision) for phase in phases) / 3600


def _seconds(phase: Phase, kind: Accelerator, precision: str) -> float:
    if precision != "shipped":
        return phase_seconds(phase, kind, precision, 512)
    matmuls = tuple(one for one in phase.operators if one.kind == "matmul")
    others = tuple(one for one in phase.operators if one.kind != "matmul")
    return sum(
        phase_seconds(replace(phase, operators=operators), kind, name, 512)
        for operators, name in ((matmuls, "float32"), (others, "tf32"))
    )


def wrong_operations(row: Row, parts: Phases) -> Iterator[str]:
    for part, phases in parts.items():
        golden, own = float(row[f"flops_{part}"]), sum(phase.flops for phase in phases)
        if (row["setup"], part) not in COPIED and abs(own - golden) > 0.08 * golden:
            yield f"{row['setup']} {part}: {own:.3g} operations, golden {golden:.3g}"


def wrong_hours(row: Row, parts: Phases) -> Iterator[str]:
    of_device = {
        "hours_a100": ("A100", "shipped", 0.12),
        "hours_a100_float32": ("A100", "float32", 0.10),
        "hours_a100_bf16": ("A100", "bf16", 0.15),
        "hours_h200": ("H200", "shipped", 0.25),
    }
    for column, (device, precision, tolerance) in of_device.items():
        scaled = STYLE if column == "hours_a100_float32" else () if column == "hours_a100" else IFGMI
        if row["setup"] in scaled:
            continue
        golden = float(row[column])
        own = sum(hours(phases, device, precision) for phases in parts.values())
        if abs(own - golden) > tolerance * golden + 0.05:
            yield f"{row['setup']} {column}: {own:.3g}, golden {golden:.3g}"


def wrong_memory(row: Row, parts: Phases) -> Iterator[str]:
    trained = max(phase.fixed for part in ("target", "evaluator") for phase in parts[part]) / GB
    if abs(trained - float(row["training_gb"])) > 0.05 * float(row["training_gb"]) + 0.05:
        yield f"{row['setup']}: training takes {trained:.3g} GB, golden {row['training_gb']}"
    inversion = next(phase for phase in parts["attack"] if phase.name == "optimisation")
    golden = float(row["attack_mb_per_item"])
    if not inversion.per_item:  # a group of identities, each with restarts that take no more
        identities = int(row["items_80gb"])
        beside = inversion.fixed / 1e6 - identities * golden
        if row["setup"] != "S26" and not -0.5 * identities < beside < 500:
            yield f"{row['setup']}: {identities} take {inversion.fixed / 1e6:.4g} MB, golden {golden} each"
        return
    if abs(inversion.per_item / 1e6 - golden) > 0.02 * golden + 0.5:
        yield f"{row['setup']}: {inversion.per_item / 1e6:.4g} MB per item, golden {golden}"
    for size in ("24gb", "40gb", "80gb", "141gb"):
        fit, halved = inversion.chunk(512, float(size.removesuffix("gb")) * GB - RESERVED), 512
        while halved > fit:
            halved //= 2
        items = int(row[f"items_{size}"])
        if (row["setup"], size) not in OTHER_CHUNK and items not in (halved, fit):
            yield f"{row['setup']}: {fit} items fit on {size}, golden {items}"


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [wrong_operations, wrong_hours, wrong_memory])
def test_every_setup_costs_what_was_counted_elsewhere(wrong, counted):
    assert not [told for row in rows() for told in wrong(row, counted[row["setup"]])]


@pytest.mark.slow
def test_the_golden_that_is_not_believed_is_less_than_its_operations(counted):
    float32 = next(one for one in ACCELERATORS if one.name == "A100").float32
    for row in rows():
        if row["setup"] in ("S34", "S35"):
            operations = sum(float(row[f"flops_{part}"]) for part in PARTS)
            assert float(row["hours_a100_float32"]) < operations / (0.4 * float32 * 1e12) / 3600
