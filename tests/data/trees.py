"""What the tests of all dataset readers share: datasets built from their own yaml on fixture trees, and
checks every reader must pass.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor

from midre_exp.data.base import Part, Role
from midre_exp.data.readers.file_list import PARTS, FileListDataset
from midre_exp.errors import DataError
from midre_exp.plan.config import CONF_DIR, build

SIZE = 16
#: Other transforms than those of most yamls.
CENTERED = [
    {"_target_": "midre_exp.data.transforms.ResizeShorterSide", "_partial_": True, "margin": 1.2},
    {"_target_": "midre_exp.data.transforms.CenterCrop", "_partial_": True},
]


def dataset(name: str, root: Path, store: Path | None = None, **changes: Any) -> FileListDataset:
    """The dataset of conf/data/dataset/<name>.yaml on a tree, built as a run builds it."""
    node = OmegaConf.load(CONF_DIR / "data" / "dataset" / f"{name}.yaml")
    paths = {"data": "data", "store": str(store or root.parent / "store")}
    config = OmegaConf.create({"resolution": SIZE, "paths": paths, "data": {"private": node}})
    for key, value in {"root": str(root), **changes}.items():
        assert key in config.data.private, f"conf/data/dataset/{name}.yaml has no key {key}"
        config.data.private[key] = value
    found = build(config.data.private)
    assert isinstance(found, FileListDataset)
    return found


def copied(tree: Path, place: Path) -> Path:
    """A copy of a tree that a test may spoil."""
    return Path(shutil.copytree(tree, place))


def names(data: FileListDataset, part: Part) -> tuple[str, ...]:
    return data.file_list(part).names


def pixels(path: Path, size: int = SIZE) -> Tensor:
    """A file stretched to size x size, read without the code under test."""
    with Image.open(path) as file:
        image = file.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)
    return torch.tensor(list(image.tobytes()), dtype=torch.uint8).view(size, size, 3).permute(2, 0, 1)


def check_fingerprint(
    name: str, tree: Path, place: Path, role: Role, other_transforms: list[dict[str, Any]], **changes: Any
) -> None:
    """Equal for a copied tree with other dates; different after a file grew, for other transforms, for
    another size.
    """
    before = dataset(name, tree, **changes).fingerprint(role)
    copy = copied(tree, place)
    victim = copy / names(dataset(name, copy, **changes), PARTS[role][-1])[-1]
    victim.touch()
    assert dataset(name, copy, **changes).fingerprint(role) == before
    assert dataset(name, copy, **changes, transforms=other_transforms).fingerprint(role) != before
    assert dataset(name, copy, **changes, size=SIZE + 1).fingerprint(role) != before
    victim.write_bytes(victim.read_bytes() + b"\0")
    assert dataset(name, copy, **changes).fingerprint(role) != before


def check_spoilt_images(name: str, tree: Path, place: Path, part: Part, **changes: Any) -> None:
    """A truncated image is named when decoded, an absent one before anything is decoded."""
    copy = copied(tree, place)
    data = dataset(name, copy, **changes)
    victim = names(data, part)[1]
    content = (copy / victim).read_bytes()
    (copy / victim).write_bytes(content[: len(content) // 2])
    role: Role = "public" if part == "public" else "private"
    both = sum(len(names(data, each)) for each in PARTS[role])
    with pytest.raises(DataError, match=f"1 of {both} images cannot be read") as error:
        dataset(name, copy, **changes).load(part)
    assert victim in str(error.value)
    data = dataset(name, copy, **changes)
    names(data, part)
    (copy / victim).unlink()
    with pytest.raises(DataError, match=r"1 of .* listed images are not in .*complete the download") as error:
        data.load(part)
    assert victim in str(error.value)
