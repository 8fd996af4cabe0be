"""What the campaign runs, in folders of its own with default paths, and how two of these are compared."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from midre_exp.plan.digests import first_difference
from midre_exp.store.files import dump_json, sha256
from tests.chaos import Violation

ROOT = Path(__file__).parents[2]

#: The sweep that is killed: eight runs, two defenses against four attacks with three priors, four at a time;
#: sizes: conf/scale/chaos.yaml.
SWEEP = (
    "-m",
    f"--config-dir={Path(__file__).parent / 'conf'}",
    "setup=demo",
    "scale=chaos",
    "evaluator.floor=0",
    "defense=nodef,midre",
    "attack=gmi,rlbmi,plgmi,ppa",
    "hydra/launcher=joblib",
    "hydra.launcher.n_jobs=4",
)

#: All that may differ between two records of one run: seconds of its stages. Paths are relative to each
#: folder, so they agree.
VOLATILE_IN_RECORD = ("seconds",)
#: And between two manifests of one artifact.
VOLATILE_IN_MANIFEST = ("seconds",)


class Process(NamedTuple):
    """A living process: its number, the group it belongs to, its command line, the CPU time it has used in
    ticks.
    """

    pid: int
    group: int
    command: str
    ticks: int

    @property
    def is_worker(self) -> bool:
        """Whether it is one of joblib's processes that carry out runs."""
        return "LokyProcess" in self.command


def living(groups: set[int]) -> list[Process]:
    """The processes of some groups, without zombies. Reads /proc, so Linux only."""
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            state, group, ticks = fields[0], int(fields[2]), int(fields[11]) + int(fields[12])
            if group in groups and state not in "ZX":
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found.append(Process(int(folder.name), group, command, ticks))
        except (OSError, ValueError):  # it has just ended
            continue
    return found


class Started:
    """A command in the background, leader of a process group of its own, its output in a file."""

    def __init__(self, folder: Path, *arguments: str, module: str = "midre_exp", root: Path = ROOT):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"output-{len(list(folder.glob('output-*'))):03}.txt"
        environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
        environment.pop("HYDRA_FULL_ERROR", None)
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self.group = self.process.pid

    def code(self) -> int | None:
        """The exit code, None while it runs."""
        return self.process.poll()

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def processes(self) -> list[Process]:
        """What lives of it."""
        self.process.poll()  # no zombie
        return living({self.group})

    def finish(self, seconds: float = 3600) -> None:
        """Wait for its end. Violation unless that comes in time and well."""
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise Violation(f"a command has not ended within {seconds:.0f} s; see {self.log}") from error
        if code != 0:
            raise Violation(f"a command nobody disturbed ended with code {code}; see {self.log}")

    def end(self) -> None:
        """Kill whatever is left of it."""
        if self.processes():
            os.killpg(self.group, signal.SIGKILL)
        self.process.wait()


@contextmanager
def ended(commands: list[Started]) -> Iterator[None]:
    """Leave nothing behind, whatever happens inside: every command in the list is killed at the end."""
    try:
        yield
    finally:
        for command in commands:
            command.end()


def until(condition: Callable[[], object], seconds: float, what: str, pause: float = 0.05) -> float:
    """Wait for a condition and return how long that took. Violation, with ``what``, when it does not come."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise Violation(f"{what} after {seconds:.0f} s")
        time.sleep(pause)
    return time.monotonic() - started


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """Every record by file name, without what may differ. Violation for one that is not in the one form in
    which records are written.
    """
    found = {}
    for path in sorted(folder.glob("results/*/records/[!.]*")):
        text = path.read_text()
        record = json.loads(text)
        if dump_json(record) != text:  # with this, equal values are equal bytes
            raise Violation(f"{path} is not written as records are")
        checksum = path.parent.parent / "checksums" / f"{path.stem}.sha256"
        if checksum.exists() and checksum.read_text().split()[0] != sha256(path):
            raise Violation(f"{checksum} is not that of its record")
        found[path.name] = {name: value for name, value in record.items() if name not in VOLATILE_IN_RECORD}
    return found


def artifacts(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifest of everything published, checksums and all, without what may differ."""
    found = {}
    for path in sorted(folder.glob("artifacts/[a-z]*/*/manifest.json")):
        if path.parents[1].name in ("work", "locks", "damaged", "images"):
            continue
        manifest = json.loads(path.read_text())
        for name in VOLATILE_IN_MANIFEST:
            manifest.pop(name)
        found[f"{path.parents[1].name} {path.parent.name}"] = manifest
    return found


def same(name: str, made: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Violation unless both mappings are equal; names the first difference."""
    if made.keys() != expected.keys():
        raise Violation(
            f"{name}: missing {sorted(expected.keys() - made.keys())}, too many "
            f"{sorted(made.keys() - expected.keys())}"
        )
    for key, value in expected.items():
        if made[key] != value:
            raise Violation(f"{name} {key} differs: {first_difference(value, made[key]) or 'in type'}")


def compare(folder: Path, whole: Path, *, names: Set[str] | None = None) -> dict[str, int]:
    """Violation unless ``folder`` holds what ``whole`` does, or of it the records called ``names`` with their
    artifacts, and nothing else.

    Records byte for byte except ``VOLATILE_IN_RECORD``; artifacts with all their checksums; nothing in work
    and locks, nothing damaged, no failure reports, no temporary files. Returns how many records and artifacts
    were compared.
    """
    expected, checksums = records(whole), artifacts(whole)
    if names is not None:
        expected = {name: record for name, record in expected.items() if name in names}
        used = {
            f"{stage} {key}" for record in expected.values() for stage, key in record["artifacts"].items()
        }
        checksums = {name: manifest for name, manifest in checksums.items() if name in used}
    if not expected:
        raise Violation(f"{whole} has no records to compare with")
    same("record", records(folder), expected)
    same("artifact", artifacts(folder), checksums)
    if litter := leftovers(folder):
        raise Violation(f"left over in {folder}: {', '.join(litter)}")
    return {"records": len(expected), "artifacts": len(checksums)}


def leftovers(folder: Path) -> list[str]:
    """What an undisturbed command does not leave: unfinished builds, locks, damage, failure reports,
    temporary files.
    """
    store = folder / "artifacts"
    found = {path for name in ("work", "locks", "damaged") for path in store.glob(f"{name}/*")}
    found |= {*folder.glob("runs/failed/*"), *temporaries(folder)}
    return sorted(str(path.relative_to(folder)) for path in found)


def temporaries(folder: Path) -> list[Path]:
    """Files by which a writer that is killed can be known, among artifacts and results."""
    name = re.compile(r"^\.probe-|\.tmp$|\.gone$|\.takeover$|\.damaged$")
    files = [path for top in ("artifacts", "results") for path in (folder / top).rglob("*")]
    return sorted(path for path in files if name.search(path.name))


def collect(folder: Path) -> int:
    """Let ``python -m midre_exp.store gc`` remove temporary files, as it would in two hours; how many there
    were.
    """
    found = temporaries(folder)
    for path in found:
        os.utime(path, (time.time() - 7200,) * 2)
    if found:
        gc = ["--store", str(folder / "artifacts"), "gc", "--delete", "--results", str(folder / "results")]
        subprocess.run(
            [sys.executable, "-m", "midre_exp.store", *gc], cwd=ROOT, check=True, capture_output=True
        )
    return len(found)


def verify(folder: Path) -> str:
    """What ``python -m midre_exp.store verify`` says. Violation unless all is well."""
    store = ["--store", str(folder / "artifacts"), "verify"]
    done = subprocess.run(
        [sys.executable, "-m", "midre_exp.store", *store], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise Violation(f"verify finds {folder / 'artifacts'} damaged: {done.stdout}{done.stderr}")
    return done.stdout.strip()
