from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pytest

from midre_exp.cards import card_of, dataset_cards
from midre_exp.cost.forecast import Forecast
from midre_exp.cost.runs import RunCost
from midre_exp.data.readers.make_fixture import WRITERS
from midre_exp.data.readers.vggface2 import VGGFace2
from midre_exp.doctor import __main__ as doctor
from midre_exp.doctor import checks, requirements
from midre_exp.doctor.__main__ import diagnose, main
from midre_exp.doctor.checks import Checks
from midre_exp.doctor.environment import environment
from midre_exp.doctor.smoke import setup_names
from midre_exp.plan.compose import packaged_configs, settings_of
from midre_exp.plan.config import build, config_files


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """No data, no cached weights, no cluster, much disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**15))


@pytest.fixture
def celeba(tmp_path):
    return [
        *WRITERS["celeba"](tmp_path / "celeba", lists=True),
        "attack.identities=2",
        "evaluator.weights=null",
    ]


def named(findings, *, blocks=True):
    return [finding.name for finding in findings if finding.blocks is blocks]


def text_of(findings, name):
    (text,) = [finding.text for finding in findings if finding.name == name]
    return text


def settings(*overrides):
    with packaged_configs():
        return settings_of([*overrides])


def test_a_setup_with_its_data_is_ready_and_downloads_are_remarks(celeba):
    (one,) = diagnose(["S01"], [*celeba, "runtime.device=cpu"], "paper")
    assert one.ready, one.requirements
    assert set(named(one.requirements, blocks=False)) == {"download", "no fid_lomma", "no GPU"}
    assert any("vgg16_bn-6c64b313.pth" in finding.text for finding in one.requirements)


def test_weights_to_be_got_by_hand_are_told_with_their_place(celeba):
    (one,) = diagnose(["S01"], [*celeba, "runtime.device=cpu", "evaluator.weights=ms1m"], "paper")
    assert named(one.requirements) == ["evaluator.weights file"]
    told = text_of(one.requirements, "evaluator.weights file")
    assert "face.evoLVe" in told and "weights/ms1m/backbone_ir50_ms1m_epoch120.pth" in told


def test_weights_in_the_cache_are_not_told_as_downloads(celeba, tmp_path):
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for file in ("vgg16_bn-6c64b313.pth", "inception_v3_google-0cc3c7bd.pth"):
        (folder / file).touch()
    (one,) = diagnose(["S01"], [*celeba, "runtime.device=cpu"], "paper")
    assert "download" not in named(one.requirements, blocks=False)


def test_each_problem_is_told_once_with_its_setups_and_remedy(capsys):
    assert main(["S01", "S02", "S27"]) == 0
    text = capsys.readouterr().out
    assert text.count("CelebA is incomplete in") == 1
    assert "CelebA data (S01-S02)" in text
    assert "img_align_celeba" in text and "data.private.root" in text
    assert text.count("FaceScrub is incomplete in") == 1
    assert "no GPU (all 3)" in text and "scale=mini" in text
    assert "0 of 3 setups are ready at scale paper" in text


def test_mini_needs_nothing(capsys):
    assert main(["S01", "S27", "--scale", "mini", "runtime.device=cpu"]) == 0
    assert "2 of 2 setups are ready at scale mini" in capsys.readouterr().out


def test_published_generator_weights_make_public_images_unnecessary(tmp_path):
    data = WRITERS["facescrub"](tmp_path / "facescrub")
    here = [*data, "runtime.device=cpu", "attack.identities=2"]
    (absent,) = diagnose(["S27"], here, "paper")
    assert named(absent.requirements) == ["attack.prior.pretrained file"]
    assert "stylegan2/ffhq.pkl" in text_of(absent.requirements, "attack.prior.pretrained file")
    (without,) = diagnose(["S27"], [*here, "attack.prior.pretrained=null"], "paper")
    assert named(without.requirements) == ["FFHQ data", "StyleGAN2 weights"]
    assert "days of eight GPUs" in text_of(without.requirements, "StyleGAN2 weights")
    path = tmp_path / "ffhq.pkl"
    (absent,) = diagnose(["S27"], [*here, f"attack.prior.pretrained={path}"], "paper")
    assert named(absent.requirements) == ["attack.prior.pretrained file"]
    path.write_bytes(b"weights")
    (there,) = diagnose(["S27"], [*here, f"attack.prior.pretrained={path}"], "paper")
    assert there.ready


def test_mistakes_and_surprises_become_lines(monkeypatch):
    wrong, unknown = diagnose(["S99"], [], "paper") + diagnose(["S01"], ["no.such.key=1"], "paper")
    assert named(wrong.requirements) == named(unknown.requirements) == ["config"]
    assert "setup=S99 does not exist" in wrong.requirements[0].text
    assert "no.such.key" in unknown.requirements[0].text

    def surprise(place):
        raise ValueError("the disk answers nonsense")

    monkeypatch.setattr(checks.shutil, "disk_usage", surprise)
    (one,) = diagnose(["S01"], [], "mini")
    assert named(one.requirements) == ["check failed"]
    assert "the disk answers nonsense" in text_of(one.requirements, "check failed")
    assert "ValueError" in environment(checks.Path())["disk"]


def test_json_holds_everything(capsys):
    code = main(["S01", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == 0 and found["ready"] is False and found["scale"] == "paper"
    (entry,) = found["setups"]
    assert entry["setup"] == "S01" and {"blocks", "name", "text"} == set(entry["requirements"][0])
    assert set(found["machine"]) >= {"versions", "device", "disk", "numerics.compile", "W&B", "SLURM"}


def test_too_little_disk_is_told_with_the_estimate(monkeypatch, celeba):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: SimpleNamespace(free=10**9))
    (one,) = diagnose(["S01"], [*celeba, "runtime.device=cpu"], "paper")
    assert named(one.requirements) == ["disk space"]
    assert "1.0 GB are free" in text_of(one.requirements, "disk space")


def test_more_people_than_there_are_is_told(monkeypatch):
    chosen = settings("setup=demo", "attack.identities=60")
    assert "60 exceeds the 50 private identities" in text_of(Checks().requirements(chosen), "identities")
    chosen["data"]["private"]["identities"] = 0  # what cannot be made is told once, as the data
    assert "identities" not in named(Checks().requirements(chosen))


def test_too_little_main_memory_is_told_with_the_remedy(monkeypatch):
    everything = 530 * 50 * 3 * 299**2
    for kept, copies in (("true", 9), ("false", 1)):
        chosen = settings("setup=S36", "scale=paper", f"attack.keep_stages={kept}")
        wanted = requirements.host_memory(chosen["attack"], 224)
        assert wanted == pytest.approx(1.5e9 + 2 * copies * everything)
        monkeypatch.setattr(checks, "main_memory", lambda wanted=wanted: int(wanted) - 1)
        text = text_of(Checks().requirements(chosen), "memory")
        assert ("attack.keep_stages=false" in text) == (kept == "true") and "restarts" in text
        for enough in (int(wanted) + 1, None):
            monkeypatch.setattr(checks, "main_memory", lambda enough=enough: enough)
            assert "memory" not in named(Checks().requirements(chosen))


def test_images_that_are_decoded_already_need_no_room(monkeypatch, tmp_path):
    chosen = settings("setup=S34", "scale=paper", "attack.prior.pretrained=x.pkl", "paths.store=store")
    chosen["runtime"]["candidates_gb"] = 0
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda place: SimpleNamespace(free=5 * 10**9))
    assert "714.2 GB of decoded images" in text_of(Checks().requirements(chosen), "disk space")
    monkeypatch.setattr(checks, "_size_of", lambda store, files: 10**12 * files.startswith("images"))
    assert "disk space" not in named(Checks().requirements(chosen))
    chosen["runtime"]["candidates_gb"] = 64
    assert "30.7 GB of candidate pictures" in text_of(Checks().requirements(chosen), "disk space")
    monkeypatch.setattr(checks, "_size_of", lambda store, files: 10**12)
    assert "disk space" not in named(Checks().requirements(chosen))


def test_too_small_a_gpu_is_told_with_what_was_counted(monkeypatch):
    chosen = settings("setup=S29", "scale=paper")
    monkeypatch.setattr(doctor, "choose_device", lambda name: SimpleNamespace(type="cuda"))
    memory = [8 * 10**9, 24 * 10**9]
    monkeypatch.setattr(doctor.torch.cuda, "mem_get_info", lambda device: tuple(memory))
    stages = {"target": 23.6e9, "evaluator": 25e9, "attack": 7e9, "prior": None}
    cost = RunCost("A100", {name: Forecast("counted", 1.0, amount) for name, amount in stages.items()})
    found = doctor._gpu_memory(chosen, cost)
    assert [(one.name, one.blocks) for one in found] == [("GPU memory", False), ("GPU memory", True)]
    assert "the target takes about 23.6 GB of GPU memory (counted) and 8.0 GB of 24.0 GB" in found[0].text
    assert "a smaller evaluator.recipe.batch_size" in found[1].text
    memory[:] = [75 * 10**9, 80 * 10**9]
    assert doctor._gpu_memory(chosen, cost) == []


@pytest.mark.parametrize(
    ("words", "setups"),
    [
        (["S02"], ["S02"]),
        (["setup=S02"], ["S02"]),
        (["S02", "setup=S02"], ["S02"]),
        (["setup=S01,S13", "data=folder"], ["S01", "S13a", "S13b"]),
        ([], doctor.SETUPS),
    ],
)
def test_a_setup_is_named_as_a_word_or_as_a_key(words, setups, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(doctor, "diagnose", lambda *given: asked.append(given) or [])
    assert main(words) == 0
    ((named_setups, overrides, scale),) = asked
    assert list(named_setups) == list(setups)
    assert overrides == [word for word in words if word.startswith("data=")] and scale == "paper"


def test_the_list_has_every_setup_of_the_paper_in_every_variant():
    assert list(doctor.SETUPS) == setup_names()


def test_the_exit_code_says_whether_it_could_tell(celeba, capsys):
    assert main(["S01", "--strict"]) == 1
    assert main(["S01", *celeba, "runtime.device=cpu", "--strict"]) == 0
    assert main(["S99"]) == 2
    assert main(["S01", "no.such.key=1"]) == 2
    assert "no.such.key" in capsys.readouterr().out


def test_missing_data_is_told_with_its_card(capsys):
    assert main(["S27", "S33", "S34", "attack.prior.pretrained=null"]) == 0  # which needs the public images
    text = capsys.readouterr().out
    titles = {"facescrub": "FaceScrub", "vggface2": "VGGFace2", "stanford_dogs": "Stanford Dogs"}
    for folder, title in titles.items():
        assert text.count(f"    what    {title} (") == 1
        assert f"data/{folder}; then midre-exp data verify {folder} --root data/{folder}" in text
    assert text.count("    page    ") == text.count("    access  ") == text.count("    layout\n") == 5
    assert "what    FFHQ, 1024 px (89.1 GB" in text and "what    AFHQ, dogs (size unknown" in text


@pytest.mark.parametrize(
    ("overrides", "card"),
    [
        (["setup=S01"], "celeba"),
        (["data=celeba_hd_ffhq"], "celeba_hd"),
        (["data=celeba_facescrub", "data.private.root=/elsewhere"], "celeba"),
        (["setup=S27"], "facescrub"),
        (["setup=demo"], None),
    ],
)
def test_a_data_set_has_the_card_of_its_choice(overrides, card):
    found = card_of(settings("scale=paper", *overrides)["data"]["private"])
    assert (found and found.name) == card


def test_every_choice_of_data_has_one_card():
    cards = [choice for card in dataset_cards().values() for choice in card.used_by]
    assert sorted(cards) == list(config_files("data/dataset"))


def test_a_slurm_launcher_without_slurm_is_told(celeba):
    here = [*celeba, "runtime.device=cpu", "hydra/launcher=submitit_slurm"]
    (one,) = diagnose(["S01"], here, "paper")
    assert "sbatch" in named(one.requirements)


CONFIGS = {
    "celeba": ("S01", "private"),
    "facescrub": ("S27", "private"),
    "vggface2": ("S34", "private"),
    "stanford_dogs": ("S33", "private"),
    "ffhq": ("S04", "public"),
    "afhq": ("S33", "public"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_survey_counts_what_a_listing_counts(name, tmp_path):
    setup, role = CONFIGS[name]
    chosen = settings(f"setup={setup}", "scale=paper", *WRITERS[name](tmp_path / name))
    dataset = build(chosen["data"][role])
    parts = ("train", "test") if role == "private" else ("public",)
    assert dataset.count_images(role) == sum(len(dataset.list_files(part).names) for part in parts)


def test_counting_vggface2_does_not_list_everybody(tmp_path, monkeypatch):
    chosen = settings("setup=S34", "scale=paper", *WRITERS["vggface2"](tmp_path / "v", identities=7))
    monkeypatch.setattr("midre_exp.data.readers.vggface2._COUNTED", 3)
    monkeypatch.setattr(VGGFace2, "_all_images", None)
    assert build(chosen["data"]["private"]).count_images("private") == 35


def test_ranges_of_setups_are_short():
    assert doctor._ranges(["S01", "S02", "S03", "S05", "demo", "S07"]) == "S01-S03, S05, demo, S07"
