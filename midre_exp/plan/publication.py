"""Who may be seen on what is made of a run: pages, figures, studies, pictures in Weights & Biases.

Every data yaml says whose faces it holds (``data.people``). Faces that code renders are of nobody. Of anybody
else neither a private photograph nor a reconstruction is shown unless the user says ``publish.people=true``;
what then shows people carries a banner and lies where git ignores it. Neither enters a key.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from midre_exp.store.files import write_atomic

#: synthetic: rendered by code, of nobody; public_figures: collected of people known to the public, who did
#: not agree; consented: of people who agreed to be shown; unknown: nobody can say.
People = Literal["synthetic", "public_figures", "consented", "unknown"]
#: What shows people.
SWITCH = "publish.people=true"
#: What stands at the end of every page of results, whomever it shows.
NOTICE = (
    "Made to measure what a classifier gives away of the people it was trained on. Attack only networks that "
    "you may test, and use only pictures that you may use. A reconstruction is no photograph and no evidence "
    "of what anybody looks like or did. More: RESPONSIBLE_USE.md of midre-exp."
)
#: Beside other results, the folder of what shows people.
_FOLDER = "people"


def people_of(config: Mapping[str, Any]) -> str:
    """Whose faces the private images of a config are, of today or of a record; of one that does not say,
    ``unknown`` unless code renders them.
    """
    data = config.get("data") or {}
    rendered = str((data.get("private") or {}).get("_target_")).rpartition(".")[2] == "SynthFaces"
    return str(data.get("people") or ("synthetic" if rendered else "unknown"))


def shows_people(config: Mapping[str, Any]) -> bool:
    """Whether somebody real is on the pictures of a config, and the user wants them shown."""
    return people_of(config) != "synthetic" and may_show(config)


def may_show(config: Mapping[str, Any]) -> bool:
    """Whether pictures of a config's private people, photographs and reconstructions, may be shown."""
    return people_of(config) == "synthetic" or bool((config.get("publish") or {}).get("people"))


def withheld(config: Mapping[str, Any]) -> str | None:
    """Why nobody of a config's data is shown, a sentence; None where they may be."""
    if may_show(config):
        return None
    return (
        f"Nobody of {config['data']['name']} is shown: the people in it are {_word(config)} (data.people), "
        f"and {SWITCH} is not given."
    )


def banner(config: Mapping[str, Any]) -> str | None:
    """What stands on top of a page that shows people; None where it shows nobody real."""
    if not shows_people(config):
        return None
    return (
        f"This page shows people ({_word(config)}): private photographs, or what was reconstructed of them. "
        "Give it only to those who may see them, and keep it out of version control."
    )


def people_folder(folder: Path) -> Path:
    """The folder in ``folder`` for what shows people: git ignores it wherever it lies. Made where it is
    absent.
    """
    place = folder / _FOLDER
    ignore_all(place)
    return place


def ignore_all(folder: Path) -> None:
    """Let git ignore a folder with everything in it, whatever checkout it lies in."""
    file = folder / ".gitignore"
    if not file.exists():
        write_atomic(file, "*\n")


def is_kept_by_git(path: Path) -> bool:
    """Whether a file at this path lies in a checkout that does not ignore it; it need not exist. A checkout
    that git does not answer for counts as one that keeps it.
    """
    path = path.expanduser().resolve()
    if not any((folder / ".git").exists() for folder in path.parents):
        return False
    folder = next(folder for folder in path.parents if folder.is_dir())
    command = ["git", "-c", "safe.directory=*", "-C", str(folder), "check-ignore", "--quiet", str(path)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode != 0
    except OSError:  # no git here, but perhaps where the folder goes next
        return True


def _word(config: Mapping[str, Any]) -> str:
    words = {"public_figures": "public figures", "unknown": "of unknown consent"}
    return words.get(people_of(config), people_of(config))
