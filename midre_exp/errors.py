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
