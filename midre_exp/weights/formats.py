"""What a file is that was given for weights, by its first bytes, and what to do with it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from midre_exp.errors import CheckpointError
from midre_exp.store.files import is_special

_WEB_PAGE = re.compile(rb"\s*<(!doctype|!--|html|head|body|script|title|meta|\?xml)", re.IGNORECASE)
_HEADER = 8  # bytes of the length at the start of a safetensors file
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_UNPACK = "unpack it and give the weight file inside"
_CONVERT = "load it where it comes from and save a state_dict() with torch.save or as .safetensors"
#: First bytes -> (what it is, what to do).
_STARTS = {
    b"\x1f\x8b": ("a gzip archive", _UNPACK),
    b"BZh": ("a bzip2 archive", _UNPACK),
    b"\xfd7zXZ\x00": ("an xz archive", _UNPACK),
    b"\x28\xb5\x2f\xfd": ("a zstandard archive", _UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("a 7-Zip archive", _UNPACK),
    b"Rar!": ("a RAR archive", _UNPACK),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file (Keras)", _CONVERT),
    b"\x93NUMPY": ("a NumPy array", _CONVERT),
    b"GGUF": ("a GGUF file", _CONVERT),
    b"\x7fELF": ("a program", "give the weight file"),
    b"%PDF": ("a PDF document", "give the weight file"),
    b"\x89PNG": ("a picture", "give the weight file"),
    b"\xff\xd8\xff": ("a picture", "give the weight file"),
}


def first_bytes(path: Path) -> bytes:
    """The start of a file. Raises CheckpointError for what holds no weights whatever its name says, and for a
    file that cannot be read.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the weight file inside it")
    if is_special(path):
        raise CheckpointError(f"{path} is a pipe or device, not a file; give the weight file itself")
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; check the path of the weight file") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); check its permissions") from error
    if not start:
        raise CheckpointError(f"{path} is empty; download it again")
    if _WEB_PAGE.match(start.removeprefix(b"\xef\xbb\xbf")):
        raise CheckpointError(f"{path} is a web page, not weights; download the file itself with a browser")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, not weights; fetch the file with git lfs pull")
    return start


def is_safetensors(start: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes that begins so is a safetensors file."""
    length = int.from_bytes(start[:_HEADER], "little")
    return len(start) > _HEADER and start[_HEADER : _HEADER + 1] == b"{" and 2 <= length <= size - _HEADER


def metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself beside its tensors; nothing of any other file."""
    try:
        with path.open("rb") as file:
            start = file.read(_HEADER + 1)
            length = int.from_bytes(start[:_HEADER], "little")
            if not is_safetensors(start, path.stat().st_size) or length > _LONGEST_HEADER:
                return {}
            said = json.loads(start[_HEADER:] + file.read(length - 1)).get("__metadata__", {})
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}


def kind_of(path: Path, start: bytes, names: list[str]) -> str | None:
    """What a file is that is no weight file of PyTorch, with the remedy; None where nobody can tell.

    ``names``: the entries of a zip archive.
    """
    for magic, (what, remedy) in _STARTS.items():
        if start.startswith(magic):
            return f"is {what}, not weights; {remedy}"
    if start[257:262] == b"ustar":  # not tarfile.is_tarfile, which unpacks gigabytes to find out
        return f"is a tar archive; {_UNPACK}"
    if names:
        if all(name.endswith(".npy") for name in names):
            return f"is an archive of NumPy arrays (.npz), not weights; {_CONVERT}"
        if not any(name.endswith("data.pkl") for name in names):
            return f"is a zip archive; {_UNPACK}"
    if path.suffix.lower() == ".onnx" or (start[:1] == b"\x08" and b"pytorch" in start[:64]):
        return f"is an ONNX program, not weights; {_CONVERT}"
    if start.lstrip()[:1] in (b"{", b"["):
        return f"is a JSON text, not weights; {_CONVERT}"
    return None
