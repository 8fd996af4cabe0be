"""A hundred command lines that cannot work: each ends in one sentence and exit code 2, and leaves neither
artifact nor record.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra._internal.hydra import Hydra
from hydra.types import RunMode
from PIL import Image

from midre_exp.__main__ import main
from tests.conftest import tiny_overrides
from tests.hostile import makers

#: One command line each, behind those of a tiny run; {at} is a folder with what ``spoilt`` writes.
LINES = """
seed=
seed=one
seed=1.5
seed=null
seed=[0,1]
seed={a:1}
seed=1,2
=3
seed
'seed=[1,2'
'seed={a'
'seed="1'
'seed=$'
'seed=${'
'seed=${nothing}'
'seed=${seed}'
'seed=${oc.env:NO_SUCH_VARIABLE_HERE}'
'seed=${os.system:true}'
~nothing
~data
+seed=1
attack.more=1
attack=gmi,ppa
attack=
attack=null
attack=/etc/passwd
attack@somewhere=gmi
data=nowhere
'data=[synthfaces,folder]'
defense=[nodef,nothing]
defense=[midre,midre
defense=null
scale=huge
setup=../../S01
hydra/launcher=rocket
hydra.run.dir=${nothing}
resolution=0
resolution=-32
resolution=wide
resolution=null
data.identities=0
data.identities=-3
data.identities=many
data.train_per_identity=0
data.test_per_identity=-1
data.public_images=0
data.public_identities=0
data._target_=os.system
'data.private={_target_: builtins.eval}'
'data.private=7'
data.private._target_=midre_exp.data.synthetic.synthfaces.Nobody
data.private._target_=midre_exp.seeding.derive
data.private._target_=midre_exp
data.private._target_=null
public_source=mars
target.model.depth=19
target.model.width=0
target.model.width=-1
target.model.stem=big
target.model._target_=torch.load
target.model._target_=torch.hub.load
target.model._target_=midre_exp.targets.architectures.resnet.resnet
target.recipe.epochs=-1
target.recipe.epochs=0
target.recipe.batch_size=0
target.recipe.optimizer.lr=fast
target.recipe.optimizer._target_=torch.optim.Nothing
numerics.deterministic=perhaps
target.recipe.select=luckiest
target.checkpoint={at}/nowhere.pth
target.checkpoint={at}
target.checkpoint={at}/call.pth
target.checkpoint={at}/bomb.pth
target.checkpoint={at}/deep.pth
target.checkpoint={at}/lying.safetensors
target.weights={at}/call.pth
attack.lr=nan
attack.shard=0/4
attack.shard=5/4
attack.prior._target_=attacks.GMI
attack=ppa attack.prior.pretrained={at}/source.pkl
attack=ppa attack.prior.pretrained={at}/deep.pth
attack=ppa attack.prior.pretrained={at}/call.pth
defense=midre defense.midre.a_l=0.9
defense=midre defense.midre.a_h=nan
defense=midre defense.midre.area=round
defense=midre 'defense.midre.fill=[1,2]'
defense=midre defense.midre._target_=subprocess.Popen
metrics=loud
'metrics.measure={bad: {_target_: os.system}}'
runtime.device=quantum
runtime.device=cuda:99
runtime.threads=0
runtime.chunk=0
runtime.checkpoint_seconds=-1
runtime.progress=perhaps
runtime.image_placement=cloud
runtime.trusted_packages=os
numerics.precision=maybe
tracking.mode=loud
plan.key=0123456789abcdef
plan.key=../../../etc/passwd
plan.commit=nothing
paths=null
paths.store=null
paths.store={at}/call.pth/store
paths.results={at}/call.pth/results
data=folder data.root={at}/nowhere
data=folder data.root={at}/call.pth
data=folder data.root={at}/empty
data=folder data.root={at}/loop
data=folder data.root={at}/one
data=folder data.root={at}/texts
data=folder data.root={at}/people data.private_share=2
data=folder data.root={at}/people data.test_share=0
data=folder data.root={at}/people data.crop=some
data=folder data.root={at}/people data.extensions=jpg
data=folder data.root={at}/people 'data.private_identities=[nobody]'
data=folder data.root={at}/people data.private_identities={at}/call.pth
data=celeba_celeba data.private.root={at}/nowhere
data=celeba_celeba data.private.root={at}/celeba
data=facescrub_ffhq data.private.root={at}/empty
data=vggface2_ffhq data.private.root={at}/people
data=dogs_afhq data.private.root={at}/dogs
"""


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights and data trees that are not what they should be."""
    at = tmp_path_factory.mktemp("spoilt")
    sentinel, crafted = at / "was_run", {made.name: made for made in makers.EVERY}
    weights = {
        "call.pth": "call",
        "bomb.pth": "bomb",
        "deep.pth": "deep key",
        "source.pkl": "source code",
        "lying.safetensors": "overlapping",
    }
    for file, name in weights.items():
        (at / file).write_bytes(crafted[name].make(sentinel))
    torch.save({"model": {"layer": torch.zeros(2)}}, at / "other.pth")
    for folder in (
        "empty",
        "loop",
        "one/alone",
        "texts/a",
        "texts/b",
        "people/a",
        "people/b",
        "people/c",
        "celeba/img_align_celeba",
        "dogs/Images",
    ):
        (at / folder).mkdir(parents=True)
    (at / "loop/a").symlink_to(at / "loop/a")
    for name in ("texts/a/1.png", "texts/b/1.png", "one/alone/1.txt"):
        (at / name).write_text("no picture")
    for person in "abc":
        for number in range(3):
            Image.new("RGB", (40, 40), (number * 80, 90, 10)).save(at / f"people/{person}/{number}.png")
    (at / "celeba/identity_CelebA.txt").write_text("000001.jpg ²\n")
    for name in ("train_list.mat", "test_list.mat"):
        (at / "dogs" / name).write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM" + bytes(64))
    return at


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[str], tuple[int, str]]]:
    """``cli("seed=one")`` runs the command line in this process: exit code and stderr."""
    monkeypatch.chdir(tmp_path)
    # Hydra composes everything once more only to learn whether this is a sweep
    monkeypatch.setattr(Hydra, "get_mode", lambda *_, **__: RunMode.RUN)

    def call(line: str) -> tuple[int, str]:
        monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
        monkeypatch.setattr(sys, "argv", ["midre_exp", *tiny_overrides(tmp_path), *shlex.split(line)])
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        return code, capfd.readouterr().err

    yield call


def lines() -> list[Any]:
    """Every line; two of three only with -m slow, since Hydra takes a third of a second for each."""
    every = LINES.strip().splitlines()
    return [pytest.param(line, marks=[pytest.mark.slow] if at % 3 else []) for at, line in enumerate(every)]


@pytest.mark.parametrize("line", lines())
def test_a_line_that_cannot_work_is_one_sentence_and_leaves_nothing(
    cli: Callable[[str], tuple[int, str]], line: str, spoilt: Path, tmp_path: Path
) -> None:
    before = sorted(spoilt.rglob("*"))
    code, err = cli(line.replace("{at}", str(spoilt)))
    (last,) = [text for text in err.splitlines() if text.startswith("midre_exp: ")]
    assert code == 2, err
    assert err.rstrip("\n").endswith(last) and last.isprintable() and len(last) < 2500
    assert "Traceback" not in err
    assert sorted(spoilt.rglob("*")) == before
    left = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    # a failure report, rendered faces, and the seconds spent on the first stage: what a later attempt needs
    assert [
        path
        for path in left
        if not path.startswith(("runs/failed/", "store/work/target-", "store/.midre-store", "store/images/"))
    ] == []
    rest = [path for path in left if not path.startswith("store/images/")]
    assert all(path.endswith((".json", ".midre-store")) for path in rest)
