"""``midre-exp audit --images DIR --checkpoint FILE``: how exposed are the people whom a classifier knows?

FILE is a state dict of torchvision, timm or this project, or of whatever ``--model package.module:function``
makes; nothing in it is executed. DIR holds one folder of pictures per person, as for torchvision's
ImageFolder, perhaps below train and test. Architecture, resolution, normalisation and order of classes are
read or tried out, and attacks of different knowledge are run until the minutes are over. What comes of it is
one page (audit.html, audit.md, audit.json). It shows nobody unless ``publish.people=true`` is added.

Exit codes: 0 done; 2 a mistake that can be mended; with --fail-above, 3 where the strongest attack is
recognised in more than so many percent, 4 where the verdict may not be read.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from midre_exp.audit.rungs import RUNGS, SYNTHETIC, Rung
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.answers import kept_answers
from midre_exp.plan.config import config_files, digest, use_own_configs
from midre_exp.plan.deployment import deployed_defense
from midre_exp.plan.explain import explain
from midre_exp.plan.publication import ignore_all
from midre_exp.store.lock import sigterm_as_exit
from midre_exp.store.progress import log_to_stderr, say

#: Of the time, how much the search for what the network was fed may take.
_READING = 0.1


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_intermixed_args(words)
    log_to_stderr()
    try:
        use_own_configs(options.config_dir)
        with sigterm_as_exit(), kept_answers():
            return _audit(options, words)
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        print(f"midre_exp: {explain(error, options.overrides)}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="midre-exp audit",
        description=(__doc__ or "").replace("``", ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--images", type=Path, required=True, metavar="DIR", help="the people it knows")
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="FILE", help="its weights")
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="timm:NAME, torchvision:NAME, package.module:function (of num_classes) or a target's name",
    )
    parser.add_argument(
        "--names", type=Path, metavar="FILE", help="names in the order of classes, one a line"
    )
    parser.add_argument(
        "--size", type=_pixels, metavar="PX", help="side of the squares it takes (default: tried out)"
    )
    parser.add_argument(
        "--normalisation",
        metavar="NAME",
        help="imagenet, half, none, bytes, own or MEAN/STD (default: tried)",
    )
    parser.add_argument(
        "--public",
        metavar="DIR",
        help="the attacker's pictures, in a folder for each person if a verifier is to learn from them, or "
        "synthetic (default: people whom it does not know in the folder of --images, if there are enough "
        "pictures of them, else synthetic faces)",
    )
    parser.add_argument("--minutes", type=float, default=15.0, help="for everything (default: 15)")
    parser.add_argument("--people", type=int, metavar="N", help="attack the first N classes (default: all)")
    parser.add_argument(
        "--attacks",
        metavar="A,B",
        help=f"of {', '.join(rung.attack for rung in RUNGS)} (default: all, as time is)",
    )
    parser.add_argument(
        "--defense",
        metavar="NAME",
        help="also train such a network with and without it (midre, say), and compare",
    )
    parser.add_argument(
        "--fail-above",
        type=float,
        metavar="PERCENT",
        help="exit with 3 if the strongest attack is recognised in more",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where it goes (default: audits/<name of the file>-<digest>)"
    )
    parser.add_argument("--config-dir", metavar="DIR", help="a folder of your own beside conf")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="of the config, e.g. publish.people=true"
    )
    return parser


def _audit(options: argparse.Namespace, words: Sequence[str]) -> int:
    rungs = _rungs(options)
    # these load torch and timm, for which neither --help nor a mistake in an option waits
    import torch

    from midre_exp.audit.ladder import Clock, climb, first_that_fits
    from midre_exp.audit.network import read_checkpoint
    from midre_exp.audit.page import write_page
    from midre_exp.audit.reading import Pictures, read_network
    from midre_exp.audit.settings import Subject, free_processors, settings_for
    from midre_exp.audit.verdict import exit_code, judge_audit

    clock = Clock(60 * options.minutes)
    threads = free_processors()
    torch.set_num_threads(threads)
    out = options.out or Path("audits") / _stem(options.checkpoint, options.images)
    ignore_all(out)  # pictures of people lie in its store
    checkpoint = read_checkpoint(options.checkpoint, model=options.model, folder=out)
    for note in checkpoint.notes:
        say(note)
    reading = read_network(
        checkpoint,
        pictures := Pictures(options.images),
        size=options.size,
        normalisation=options.normalisation,
        names=options.names,
        seconds=_READING * clock.seconds,
        say=say,
    )
    say(f"classes in order: {reading.order}; acc {reading.accuracy:.1f} % of {reading.images} pictures")
    for alarm in reading.alarms:
        say(f"ALARM: {alarm}")
    subject = Subject(
        checkpoint, reading, pictures, out, options.public, options.people, tuple(options.overrides), threads
    )
    say(f"the attacker has {subject.attackers_pictures_in_words}")
    tried = climb(subject, clock, say, rungs)
    if options.defense is not None:
        reached = {one.rung: one.record["metrics"]["att_acc1"] for one in tried if one.record is not None}
        settings = settings_for(subject, rungs[0].attack, retrained=(options.defense,))
        if deployed_defense(settings):  # past which goes who holds the weights
            met = {one: share for one, share in reached.items() if one.threat != "white_box"}
            reached = met or reached
        strongest = sorted(reached, key=lambda one: -reached[one]) or rungs[:1]
        both = [
            [replace(rung, retrained=(name,)) for name in (options.defense, "nodef")] for rung in strongest
        ]
        tried += climb(subject, clock, say, first_that_fits(subject, clock, both))
    seconds = time.monotonic() - clock.began
    command = f"midre-exp audit {shlex.join(words)}"
    audit = judge_audit(subject, tried, seconds=seconds, command=command)
    paths = write_page(audit, subject, tried)
    print(audit.verdict)
    print("written: " + ", ".join(map(str, paths)))
    return exit_code(audit, options.fail_above)


def _rungs(options: argparse.Namespace) -> list[Rung]:
    """The attacks to try. Raises ConfigError for options that cannot be used."""
    if options.minutes <= 0:
        raise ConfigError(f"--minutes {options.minutes:g} must be above 0")
    if options.people is not None and options.people < 1:
        raise ConfigError(f"--people {options.people} must be at least 1")
    if options.defense is not None and options.defense not in config_files("defense"):
        raise ConfigError(
            f"--defense {options.defense} is unknown; give one of {', '.join(config_files('defense'))}"
        )
    public = options.public
    if public not in (None, SYNTHETIC) and not Path(public).expanduser().is_dir():
        raise ConfigError(f"--public {public} is no folder; give one with pictures, or {SYNTHETIC}")
    known = {rung.attack: rung for rung in RUNGS}
    names = list(known) if options.attacks is None else options.attacks.split(",")
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"--attacks {', '.join(unknown)} is unknown; give some of {','.join(known)}")
    return [known[name] for name in names]


def _pixels(text: str) -> int:
    """The side of a square. Raises ArgumentTypeError."""
    if text.isdecimal() and int(text) > 0:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"{text} is no number of pixels; pictures are shown as squares, so for a network that takes others "
        "give the side of a square, such as 112, and --model package.module:function, a function whose "
        "network resizes them first"
    )


def _stem(checkpoint: Path, images: Path) -> str:
    readable = re.sub(r"[^A-Za-z0-9._+-]+", "-", checkpoint.stem).strip("-.")[:40] or "network"
    return f"{readable}-{digest([str(checkpoint.absolute()), str(images.absolute())])[:6]}"


if __name__ == "__main__":
    sys.exit(main())
