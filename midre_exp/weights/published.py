"""Public ImageNet weights of an architecture as a file on this machine: torchvision's, or timm's.

Which of a library's weights are meant is fixed here, whatever its later versions take for the default; what
was loaded goes with its checksum into the manifest of the stage (``weights_used``).
"""

from __future__ import annotations

import http.client
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.store.files import known_sha256

_LOG = logging.getLogger(__name__)
_TIMM_FILE = "model.safetensors"
#: Weights of torchvision that are not the first of their network, and timm's by their tag.
_WEIGHTS = {
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), "IMAGENET1K_V2"),
    "resnest101e": "in1k",
}
_FIRST = "IMAGENET1K_V1"
_used: ContextVar[dict[str, dict[str, str]] | None] = ContextVar("weights", default=None)


@dataclass(frozen=True)
class LibraryFile:
    """Weights of a library, downloaded or not."""

    name: str  #: of the architecture there
    weights: str  #: which of its weights: never "DEFAULT"
    source: str  #: an address, or a repository of the Hugging Face hub
    file: str  #: the file's name
    folder: Path  #: where it is looked for
    path: Path | None  #: where it lies; None until it has been downloaded


def library_source(library: str) -> LibraryFile:
    """The ImageNet weights of a classifier's ``library``, a torchvision name or ``timm/<name>``; nothing is
    downloaded.

    Torchvision's lie in torch's hub folder (``TORCH_HOME``), timm's in the cache of the Hugging Face hub
    (``HF_HOME``). Raises ConfigError for a name that timm does not know.
    """
    source, _, name = library.rpartition("/")
    return _from_timm(name) if source == "timm" else _from_torchvision(name)


def library_file(library: str) -> Path:
    """The file of the ImageNet weights of ``library`` (as in ``library_source``), downloaded if absent; noted
    for ``weights_used``. One whose checksum is not that in its name is told by a warning.

    Raises CheckpointError naming file, folder and config key when they cannot be downloaded.
    """
    file = library_source(library)
    path = file.path
    if path is None:
        path = _get_from_hub(file) if library.startswith("timm/") else _get_from_address(file)
    checksum = known_sha256(path)
    expected = _digest_in(path.name)
    if expected and not checksum.startswith(expected):
        _LOG.warning(
            "%s is not the published file (SHA-256 %s...); delete it to fetch that", path, checksum[:8]
        )
    note_weights(library, weights=file.weights, source=file.source, path=path)
    return path


@contextmanager
def weights_used() -> Iterator[dict[str, dict[str, str]]]:
    """Within, the dictionary fills with the library weights that are loaded: name of the weights, source,
    file and SHA-256, by library.
    """
    found: dict[str, dict[str, str]] = {}
    token = _used.set(found)
    try:
        yield found
    finally:
        _used.reset(token)


def note_weights(library: str, *, weights: str, source: str, path: Path) -> None:
    """Tell ``weights_used`` of a file that a mere name led to."""
    used = _used.get()
    if used is not None:
        used[library] = {
            "weights": weights,
            "source": source,
            "file": path.name,
            "sha256": known_sha256(path),
        }


def _digest_in(name: str) -> str | None:
    """The first digits of the SHA-256 that torchvision writes into a file's name."""
    match = re.search(r"-([0-9a-f]{8,})\.", name)
    return match[1] if match else None


def _from_torchvision(name: str) -> LibraryFile:
    from torchvision.models import get_model_weights  # type: ignore[attr-defined]  # slow; only needed here

    every = get_model_weights(name)
    wanted = _WEIGHTS.get(name, _FIRST)
    chosen = every[wanted if wanted in every.__members__ else "DEFAULT"]
    url: str = chosen.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name
    return LibraryFile(name, chosen.name, url, path.name, path.parent, path if path.exists() else None)


def _from_timm(name: str) -> LibraryFile:
    import huggingface_hub  # both are slow and only needed here; timm brings the first
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(f"{name}.{_WEIGHTS[name]}" if name in _WEIGHTS else name)
    repository = config.hf_hub_id if config else None
    weights = str((config.tag if config else None) or repository)
    if not repository:
        raise ConfigError(f"timm has no ImageNet weights of {name}; set weights to a file or to null")
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, _TIMM_FILE, local_files_only=True))
    except FileNotFoundError:  # not in the cache yet
        return LibraryFile(name, weights, repository, _TIMM_FILE, folder, None)
    return LibraryFile(name, weights, repository, _TIMM_FILE, folder, path)


def _get_from_address(wanted: LibraryFile) -> Path:
    path = wanted.folder / wanted.file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(wanted.source, str(path), _digest_in(path.name))
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash is wrong
        raise CheckpointError(
            f"ImageNet weights of {wanted.name} cannot be downloaded ({error}); put {path.name} into "
            f"{path.parent}, or set the weights key (target.weights) to a copy's path, or to null for none"
        ) from error
    return path


def _get_from_hub(wanted: LibraryFile) -> Path:
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(wanted.source, wanted.file))
    except (OSError, ValueError, RuntimeError) as error:  # which one varies with the client's version
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(
            f"ImageNet weights of {wanted.name} cannot be downloaded ({reason}); get {wanted.file} of "
            f"{wanted.source} from the Hugging Face hub and set the weights key (target.weights) to its "
            "path, or to null for none"
        ) from error
