"""Public ImageNet weights of an architecture as a file on this machine: torchvision's, or timm's."""

from __future__ import annotations

import http.client
import re
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch

from midre_exp.errors import CheckpointError, ConfigError
from midre_exp.targets.base import Classifier


def library_file(model: Classifier) -> Path:
    """The file of the default ImageNet weights of ``model.library``, downloaded if absent.

    Torchvision's lie in torch's hub folder (``TORCH_HOME``) and are hash-checked; ``timm/<name>`` stands for timm's,
    in the cache of the Hugging Face hub (``HF_HOME``). Raises ConfigError for a model that has none, and
    CheckpointError naming file, place and config key when they cannot be downloaded.
    """
    if not model.library:
        raise ConfigError(f"{type(model).__name__} has no ImageNet weights; set weights to a file or to null")
    source, _, name = model.library.rpartition("/")
    return _timm_file(name) if source == "timm" else _torchvision_file(name)


def _torchvision_file(name: str) -> Path:
    from torchvision.models import get_model_weights  # type: ignore[attr-defined]  # slow; only needed here

    url: str = get_model_weights(name)["DEFAULT"].url
    path = Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(url).path).name
    if path.exists():
        return path
    digest = re.search(r"-([0-9a-f]{8,})\.", path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), digest.group(1) if digest else None)
    except (OSError, http.client.HTTPException, RuntimeError) as error:  # RuntimeError: the hash is wrong
        raise CheckpointError(
            f"ImageNet weights of {name} cannot be downloaded ({error}); put {path.name} into "
            f"{path.parent}, or set the weights key (target.weights) to a copy's path, or to null for none"
        ) from error
    return path


def _timm_file(name: str) -> Path:
    import huggingface_hub  # both are slow and only needed here; timm brings the first
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    repository, file = config.hf_hub_id if config else None, "model.safetensors"
    if not repository:
        raise ConfigError(f"timm has no ImageNet weights of {name}; set weights to a file or to null")
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, local_files_only=True))
    except FileNotFoundError:
        pass  # not in the cache yet
    try:
        return Path(huggingface_hub.hf_hub_download(repository, file))
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # what the hub's client raises varies with its version
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(
            f"ImageNet weights of {name} cannot be downloaded ({reason}); get {file} of {repository} from the Hugging Face "
            "hub and set the weights key (target.weights) to its path, or to null for none"
        ) from error
