"""Tiny files of every format, damaged at random by seed: a reader gives what was written or one sentence,
soon and in little memory.

Where a format has no checksum a flipped bit may be a flipped number, which nobody can tell; there the names
and shapes are compared.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from scipy.io import savemat
from torch import Tensor

from midre_exp.data.picture import UNREADABLE, read_picture
from midre_exp.data.readers.celeba_lists import read_lists
from midre_exp.data.readers.facescrub import _names_in
from midre_exp.data.readers.folder import decode
from midre_exp.data.readers.stanford_dogs import first_box, read_list
from midre_exp.data.readers.vggface2 import read_boxes
from midre_exp.data.transforms import Resize
from midre_exp.errors import UserError
from midre_exp.priors.stylegan.files import load_networks
from midre_exp.priors.stylegan.generator import StyleGAN2Generator
from midre_exp.priors.stylegan.genforce import load_genforce
from midre_exp.priors.stylegan.nvidia import load_pickle
from midre_exp.priors.stylegan.nvidia_fixture import official, pickled
from midre_exp.records import read_record
from midre_exp.report.runs.published import PUBLISHED, read_published
from midre_exp.store import lockfile as lockfiles
from midre_exp.store.files import read_json
from midre_exp.weights import checkpoint
from midre_exp.weights.state_dict import read_state_dict
from tests.priors.stylegan.test_genforce import stylegan_state
from tests.report.paper_records import record

SECONDS = 2.0
MEGABYTES = 500
TURNS, MANY = 200, 10_000

STATE = {"module.conv.weight": torch.arange(24.0).view(2, 3, 2, 2), "module.n": torch.tensor(3)}
GENERATOR: dict[str, Any] = {
    "z_dim": 4,
    "c_dim": 0,
    "w_dim": 4,
    "img_resolution": 8,
    "img_channels": 3,
    "mapping_kwargs": {"num_layers": 2},
    "synthesis_kwargs": {"channel_base": 32, "channel_max": 4},
}


@dataclass(frozen=True)
class Format:
    """``make`` a valid file, ``read`` it; ``sealed``: every change of a value is noticed. ``refusals``
    besides UserError, by contract.
    """

    name: str
    file: str
    make: Callable[[], bytes]
    read: Callable[[Path], Any]
    sealed: bool = False
    refusals: tuple[type[BaseException], ...] = ()
    turns: int = TURNS


def torch_bytes(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def image_bytes(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    pixels = np.arange(16 * 12 * 3, dtype=np.uint8).reshape(12, 16, 3)
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def mat_bytes(compressed: bool) -> bytes:
    file = io.BytesIO()
    names = np.array([f"n{i}-breed/image_{i}.jpg" for i in range(3)], dtype=object)
    content = {"file_list": names.reshape(-1, 1), "labels": np.array([[1], [2], [3]])}
    savemat(file, content, do_compression=compressed)
    return file.getvalue()


def generator() -> StyleGAN2Generator:
    torch.manual_seed(0)
    return StyleGAN2Generator(**GENERATOR).eval()


def checkpoint_bytes() -> bytes:
    place = Path("state")
    kept: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", lambda path, data: kept.append(bytes(data)))
        checkpoint.save(place, {"step": 3, "model": STATE})
    return kept[0]


def shapes(state: Any) -> Any:
    return {key: (tuple(value.shape), value.dtype) for key, value in state.items()}


def networks_of(path: Path) -> Any:
    return {name: shapes(network.state_dict()) for name, network in load_pickle(path).items()}


ANNOTATION = b"<annotation><folder>1</folder><object><name>a</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>"
BOXES = b"NAME_ID,X,Y,W,H\n" + b"".join(b'"n%06d/%04d_01",%d,%d,40,50\n' % (i, i, i, -i) for i in range(8))
LIST = b"".join(b"%06d.jpg %d\n" % (i, i % 3) for i in range(9))
PEOPLE = b"name\timage_id\tface_id\turl\n" + b"".join(
    b"Person %d\t%d\t1\thttp://x\n" % (i, i) for i in range(8)
)


def celeba_lists(path: Path) -> Any:
    other = path.with_name("other.txt")
    other.write_text("999999.jpg 0\n")
    return read_lists({"train": path, "test": other, "public": other})


FORMATS = [
    Format("torch zip", "w.pth", lambda: torch_bytes({"state_dict": STATE}), read_state_dict, sealed=True),
    Format(
        "torch legacy",
        "w.tar",
        lambda: torch_bytes({"state_dict": STATE}, _use_new_zipfile_serialization=False),
        lambda path: shapes(read_state_dict(path)),
    ),
    Format("safetensors", "w.safetensors", lambda: safetensors.torch.save(STATE), lambda path: shapes(read_state_dict(path))),
    Format("NVIDIA pickle", "g.pkl", lambda: pickled({"G_ema": official(generator(), _init_kwargs=GENERATOR)}), networks_of, turns=50),
    Format(
        "converted StyleGAN2",
        "g.pth",
        lambda: torch_bytes({"state_dict": generator().state_dict()}),
        lambda path: load_networks(path, conv_clamp=None)[0].state_dict(),
        sealed=True,
        turns=150,
    ),
    Format("genforce", "g.pth", lambda: torch_bytes({"generator": stylegan_state()}), lambda path: load_genforce(path).state_dict(), sealed=True, turns=100),
    Format("checkpoint", "state", checkpoint_bytes, checkpoint.load, sealed=True, turns=150),
    Format("record", "r.json", lambda: json.dumps(record(90, 50, "midre", by_identity=[1.0, 2.0])).encode(), read_record),
    Format("JSON", "x.json", lambda: b'{"a": [1, 2.5, "text", null, {"b": true}]}', read_json),
    Format("lock", "x.lock", lambda: lockfiles.content("token", "work"), lambda path: lockfiles.parse(path.read_bytes()) and None),
    Format("published", "published.csv", lambda: b"".join(PUBLISHED.read_bytes().splitlines(True)[:12]), lambda path: len(read_published(path)) and None),
    Format("CelebA list", "trainset.txt", lambda: LIST, celeba_lists),
    Format("FaceScrub list", "facescrub_actors.txt", lambda: PEOPLE, _names_in),
    Format("VGGFace2 boxes", "loose_bb_train.csv", lambda: BOXES, lambda path: read_boxes(path, {"n000001/0001_01"}, 0.3)),
    Format("annotation", "n1_1", lambda: ANNOTATION, first_box),
    Format("MATLAB list", "train_list.mat", lambda: mat_bytes(False), read_list),
    Format("MATLAB list, compressed", "train_list.mat", lambda: mat_bytes(True), read_list),
    *(
        Format(
            f"{kind} picture",
            f"a.{kind.lower()}",
            lambda kind=kind, options=options: image_bytes(kind, **options),
            lambda path: (read_picture(path, [Resize(size=8)], (0, 0, 9, 9)).shape, decode(path, 8, "center").shape),
            refusals=UNREADABLE,
        )
        for kind, options in (
            ("PNG", {}), ("JPEG", {"exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"}),
            ("BMP", {}), ("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {}),
        )
    ),
]  # fmt: skip


def mutated(data: bytes, draw: random.Random) -> bytes:
    """One to three changes: a bit or a byte, an insertion, a removal, a copy from elsewhere, an interesting
    number, the end cut off.
    """
    out = bytearray(data)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(out) + 1)
        length = draw.choice((1, 2, 4, 8, 40))
        match draw.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << draw.randrange(8)
            case 1:
                out[at : at + 1] = bytes([draw.randrange(256)])
            case 2:
                out[at:at] = draw.randbytes(length)
            case 3:
                del out[at : at + length]
            case 4:
                start = draw.randrange(len(out) + 1)
                out[at : at + length] = out[start : start + length]
            case 5:
                numbers = (
                    b"\0",
                    b"\xff",
                    b"\x7f",
                    b"\x80",
                    b"9",
                    b"-1",
                    b"1e999",
                    b"NaN",
                    b"\xb2",
                    b"\n",
                    b"[",
                    b'"',
                )
                out[at : at + length] = draw.choice(numbers) * length
            case 6 if draw.random() < 0.3:
                del out[at:]
    return bytes(out)


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, Tensor):
        return torch.equal(found, expected)
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    return bool(found == expected)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def fuzz(made: Format, folder: Path, turns: int, seed: int) -> None:
    """Damage the file ``turns`` times. What a reader may raise besides a UserError is in ``refusals``."""
    data, draw = made.make(), random.Random(f"{seed} {made.name}")
    path = folder / made.file
    path.write_bytes(data)
    expected = made.read(path)
    before, refused = peak(), 0
    for turn in range(turns):
        damaged = mutated(data, draw)
        path.write_bytes(damaged)
        started = time.process_time()
        try:
            found = made.read(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error) and str(error).isprintable(), (turn, str(error))
            assert len(str(error)) < 2000
        except made.refusals:
            refused += 1
        else:
            if found is None and expected is not None:
                refused += 1
            elif made.sealed and damaged != data:
                assert same(found, expected), f"turn {turn} was read as something else"
        assert time.process_time() - started < SECONDS, turn
    assert refused > turns // 20 or expected is None
    assert peak() - before < MEGABYTES


@pytest.mark.parametrize("made", FORMATS, ids=lambda made: made.name)
def test_damage_is_refused_or_changes_nothing(made: Format, tmp_path: Path) -> None:
    fuzz(made, tmp_path, made.turns, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("made", FORMATS, ids=lambda made: made.name)
def test_much_damage_is_refused_or_changes_nothing(made: Format, tmp_path: Path) -> None:
    fuzz(made, tmp_path, MANY, seed=1)
