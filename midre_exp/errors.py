"""Errors a user can mend. Each carries one sentence that names the file, key or value and the remedy."""

from __future__ import annotations

import errno


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


class OutOfMemory(UserError):
    """More memory is needed than the device has, as little as is done at once."""


#: How torch, CUDA, cuBLAS, cuDNN, oneDNN and the C library say that there is no memory.
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "insufficient memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "can't start new thread",
    "DefaultCPUAllocator",
    "ALLOC_FAILED",
    "bad_alloc",
    "could not create a memory object",
)
#: How kernels that count elements in 32 bits say that a tensor has too many.
_TOO_LARGE = (
    "canuse32bitindexmath",
    "32-bit index",
    "32 bit index",
    "too large to use 32-bit",
    "integer out of range",
    "more than int_max",
    "int_max elements",
    "exceeds the maximum value of int",
)
_SMALLER = tuple(text.lower() for text in (*_NO_MEMORY, *_TOO_LARGE))


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says "smaller, please": no memory, or a tensor that a
    kernel cannot index. The one judge of that, for all stages.
    """
    while error is not None:
        if isinstance(error, (MemoryError, OutOfMemory)) or getattr(error, "errno", None) == errno.ENOMEM:
            return True
        if any(
            kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__
        ):  # torch's, not loaded here
            return True
        if isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _SMALLER):
            return True
        error = error.__cause__
    return False
