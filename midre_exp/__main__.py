"""The command line: ``python -m midre_exp OVERRIDES`` is one run, ``-m`` a sweep, ``--plan`` only tells what
either would do.

Turns every user mistake into one sentence.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys


def main() -> None:
    """Run Hydra on the packaged configs. Exit codes: 0 done, 2 a mistake the user can mend, 1 a failure
    (report in ``paths.runs``).
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from midre_exp.errors import UserError
    from midre_exp.plan.config import CONF_DIR, use_own_configs
    from midre_exp.plan.explain import explain
    from midre_exp.store.lock import sigterm_as_exit
    from midre_exp.sweep.job import Task

    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    # Hydra is to hand errors on instead of printing them and leaving with code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with sigterm_as_exit():  # so that locks are released and trackers closed
            own, rest = _own_flags(sys.argv[1:])
            use_own_configs(own.config_dir)
            if own.plan:
                from midre_exp.plan.compose import expand
                from midre_exp.sweep.estimate import show

                return show(expand([text for text in rest if text not in ("-m", "--multirun")]))
            sys.argv[1:] = rest  # Hydra's
            task = Task()
            hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(task)()
            if task.last is not None and task.last.error is not None:
                raise task.last.error
    except (UserError, HydraException, OmegaConfBaseException, OSError) as error:
        if wants_traceback:
            raise
        fail(explain(error, sys.argv[1:]), 2)
    except KeyboardInterrupt:
        fail("interrupted; the same command continues where this one stopped", 130)
    except Exception as error:
        if wants_traceback:
            raise
        if isinstance(error, ValueError) and raised_in(error).startswith("hydra."):  # an unusable override
            fail(f"{' '.join(str(error).split())}; correct the command line", 2)
        fail(
            f"{type(error).__name__}: {error} (a bug or a broken environment; the traceback is in the newest file of the failed folder of "
            "paths.runs, or set HYDRA_FULL_ERROR=1)",
            1,
        )


def _own_flags(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The flags that are read here, and what is left for Hydra. ``--config-dir`` is Hydra's name for what
    here reaches every job.
    """
    parser = argparse.ArgumentParser(prog="python -m midre_exp", add_help=False, allow_abbrev=False)
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--config-dir", "-cd")
    return parser.parse_known_args(arguments)


def raised_in(error: BaseException) -> str:
    """The name of the module whose code raised the error."""
    name = ""
    frame = error.__traceback__
    while frame is not None:
        name, frame = str(frame.tb_frame.f_globals.get("__name__", "")), frame.tb_next
    return name


def fail(sentence: str, code: int) -> None:
    """Print one sentence and leave."""
    print(f"midre_exp: {sentence}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
