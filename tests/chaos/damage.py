"""Every kind of file we write, damaged at random under finished and unfinished runs: the same command then
ends as if nothing had happened, or says in one sentence what to do.

Outcomes: ``rebuilt`` (named, set aside or overwritten, the same content again), ``refused`` (one sentence and
exit code 2; after its remedy the same content), ``harmless`` (nothing depended on what was damaged: the
result is the same without a word). Anything else is a Violation.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midre_exp.errors import UserError
from midre_exp.records import read_record
from midre_exp.store import __main__ as upkeep
from tests.chaos import Violation
from tests.chaos.ground import Ground, Said, call, records_of


@dataclass
class Case:
    """A file about to be damaged. ``again`` is the command that must come to the same end; ``named`` is what
    its sentence must have in it.

    ``silent``: nothing depends on the file, so nobody needs to speak of it. ``verified``: ``store verify``
    must see the damage. ``others`` are valid files of the same kind.
    """

    path: Path
    again: Callable[[], Said]
    named: str
    others: list[Path]
    silent: bool = False
    verified: bool = False
    check: Callable[[], None] | None = None


Kind = Callable[[Ground, random.Random], Case]


def truncated(path: Path, draw: random.Random, _: list[Path]) -> None:
    """The end is missing, now and then everything."""
    length = path.stat().st_size
    os.truncate(path, draw.choice((0, draw.randrange(length), draw.randrange(length))))


def bit_flipped(path: Path, draw: random.Random, _: list[Path]) -> None:
    """One bit of one byte."""
    at = draw.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1 << draw.randrange(8)]))


def block_overwritten(path: Path, draw: random.Random, _: list[Path]) -> None:
    """Up to 512 bytes of noise, or of zeros as after a crash of the disk."""
    size = path.stat().st_size
    length = min(size, draw.randint(1, 512))
    with path.open("r+b") as file:
        file.seek(draw.randrange(size - length + 1))
        file.write(draw.choice((bytes(length), draw.randbytes(length))))


def bytes_appended(path: Path, draw: random.Random, _: list[Path]) -> None:
    """Something behind the end."""
    with path.open("ab") as file:
        file.write(draw.choice((b"\0", b"\n", draw.randbytes(draw.randint(1, 200)))))


def removed(path: Path, draw: random.Random, _: list[Path]) -> None:
    """Gone."""
    path.unlink()


def made_a_folder(path: Path, draw: random.Random, _: list[Path]) -> None:
    """A folder of its name, empty or not."""
    path.unlink()
    path.mkdir()
    if draw.random() < 0.5:
        (path / "file").write_text("?")


def swapped(path: Path, draw: random.Random, others: list[Path]) -> None:
    """The content of another valid file of the same kind; without one nothing happens."""
    if others:
        shutil.copyfile(draw.choice(others), path)


def locked_away(path: Path, draw: random.Random, _: list[Path]) -> None:
    """Not to be read; root reads it all the same."""
    path.chmod(0)


DAMAGES = (
    truncated,
    bit_flipped,
    block_overwritten,
    bytes_appended,
    removed,
    made_a_folder,
    swapped,
    *(() if os.geteuid() == 0 else (locked_away,)),
)


def spoil(case: Case, draw: random.Random) -> str | None:
    """Damage the file; the name of the damage, or None if by chance nothing changed. Half of the time its
    date stays as it was.
    """
    damage = draw.choice(DAMAGES)
    before, status = case.path.read_bytes(), case.path.stat()
    if not before and damage in (truncated, bit_flipped, block_overwritten):
        return None
    damage(case.path, draw, case.others)
    if case.path.is_file() and draw.random() < 0.5:
        os.utime(case.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    unchanged = damage is not locked_away and case.path.is_file() and case.path.read_bytes() == before
    return None if unchanged else damage.__name__.replace("_", " ")


def read_by_all(ground: Ground, case: Case, run: str) -> str:
    """Let everything that reads finished runs meet the damage; what they said. Raises Violation for a number
    that is not the record's.
    """
    said = []
    for words in (["verify"], ["du"], ["gc", "--results", str(ground.folder / "results")]):
        one = call(lambda words=words: upkeep.main(["--store", str(ground.store), *words]))  # type: ignore[misc]
        if words == ["verify"] and case.verified and (one.code != 1 or case.named not in one.text):
            raise Violation(f"store verify does not name {case.path}: {one.text}")
        said.append(one)
    said.append(ground.command(run, "--plan"))
    for path in ground.folder.glob("results/*/records/*.json"):
        try:
            record = read_record(path)
        except UserError as error:
            said.append(Said(2, f"midre_exp: {error}\n"))
        else:
            if {**record, "seconds": None} != {**ground.records[path.name], "seconds": None}:
                raise Violation(f"{path} was read as if nothing had happened to it")
    for one in said:
        sentence(one)
    return "".join(one.text for one in said)


def sentence(said: Said) -> None:
    """Raises Violation unless exit code 2 comes with one sentence, and never a traceback."""
    if said.code == 2:
        last = said.text.strip().splitlines()[-1]
        if not last.startswith("midre_exp: ") or ";" not in last:
            raise Violation(f"no sentence with a remedy: {said.text[-800:]}")
    elif said.code not in (0, 1):
        raise Violation(f"exit code {said.code}: {said.text[-800:]}")


def play(ground: Ground, case: Case, damage: str, heard: str) -> str:
    """Run the same command after a damage; the outcome."""
    said = case.again()
    sentence(said)
    outcome = "rebuilt" if is_named(case, heard + said.text) else "harmless"
    if said.code:
        if case.named not in said.text:
            raise Violation(f"a refusal that does not name {case.named}: {said.text[-800:]}")
        outcome = "refused"
        mend(case.path)
        said = case.again()
        if said.code:
            raise Violation(f"still refused after its remedy: {said.text[-800:]}")
    elif outcome == "harmless" and not case.silent and damage != "removed":
        raise Violation(f"nobody named {case.named}: {said.text[-800:]}")
    elif (
        damage == "removed" and case.path.exists()
    ):  # what is gone without a trace needs no word if it comes back
        outcome = "rebuilt"
    (case.check or ground.check)()
    return outcome


#: Words by which a line tells of damage.
_SIGNS = (
    "damaged",
    "is missing",
    "is not ",
    "checkpoint",
    "cannot be read",
    "failed outside",
    "before it could",
)


def is_named(case: Case, text: str) -> bool:
    """Whether a line tells of the damage."""
    return any(case.named in line and any(sign in line for sign in _SIGNS) for line in text.splitlines())


def mend(path: Path) -> None:
    """What the sentences ask for: take the thing away that cannot be read."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def campaign(
    folder: Path,
    rounds: int,
    random: random.Random,
    say: Callable[[str], None],
    *,
    runs: Sequence[str] = (),
    kinds: Sequence[str] = (),
) -> dict[str, Any]:
    """Damage ``rounds`` files below ``folder``, the kinds of file in turn; counts by kind, damage and
    outcome. Raises Violation.

    ``runs`` and ``kinds``: only these of ``ground.RUNS`` and ``kinds.KINDS``.
    """
    from tests.chaos.kinds import KINDS

    ground = Ground(folder)
    ground.build(runs)
    names = list(kinds or KINDS)
    say(f"{len(ground.records)} records, {len(ground.files)} artifact files, {len(names)} kinds of file")
    counts: Counter[tuple[str, str, str]] = Counter()
    random.shuffle(names)
    done = 0
    while done < rounds:
        name = names[done % len(names)]
        case = KINDS[name](ground, random)
        kept = f"{name}: {case.path.relative_to(folder)}"
        damage = spoil(case, random)
        if damage is None:
            case.again()  # what was prepared for this round goes on as before
            ground.check()
            continue
        try:
            heard = ""
            if case.verified or name.startswith("record"):
                heard = read_by_all(ground, case, next(iter(ground.runs))) if random.random() < 0.5 else ""
            outcome = play(ground, case, damage, heard)
        except Violation as violation:
            raise Violation(f"round {done}, {kept}, {damage}: {violation}") from violation
        counts[name, damage, outcome] += 1
        done += 1
        say(f"{done}/{rounds} {kept} {damage}: {outcome}")
    shutil.rmtree(ground.store / "damaged", ignore_errors=True)
    return {
        "rounds": rounds,
        "records": len(records_of(folder)),
        "counts": [
            {"kind": kind, "damage": damage, "outcome": outcome, "times": times}
            for (kind, damage, outcome), times in sorted(counts.items())
        ],
    }


def table(counts: list[dict[str, Any]]) -> str:
    """The counts as Markdown: a row for each kind, a column for each damage, each cell with its outcomes."""
    damages = sorted({row["damage"] for row in counts})
    outcomes = ("rebuilt", "refused", "harmless")
    lines = ["| file | " + " | ".join(damages) + " | all |", "|---" * (len(damages) + 2) + "|"]
    kinds = sorted({row["kind"] for row in counts})
    for kind in [*kinds, None]:
        cells = []
        for damage in [*damages, None]:
            of_cell = [
                row for row in counts if kind in (None, row["kind"]) and damage in (None, row["damage"])
            ]
            sums = {name: sum(row["times"] for row in of_cell if row["outcome"] == name) for name in outcomes}
            cells.append(", ".join(f"{times} {name}" for name, times in sums.items() if times) or "-")
        lines.append(f"| {kind or '**all**'} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
