"""Public ImageNet weights of an architecture as a file on this machine: torchvision's, or timm's."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from midre_exp.errors import CheckpointError, ConfigError

_TIMM_FILE = "model.safetensors"


@dataclass(frozen=True)
class LibraryFile:
    """Weights of a library, downloaded or not."""

    name: str  #: of the architecture there
    source: str  #: an address, or a repository of the Hugging Face hub
    file: str  #: the file's name
    folder: Path  #: where it is looked for
    path: Path | None  #: where it lies; None until it has been downloaded


def library_source(library: str) -> LibraryFile:
    """The default ImageNet weights of a classifier's ``library``, a torchvision name or ``timm/<name>``;
    nothing is downloaded.

    Torchvision's lie in torch's hub folder (``TORCH_HOME``), timm's in the cache of the Hugging Face hub
    (``HF_HOME``). Raises ConfigError for a name that timm does not know.
    """
    source, _, name = library.rpartition("/")
    return _from_timm(name) if source == "timm" else _from_torchvision(name)


def library_file(library: str) -> Path:
    """The file of the default ImageNet weights of ``library`` (as in ``library_source``), downloaded if
    absent; torchvision's are hash-checked.

    Raises CheckpointError naming file, folder and config key when they cannot be downloaded.
    """
    file = library_source(library)
    if file.path is not None:
        return file.path
    return _get_from_hub(file) if library.startswith("timm/") else _get_from_address(file)


def _from_torchvision(name: str) -> LibraryFile:
    from torchvision.models import get_model_weights  # type: ignore[attr-defined]  # slow; only needed here

    url: str = get_model_weights(name)["DEFAULT"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name
    return LibraryFile(name, url, path.name, path.parent, path if path.exists() else None)


def _from_timm(name: str) -> LibraryFile:
    import huggingface_hub  # both are slow and only needed here; timm brings the first
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    repository = config.hf_hub_id if config else None
    if not repository:
        raise ConfigError(f"timm has no ImageNet weights of {name}; set weights to a file or to null")
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE)
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, _TIMM_FILE, local_files_only=True))
    except FileNotFoundError:  # not in the cache yet
        return LibraryFile(name, repository, _TIMM_FILE, folder, None)
    return LibraryFile(name, repository, _TIMM_FILE, folder, path)


def _get_from_address(wanted: LibraryFile) -> Path:
    path = wanted.folder / wanted.file
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(wanted.source, str(path), digest.group(1) if digest else None)
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
