"""Whether a claim was there before the runs that answer it.

git is asked first: a claim is registered at the commit that first holds what its yaml says today, and was so
before the runs when the tree of the commit of every record that its ``where`` admits holds it too, word for
word but for comments.
Where git cannot tell (no checkout, a commit that was rebased away), the records can: each carries the digests
of the claims that were registered for its scale when it was written, which no rewriting of history and no
wheel without git takes away.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from midre_exp.records import Record
from midre_exp.records.claims import meaning_of
from midre_exp.report.claims.definitions import Claim

NOT_KNOWN = "not known"
AFTER = "after the runs (exploratory)"


def registrations(claims: Sequence[Claim], records: Sequence[Record]) -> dict[str, str]:
    """What is to be said of each claim by its name: ``at COMMIT, before the runs`` and the like."""
    found: dict[str, str] = {}
    by_folder: dict[Path, list[Claim]] = {}
    for claim in claims:
        by_folder.setdefault(claim.path.parent, []).append(claim)
    commits = sorted({str(record["commit"]).partition("+")[0] for record in records if record["commit"]})
    for folder, group in by_folder.items():
        history = _History.of(folder, group, commits)
        for claim in group:
            found[claim.name] = _told(claim, history, [one for one in records if claim.where.admits(one)])
    return found


def _told(claim: Claim, history: _History | None, records: Sequence[Record]) -> str:
    at = None if history is None else history.registered_at(claim)
    commits = {str(record["commit"] or "").partition("+")[0] for record in records}
    held = None if history is None else history.held_by_all(claim, commits)
    source = ""
    digests = [record.get("claims", {}).get(claim.name) for record in records]
    if held is None and claim.scales is not None and None not in digests:
        held, source = set(digests) == {claim.meaning}, " (by the digests in the records)"
    if held is None:
        return NOT_KNOWN
    if not held:
        return AFTER
    return f"{f'at {at}, ' if at else ''}before the runs{source}"


class _History:
    """What git holds of the claims of a folder: today's history of each yaml, and its content in the commits
    of the records.
    """

    def __init__(
        self,
        versions: Mapping[str, Sequence[tuple[str, str | None]]],
        in_records: Mapping[str, Mapping[str, str | None]],
        known: Iterable[str],
    ):
        self._versions = versions  # by file name: commit and meaning, newest first
        self._in_records = in_records  # by file name: meaning in each commit
        self._known = frozenset(known)  # commits that git has here

    @classmethod
    def of(cls, folder: Path, claims: Sequence[Claim], commits: Sequence[str]) -> _History | None:
        """Three calls of git, however many claims; None where git does not know the folder."""
        try:
            prefix = _git(folder, "rev-parse", "--show-prefix").decode().strip()
            names = [claim.path.name for claim in claims]
            log = _git(folder, "log", "--format=:%h", "--name-only", "-z", "--", *names).decode()
            touched: dict[str, list[str]] = {name: [] for name in names}
            commit = ""
            for word in filter(None, (part.strip("\n") for part in log.split("\0"))):
                if word.startswith(":"):
                    commit = word[1:]
                elif word.removeprefix(prefix) in touched:
                    touched[word.removeprefix(prefix)].append(commit)
            asked = [(commit, name) for name in names for commit in touched[name]]
            asked += [(commit, name) for name in names for commit in commits]
            objects = [*(f"{commit}^{{commit}}" for commit in commits)]
            objects += [f"{commit}:{prefix}{name}" for commit, name in asked]
            contents = _contents(folder, objects)
        except (OSError, subprocess.CalledProcessError, UnicodeDecodeError, ValueError):
            return None
        here = zip(commits, contents, strict=False)  # what follows are the yamls in them
        known = [commit for commit, content in here if content is not None]
        meanings = {
            pair: None if content is None else meaning_of(content)
            for pair, content in zip(asked, contents[len(commits) :], strict=True)
        }
        return cls(
            {name: [(c, meanings[c, name]) for c in touched[name]] for name in names},
            {name: {c: meanings[c, name] for c in commits} for name in names},
            known,
        )

    def registered_at(self, claim: Claim) -> str | None:
        """The oldest commit since which a yaml says what it says today; None: no commit has it like that."""
        found = None
        for commit, meaning in self._versions[claim.path.name]:
            if meaning != claim.meaning:
                break
            found = commit
        return found

    def held_by_all(self, claim: Claim, commits: Iterable[str]) -> bool | None:
        """Whether all these commits of records hold it; None where one of them is not known here."""
        commits = list(commits)
        if not self._known.issuperset(commits):
            return None
        return all(self._in_records[claim.path.name][commit] == claim.meaning for commit in commits)


def _contents(folder: Path, objects: Sequence[str]) -> list[bytes | None]:
    """What git has under each name, None where it has nothing, by one call."""
    if not objects:
        return []
    answer = _git(folder, "cat-file", "--batch", given="".join(f"{name}\n" for name in objects).encode())
    found: list[bytes | None] = []
    for _ in objects:
        head, _, answer = answer.partition(b"\n")
        if head.endswith((b" missing", b" ambiguous")):
            found.append(None)
            continue
        size = int(head.rsplit(b" ", 1)[1])
        found.append(answer[:size])
        answer = answer[size + 1 :]
    return found


def _git(folder: Path, *command: str, given: bytes | None = None) -> bytes:
    """What a git command that only reads says of a checkout, whoever owns it."""
    free = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return subprocess.run(
        ["git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false", "-C", str(folder), *command],
        capture_output=True,
        check=True,
        input=given,
        env={**free, "GIT_OPTIONAL_LOCKS": "0"},
    ).stdout
