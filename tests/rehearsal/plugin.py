"""The plugin behind which pytest finds a pretended GPU, and fails tests that wait for it where none may."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.rehearsal import machine
from tests.rehearsal.waits import LARGE, WAITS, complaints

_pretended = machine.pretend(WAITS.told)
torch.cuda.set_sync_debug_mode = WAITS.set_mode


def pytest_unconfigure() -> None:
    _pretended.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """No test may wait where the table does not allow it."""
    with WAITS.during() as found:
        yield
    if said := complaints(found):
        pytest.fail("\n".join(said), pytrace=False)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """All waits and large operators on the CPU by stage and function."""
    terminalreporter.section("waits for the device")
    for (stage, site, what), count in sorted(WAITS.counts.items()):
        if what != LARGE:
            size = WAITS.bytes[stage, site, what] / 2**20
            terminalreporter.line(f"{stage:<11} {count:6d} {what:<20} {size:9.1f} MiB  {site}")
    terminalreporter.section("large operators on the CPU")
    for (stage, site, what), count in sorted(WAITS.counts.items()):
        if what == LARGE:
            terminalreporter.line(f"{stage:<11} {count:6d} {site}")
