from __future__ import annotations

import json

import pytest
import torch

from midre_exp.cost import calibrate
from midre_exp.cost.accelerators import accelerator, known, seconds
from midre_exp.cost.counted import Counted, Operator, Phase
from midre_exp.cost.rates import Rates, measured_rates, rates_file, write_rates
from midre_exp.errors import ConfigError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured_rates.cache_clear()
    yield
    measured_rates.cache_clear()


def rates(**changed) -> Rates:
    found = {"device": "NVIDIA A100", "float32": 10.0, "tf32": 100.0, "bf16": 200.0, "bandwidth": 1.5}
    found |= {"launch": 5e-6, "memory": 40.0, "torch": "2", "measured": "2026-01-02", **changed}
    return Rates(**found)


def test_a_calibrated_device_takes_what_was_measured_of_it():
    stage = Counted((Phase("a", (Operator("conv", 100e12, 0.0, 1, 2.0),), 0.0),))
    sheet = accelerator("NVIDIA A100")
    assert sheet is not None and "data sheet" in sheet.assumption
    assert seconds(stage, sheet, "tf32") == pytest.approx(2 * 100 / (0.4 * 156))
    write_rates(rates())
    own = accelerator("NVIDIA A100")
    assert own is not None and "calibrated on 2026-01-02" in own.assumption and own.memory == 40
    assert seconds(stage, own, "tf32") == pytest.approx(2.0)
    assert accelerator("A100") == sheet  # a kind that is named is by its data sheet


@pytest.mark.parametrize("damage", [{"float32": -1}, {"bandwidth": 0}, {"launch": "fast"}, {"device": "b"}])
def test_a_file_that_is_no_measurement_of_the_device_counts_for_nothing(damage):
    file = write_rates(rates())
    assert file == rates_file("NVIDIA A100") and measured_rates("NVIDIA A100") is not None
    file.write_text(json.dumps({**json.loads(file.read_text()), **damage}))
    measured_rates.cache_clear()
    assert measured_rates("NVIDIA A100") is None


def test_an_unknown_device_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"--device Quantum is unknown; use one of V100, A100.*calibrate"):
        known("Quantum")


def test_a_busy_machine_is_refused_or_marked(monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "_LAYERS", ((4, 8),))
    monkeypatch.setattr(calibrate, "_ELEMENTS", {"cpu": 2**10})
    monkeypatch.setattr(calibrate, "_SECONDS", 0.01)
    monkeypatch.setattr(calibrate.os, "getloadavg", lambda: (100.0, 100.0, 100.0))
    assert calibrate.main(["--device", "cpu"]) == 2
    assert "this machine is busy (100% of it is taken by others)" in capsys.readouterr().err
    assert calibrate.main(["--device", "cpu", "--busy"]) == 0
    assert "on a busy machine" in capsys.readouterr().out
    device = f"{calibrate.processor_name()}, 1 threads"
    found = measured_rates(device)
    assert found is not None and found.busy and found.float32 > 0 and found.launch > 0
    kind = accelerator(device)
    assert kind is not None and kind.measured == found.measured
    assert torch.get_num_threads() == 1  # as before


def test_rounds_that_differ_are_a_busy_machine_too(monkeypatch):
    monkeypatch.setattr(calibrate, "_LAYERS", ((4, 8),))
    monkeypatch.setattr(calibrate, "_ELEMENTS", {"cpu": 2**10})
    monkeypatch.setattr(calibrate.os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    monkeypatch.setattr(calibrate, "_time_of", lambda work, device: (1e-3, 0.9))
    with pytest.raises(calibrate.BusyError, match="rounds of the same differ by 90%"):
        calibrate.measure(torch.device("cpu"), 1)
