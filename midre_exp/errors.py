"""Errors a user can mend. Each carries one sentence that names the file, key or value and the remedy."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in input, configuration or environment; the command line prints its text alone and exits with
    code 2.
    """


class ConfigError(UserError):
    """A config value that cannot be used."""


class DataError(UserError):
    """A data set that is missing, incomplete or unreadable."""


class CheckpointError(UserError):
    """A weight file that is missing, foreign, damaged or of another shape than the model."""


class StoreError(UserError):
    """The artifact store or the results folder cannot be read or written."""


class DivergedError(UserError):
    """Numbers that stopped being finite in a training or an attack. An outcome of a run, of which nothing is
    kept but the sentence.
    """

    def __init__(self, sentence: str, remedy: str):
        """``sentence``: what diverged and when; ``remedy``: what to do, usually which key to lower."""
        super().__init__(sentence, remedy)
        self.sentence, self.remedy = sentence, remedy
        self.stage = self.stage_key = ""  #: of the artifact that was being built; set by the executor

    def __str__(self) -> str:
        place = f"{self.stage} {self.stage_key}: " if self.stage else ""
        return f"{place}{self.sentence}; {self.remedy}"
