"""``make rehearse`` where there can be no pretended GPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from tests.rehearsal import __main__ as start
from tests.rehearsal.waits import LARGE, ROOT, allowed, complaints


@pytest.mark.parametrize(
    ("patched", "answer", "told"),
    [
        ((torch.backends.cuda, "is_built"), False, "needs torch with CUDA"),
        ((torch.cuda, "is_available"), True, "there is a GPU here"),
        ((shutil, "which"), None, "finds no cc, gcc or clang"),
        ((start.sys, "platform"), "darwin", "works on Linux alone"),
    ],
)
def test_what_is_missing_is_told_in_one_sentence(patched, answer, told, monkeypatch, capsys):
    monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(*patched, answer if isinstance(answer, str) else lambda *_: answer)
    assert start.main([]) == 2
    said = capsys.readouterr().err
    assert told in said and said.count("\n") == 1


def test_a_wait_is_allowed_in_its_stage_alone():
    assert complaints({("attack", "midre_exp/attack_run.py:_save_phase", "copy to the host"): 3}) == []
    (said,) = complaints({("prior", "midre_exp/attack_run.py:_save_phase", "copy to the host"): 3})
    assert said.startswith(
        "midre_exp/attack_run.py:_save_phase waits for the device (copy to the host, 3 times in stage prior)"
    )
    assert complaints({("prior", "midre_exp/attack_run.py:_save_phase", LARGE): 3}) == []


def test_every_allowed_function_is_there_and_has_a_reason():
    for sites in allowed().values():
        for site, reason in sites.items():
            file, _, name = site.partition(":")
            source = (ROOT / Path(file)).read_text()
            assert ("lambda" if name == "<lambda>" else f"def {name}(") in source, site
            assert reason
