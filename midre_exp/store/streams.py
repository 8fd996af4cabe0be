"""Lines for whoever reads along: that nobody can read them any more (a closed pipe, a lost terminal, a full
disk) ends no run.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, TextIO, cast


def tell(sentence: str, stream: TextIO | None = None) -> None:
    """Print one line on stdout, or on ``stream``, as long as it takes any."""
    stream = stream or sys.stdout
    try:
        print(sentence, file=stream, flush=True)
    except (OSError, ValueError):  # ValueError: closed
        _silence(stream)


@contextmanager
def lasting_stderr() -> Iterator[None]:
    """Within, what is written to stderr (progress, warnings of libraries) is lost instead of an error once it
    cannot be written.
    """
    before = sys.stderr
    sys.stderr = cast(TextIO, before if isinstance(before, _Lasting) else _Lasting(before))
    try:
        yield
    finally:
        sys.stderr = before


class _Lasting:
    """A text stream that goes on when its file does not."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            _silence(self._stream)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            _silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _silence(stream: IO[str]) -> None:
    """Send what a broken stream still holds, and all that follows, nowhere; Python would fail on it again
    when it ends.
    """
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
