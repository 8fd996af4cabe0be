"""Every setup of the paper, end to end in under a minute each: `python -m midre_exp.doctor.smoke [S01 S27
...] [--device cuda] [--folder DIR] [--keep]`.

Config, readers, networks, attack and metrics are those of scale=paper, budgets those of scale=smoke. Data and
generators are tiny files in their official layouts, weights random, budgets a few steps. It shows that a
setup runs, on any CPU or on a GPU (``--device cuda``); its numbers mean nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from argparse import ArgumentParser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from omegaconf import OmegaConf
from tabulate import tabulate

from midre_exp.data.readers import fixtures
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.compose import Composer, packaged_composer, packaged_configs
from midre_exp.plan.config import CONF_DIR, config_files
from midre_exp.priors.stylegan.nvidia_fixture import write_stylegan2
from midre_exp.run import run
from midre_exp.runtime import choose_device
from midre_exp.stages import STAGES
from midre_exp.store.files import make_folder, read_json

_CELEBA = partial(fixtures.write_celeba, identities=6, images=3, lists=True)
#: The downloads behind each choice of data: official folder name to writer. Six people, so that being among
#: the first five is no matter of course. Public images of 1024 px are not needed: generators of that size
#: come ready.
DOWNLOADS: dict[str, dict[str, Callable[[Path], fixtures.Overrides]]] = {
    "celeba_celeba": {"celeba": _CELEBA},
    "celeba_ffhq": {"celeba": _CELEBA, "ffhq": partial(fixtures.write_ffhq, images=16)},
    "facescrub_ffhq": {"facescrub": partial(fixtures.write_facescrub, identities=6, images=3)},
    "vggface2_ffhq": {"vggface2": partial(fixtures.write_vggface2, identities=6, images=3)},
    "dogs_afhq": {"stanford_dogs": partial(fixtures.write_stanford_dogs, identities=6, images=3)},
}


@dataclass(frozen=True)
class Outcome:
    """How one setup ended. ``error`` None: it left a record with its accuracies."""

    setup: str
    title: str
    seconds: float
    stages: Mapping[str, float]
    error: str | None

    def __str__(self) -> str:
        return f"{self.setup:<5} {self.title:<44} {self.seconds:6.1f} s  {self.error or 'ok'}"


def setup_names() -> list[str]:
    """The paper's setups, LOMMA's in both variants; bare names that stand for one of them are left out."""
    files = sorted((CONF_DIR / "setup").glob("S*.yaml"))
    return [file.stem for file in files if OmegaConf.load(file).setup.id == file.stem]


class Ground:
    """A folder with the files that setups need, written when the first of them needs them, and the device on
    which they run.
    """

    def __init__(self, folder: Path, device: str = "cpu"):
        self.folder, self.device = folder, device
        self._written: dict[str, fixtures.Overrides] = {}

    def downloads(self, data: str) -> list[str]:
        """The overrides that read the downloads of a choice of data."""
        found: list[str] = []
        for name, write in DOWNLOADS[data].items():
            if name not in self._written:
                self._written[name] = write(self.folder / "data" / name)
            found += self._written[name]
        return found

    def generator(self, image_size: int) -> Path:
        """A network pickle that draws so many pixels."""
        path = self.folder / f"stylegan2-{image_size}.pkl"
        if not path.exists():
            write_stylegan2(path, image_size=image_size, channels=2)
        return path

    def clear(self) -> None:
        """Remove what runs stored, except what later setups share: decoded images and evaluators."""
        for stage in ("target", "prior", "surrogates", "candidates", "attack", "metrics", "work"):
            shutil.rmtree(self.folder / "store" / stage, ignore_errors=True)

    def settings(self, name: str, composer: Composer) -> dict[str, Any]:
        """The resolved config of a setup, small. Raises ConfigError for an attack without a smoke budget and
        for data without a writer.
        """
        chosen = [f"setup={name}", "scale=smoke"]
        small = composer.settings(chosen)
        attack, data = small["attack"], small["data"]["name"]
        if f"smoke_{attack['name']}" not in config_files("scale/attack"):
            raise ConfigError(
                f"setup={name} has no small budget; give attack {attack['name']} one in "
                f"conf/scale/attack/smoke_{attack['name']}.yaml"
            )
        if data not in DOWNLOADS:
            raise ConfigError(
                f"setup={name} reads {data}, which DOWNLOADS in midre_exp/doctor/smoke.py lacks"
            )
        overrides = ["evaluator.floor=0", f"runtime.device={self.device}"]  # a few images and one epoch
        overrides += [f"paths.{part}='{self.folder / part}'" for part in ("store", "data", "runs", "results")]
        if attack["prior"]["name"] == "stylegan2":
            overrides.append(f"attack.prior.pretrained='{self.generator(attack['prior']['image_size'])}'")
        return composer.settings([*chosen, *self.downloads(data), *overrides])


def try_setup(name: str, ground: Ground, composer: Composer, *, keep: bool = False) -> Outcome:
    """Run one setup, check its record and remove what it stored. Any failure becomes the outcome, unless
    HYDRA_FULL_ERROR=1.
    """
    started = time.monotonic()
    title = str(OmegaConf.load(CONF_DIR / "setup" / f"{name}.yaml").setup.title)
    seconds: Mapping[str, float] = {}
    error = None
    try:
        record = read_json(run(ground.settings(name, composer)))
        seconds = record["seconds"]
        error = complaint(record)
    except Exception as failure:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        text = " ".join(str(failure).split())
        error = text if isinstance(failure, UserError) else f"{type(failure).__name__}: {text}"
    finally:
        if not keep:
            ground.clear()
    return Outcome(name, title, time.monotonic() - started, seconds, error)


def complaint(record: Mapping[str, Any]) -> str | None:
    """What is wrong with a record; None if nothing. Metrics over successful reconstructions may be missing:
    nobody is recognised here.
    """
    absent = sorted({"acc", "evaluator_acc", "att_acc1", "att_acc5"} - set(record["metrics"]))
    if absent:
        return f"the record has no {', '.join(absent)}: {record['missing']}"
    return None


def smoke(names: Sequence[str], folder: Path, *, device: str = "cpu", keep: bool = False) -> list[Outcome]:
    """Try setups one after the other below a folder that is new or empty; prints a line for each."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"--folder={folder} exists and is not an empty folder; name a new one")
    make_folder(folder)
    ground, outcomes = Ground(folder.absolute(), device), []
    with packaged_configs():
        composer = packaged_composer()
        for name in names:
            outcomes.append(try_setup(name, ground, composer, keep=keep))
            print(outcomes[-1], flush=True)
    if not keep:
        shutil.rmtree(ground.folder / "store", ignore_errors=True)
    return outcomes


def table(outcomes: Sequence[Outcome]) -> str:
    """Seconds of every setup and stage, and what came of it. Setups on the same private images share an
    evaluator.
    """
    stages = [stage.name for stage in STAGES]
    rows = [
        [one.setup, one.title, one.seconds, *(one.stages.get(stage) for stage in stages), one.error or "ok"]
        for one in outcomes
    ]
    return tabulate(rows, ["setup", "title", "seconds", *stages, "outcome"], floatfmt=".1f")


class _Parser(ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"smoke: {message}; see python -m midre_exp.doctor.smoke --help")


def main(arguments: Sequence[str]) -> int:
    """Exit code: 0 all setups passed, 1 one did not, 2 a mistake in the arguments."""
    known = setup_names()
    parser = _Parser(prog="python -m midre_exp.doctor.smoke", description=__doc__)
    parser.add_argument("setups", nargs="*", default=known, help="default: all")
    parser.add_argument("--device", default="cpu", help="where: cpu (default), cuda, cuda:1 ...")
    parser.add_argument(
        "--folder", type=Path, help="where to work, new or empty (default: a temporary folder)"
    )
    parser.add_argument(
        "--keep", action="store_true", help="leave artifacts in the folder: some 300 MB for each setup"
    )
    try:
        given = parser.parse_args(arguments)
        unknown = sorted(set(given.setups) - {file.stem for file in (CONF_DIR / "setup").glob("S*.yaml")})
        if unknown:
            raise ConfigError(f"setup {unknown[0]} is unknown; use some of {', '.join(known)}")
        choose_device(given.device, "--device")
        if given.keep and given.folder is None:
            raise ConfigError("--keep needs --folder; name the folder to keep")
        with TemporaryDirectory(prefix="midre-smoke-") as scratch:
            folder = given.folder or Path(scratch) / "smoke"
            outcomes = smoke(given.setups, folder, device=given.device, keep=given.keep)
    except UserError as mistake:
        print(mistake, file=sys.stderr)
        return 2
    failed = [one.setup for one in outcomes if one.error]
    print(f"\n{table(outcomes)}\n\n{len(outcomes) - len(failed)} of {len(outcomes)} setups ran to a record")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
