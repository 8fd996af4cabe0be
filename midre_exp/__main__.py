"""The command line: ``midre-exp COMMAND …``, or ``python -m midre_exp COMMAND …``. Without a command it is
Hydra's: overrides are one run, with ``-m`` a sweep, with ``--plan`` only an account of what either would do.

Each command imports only what it needs, when it is called.
"""

from __future__ import annotations

import argparse
import difflib
import os
import re
import sys
from contextlib import suppress
from importlib import import_module

from midre_exp import __version__
from midre_exp.data.commands import COMMANDS

#: What Hydra composes: the flag each stands for, and what it does.
_HYDRA = {
    "run": ("", "one run: run setup=S01 defense=midre"),
    "sweep": ("-m", "a grid of runs, minus what is finished: sweep defense=nodef,midre seed=0,1"),
    "plan": ("--plan", "what a run or sweep would build and reuse, and how long it would take"),
}
#: Programs of their own: the module whose ``main`` takes the arguments, and what it does.
_PROGRAMS = {
    "report": ("midre_exp.report.__main__", "tables, figures, claims; runs what they lack"),
    "audit": (
        "midre_exp.audit.__main__",
        "how exposed somebody's classifier is: weights and pictures to one page",
    ),
    "cite": ("midre_exp.references.__main__", "BibTeX of what a run rests on: cite attack=ppa defense=midre"),
    "cost": ("midre_exp.cost.__main__", "GPU hours and memory of every setup, counted without running it"),
    "diagnose": (
        "midre_exp.sweep.diagnose",
        "robustness, calibration, memory of targets, without an attack: diagnose defense=midre",
    ),
    "doctor": ("midre_exp.doctor.__main__", "which setups can run here, and what the others lack"),
    "judge": (
        "midre_exp.sweep.judge",
        "further judges look at stored reconstructions: judge results/mini jury=[NAME]",
    ),
    "results": (
        "midre_exp.sharing.__main__",
        "records as one file for others, and theirs beside one's own: results export lab.tar",
    ),
    "store": ("midre_exp.store.__main__", "verify, list or clean what runs have built"),
    "study": ("midre_exp.study.__main__", "a blinded page of questions to people about reconstructions"),
    "smoke": ("midre_exp.doctor.smoke", "every setup with full networks on tiny files, a few steps"),
    "zoo": (
        "midre_exp.zoo.__main__",
        "trained targets, defended and not, that come along: zoo, zoo attack resnet18-midre-s0",
    ),
    **{f"data {name}": command for name, command in COMMANDS.items()},
}
#: Flags that are told of; and those of Hydra that are handed on, each with whether a value follows it.
_OWN_FLAGS = ("-m", "--plan", "--count", "--device", "--config-dir", "--cfg", "--help", "--version")
_FLAGS = {
    **dict.fromkeys(("-m", "--multirun", "-r", "--run", "--resolve", "--hydra-help", "-sc"), False),
    **dict.fromkeys(("--shell-completion", "--version"), False),
    **dict.fromkeys(("-c", "--cfg", "-p", "--package", "-i", "--info"), True),
    **dict.fromkeys(("-cp", "--config-path", "-cn", "--config-name", "--experimental-rerun"), True),
}


def main() -> None:
    """Carry out the command line. Exit codes: 0 done, 2 a mistake the user can mend, 1 a failure (report in
    ``paths.runs``), 130 interrupted.
    """
    from midre_exp.plan.config import use_own_packages  # loads OmegaConf

    use_own_packages()
    arguments = sys.argv[1:]
    for name, (module, _) in _PROGRAMS.items():
        words = name.split()
        if arguments[: len(words)] == words:
            sys.exit(import_module(module).main(arguments[len(words) :]))
    if not arguments:
        print(_usage())
    elif arguments == ["--version"]:
        print(f"midre-exp {__version__}")
    elif arguments[0] in _HYDRA:
        _hydra([*_HYDRA[arguments[0]][0].split(), *arguments[1:]])
    elif re.fullmatch(r"\w[\w-]*", arguments[0]):
        fail(_unknown(arguments), 2)
    else:
        _hydra(arguments)


def _usage() -> str:
    width = max(map(len, (*_HYDRA, *_PROGRAMS)))
    lines = [f"  {name:{width}}  {purpose}" for name, (_, purpose) in (*_HYDRA.items(), *_PROGRAMS.items())]
    return "\n".join(
        [
            "Model inversion attacks against defended classifiers.",
            "",
            "midre-exp COMMAND ... (the same: python -m midre_exp COMMAND ...)",
            "",
            *lines,
            "",
            "--plan at scale paper needs no data or weights, and counts what no run has measured",
            "(at other scales with --count); --device A100, H200, ... names the GPU it is for.",
            "--rebuild target,attack makes these and all that rests on them anew (run, sweep, report).",
            "midre-exp --help lists every choice and key of a run; COMMAND --help explains a command.",
        ]
    )


def _unknown(arguments: list[str]) -> str:
    """What to say of a first word that is no command."""
    given, known = arguments[0], [*_HYDRA, *_PROGRAMS]
    if given == "data":
        given, known = " ".join(arguments[:2]), [name for name in known if name.startswith("data ")]
    close = [] if arguments == ["data"] else difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{given} is no command; {hint}commands: {', '.join(known)}; an override has the form KEY=VALUE"


def _hydra(arguments: list[str]) -> None:
    """Run Hydra on the packaged configs."""
    import hydra
    from hydra._internal.hydra import Hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from midre_exp.errors import ConfigError, UserError, is_out_of_memory
    from midre_exp.plan.answers import kept_answers
    from midre_exp.plan.config import CONF_DIR, use_own_configs
    from midre_exp.plan.config_dir import check_command
    from midre_exp.plan.explain import explain
    from midre_exp.plan.names import names_as_text
    from midre_exp.plan.overrides import readable
    from midre_exp.store.lock import sigterm_as_exit
    from midre_exp.store.progress import log_to_stderr

    log_to_stderr()
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra is to hand errors on instead of printing them and leaving with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with sigterm_as_exit(), kept_answers():  # the first: so that locks are released and trackers closed
            own, rest = _own_flags(names_as_text(arguments))
            if own.device and not own.plan:
                raise ConfigError("--device goes with --plan; what a run uses is runtime.device")
            use_own_configs(own.config_dir)
            check_command(rest)
            flags, typed = _flags_first(rest)
            if own.rebuild:
                typed.append(f"runtime.rebuild=[{own.rebuild}]")
            sweeps = own.plan or not {"-m", "--multirun"}.isdisjoint(flags)
            values = readable(typed, sweeps=sweeps)
            if own.help:
                from midre_exp.plan.help import help_text

                print(_usage(), help_text(values), sep="\n\n")
            elif own.plan:
                from midre_exp.plan.compose import expand
                from midre_exp.sweep.estimate import show

                show(expand(values), count=own.count, device=own.device)
            else:
                from midre_exp.sweep.job import Task

                sys.argv[1:] = [*flags, *values]  # Hydra's
                if not any("hydra.mode" in value for value in values):
                    # the flags decide then; Hydra would compose everything once more to find that out
                    Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
                task = Task()
                hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(task)()
                if task.last is not None and task.last.error is not None:
                    raise task.last.error
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if wants_traceback:
            raise
        fail(explain(error, arguments), 2)
    except KeyboardInterrupt:
        fail("interrupted; the same command continues where this one stopped", 130)
    except Exception as error:
        if wants_traceback:
            raise
        if is_out_of_memory(error):
            text = " ".join(str(error).split())[:200] or type(error).__name__
            fail(f"not enough memory ({text}); end other programs, or lower attack.identities and sizes", 2)
        if isinstance(error, ValueError) and raised_in(error).startswith("hydra."):  # an unusable override
            fail(f"{' '.join(str(error).split())}; correct the command line", 2)
        fail(
            f"{type(error).__name__}: {error} (a bug or a broken environment; the traceback is in the newest "
            "file of the failed folder of paths.runs, or set HYDRA_FULL_ERROR=1)",
            1,
        )


def _own_flags(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that are read here, and what is left for Hydra. ``--config-dir`` is Hydra's name for what
    here reaches every job.
    """
    parser = argparse.ArgumentParser(prog="midre-exp", add_help=False, allow_abbrev=False)
    parser.add_argument("--help", "-h", action="store_true")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--count", action="store_true")
    parser.add_argument("--device", metavar="KIND")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--rebuild", metavar="STAGE,...")
    return parser.parse_known_args(arguments)


def _flags_first(words: list[str]) -> tuple[list[str], list[str]]:
    """Hydra's flags, and the overrides, which may stand between them. Raises ConfigError for any other."""
    from midre_exp.errors import ConfigError

    flags: list[str] = []
    overrides: list[str] = []
    waiting = iter(words)
    for word in waiting:
        name = word.partition("=")[0]
        if not word.startswith("-"):
            overrides.append(word)
        elif name in _FLAGS:
            flags.append(word)
            if _FLAGS[name] and word == name:
                flags += [value for value in [next(waiting, None)] if value is not None]
        else:
            close = difflib.get_close_matches(name, _OWN_FLAGS, n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ConfigError(f"{word} is no option; {hint}options: {', '.join(_OWN_FLAGS)}")
    return flags, overrides


def raised_in(error: BaseException) -> str:
    """The name of the module whose code raised the error."""
    name = ""
    frame = error.__traceback__
    while frame is not None:
        name, frame = str(frame.tb_frame.f_globals.get("__name__", "")), frame.tb_next
    return name


def fail(sentence: str, code: int) -> None:
    """Print one sentence and leave."""
    with suppress(OSError, ValueError):  # the exit code tells all the same
        print(f"midre_exp: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
