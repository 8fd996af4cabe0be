"""What one artifact is on disk: files and a manifest with their checksums; filled, verified and read here.

Which artifacts exist, who builds them and when they appear is the store's business.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from midre_exp.errors import StoreError
from midre_exp.store.files import (
    Stamp,
    dump_json,
    explain,
    known_sha256,
    sha256,
    stamp,
    write_atomic,
)

if TYPE_CHECKING:  # planning a sweep asks the store about thousands of keys and must not wait for torch
    from torch import Tensor

MANIFEST = "manifest.json"
CHECKSUM = "manifest.sha256"  # in the format of sha256sum
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

_BAD_NAME = (
    "artifact file name {name!r} cannot be used; give letters, digits, '_', '-' and '.', "
    f"but not {MANIFEST} or {CHECKSUM}"
)
_ABSENT = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class DamagedError(Exception):
    """An artifact is not what was published; the text says which file and why."""


@dataclass(frozen=True)
class Artifact:
    """A published result; ``path`` is its folder.

    ``manifest`` holds stage, key, config, upstream {stage: key}, seconds, device, versions, metrics and files
    {name: {sha256, bytes}}; that of a stage of a run also code (digest), commit, packages (the user's own),
    numerics, rests_on {stage: identity}, weights (of libraries) and rebuild.
    """

    stage: str
    key: str
    path: Path
    manifest: dict[str, Any]

    @property
    def metrics(self) -> dict[str, Any]:
        """What the builder measured."""
        metrics: dict[str, Any] = self.manifest["metrics"]
        return metrics

    @property
    def store(self) -> Path:
        """The root of the store it lies in."""
        return self.path.parents[1]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of the build and of interrupted attempts, except those killed outright."""
        return float(self.manifest["seconds"])

    def tensors(self, name: str = "weights") -> dict[str, Tensor]:
        """The verified tensors of ``<name>.safetensors``, on the CPU. StoreError when damaged or absent."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        data = self._read(f"{name}.safetensors")
        try:
            return load(data)
        except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
            raise self._strange(f"{name}.safetensors", "safetensors") from error

    def json(self, name: str) -> Any:
        """The verified value of ``<name>.json``. StoreError when damaged or absent."""
        data = self._read(f"{name}.json")
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise self._strange(f"{name}.json", "JSON") from error

    def _strange(self, name: str, kind: str) -> StoreError:
        """For a file with the right checksum and the wrong content: somebody made it by hand."""
        return StoreError(
            f"{self.path / name} is no {kind} file, though its checksum is right; delete {self.path}"
        )

    def _read(self, name: str) -> bytes:
        files = self.manifest["files"]
        if name not in files:
            have = ", ".join(sorted(files)) or "none"
            raise StoreError(f"artifact {self.path} has no file {name}, only {have}; delete it to rebuild it")
        path = self.path / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise explain(error, path, "read") from error
        if hashlib.sha256(data).hexdigest() != files[name]["sha256"]:
            raise StoreError(f"{path} is damaged (its checksum differs); run again to rebuild it")
        return data


class Workspace:
    """Where a builder works.

    ``path`` is a folder that survives kills until the artifact is published: checkpoints go there. What
    ``save_*`` writes becomes the artifact, with ``metrics`` (plain JSON values, filled by the builder) in its
    manifest, and beside them ``weights``: which of a library's were loaded.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self.path = path
        self.metrics: dict[str, Any] = {}
        self.weights: dict[str, dict[str, str]] = {}
        self._output = output
        self._files: dict[str, dict[str, Any]] = {}

    def save_tensors(
        self, name: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
    ) -> None:
        """Keep tensors, on any device, as ``<name>.safetensors``, read back by ``Artifact.tensors``, with
        ``metadata`` that says what a lone copy of the file is.
        """
        from safetensors.torch import save

        plain: dict[str, Tensor] = {}
        taken: set[int] = set()
        for key, tensor in tensors.items():
            whole = tensor.detach().cpu().contiguous()
            place = whole.untyped_storage().data_ptr()
            # the format knows no shared memory; anything else is not copied, because the pictures of an
            # attack take gigabytes
            plain[key] = whole.clone() if place in taken else whole
            taken.add(place)
        self.save_file(f"{name}.safetensors", save(plain, dict(metadata) if metadata else None))

    def save_json(self, name: str, value: Any) -> None:
        """Keep a JSON value as ``<name>.json``, read back by ``Artifact.json``."""
        self.save_file(f"{name}.json", dump_json(value).encode())

    def save_file(self, name: str, data: bytes) -> None:
        """Keep bytes under a simple file name. StoreError for other names and when the disk refuses."""
        if not NAME.fullmatch(name) or name in (MANIFEST, CHECKSUM):
            raise StoreError(_BAD_NAME.format(name=name))
        write_atomic(self._output / name, data)
        self._files[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

    def adopt_file(self, name: str, path: Path) -> None:
        """Keep a finished file of ``path``'s folder under ``name`` by moving it: for files too big to hold in
        memory.
        """
        if not NAME.fullmatch(name) or name in (MANIFEST, CHECKSUM):
            raise StoreError(_BAD_NAME.format(name=name))
        checksum = sha256(path)
        try:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            path.replace(self._output / name)
        except OSError as error:
            raise explain(error, path, "move") from error
        self._files[name] = {"sha256": checksum, "bytes": (self._output / name).stat().st_size}

    def seal(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write the manifest (``record``, metrics, checksums) beside the files; returned as readers see it.

        StoreError when a saved file has vanished, as after somebody cleaned the work folder.
        """
        for name, entry in self._files.items():
            path = self._output / name
            if not path.is_file() or path.stat().st_size != entry["bytes"]:
                raise StoreError(f"{path} vanished or changed while its artifact was being built; run again")
        told = {**record, **({"weights": self.weights} if self.weights else {})}
        text = dump_json({**told, "metrics": self.metrics, "files": self._files})
        write_atomic(self._output / MANIFEST, text)
        write_atomic(self._output / CHECKSUM, _checksum_line(text.encode()))
        manifest: dict[str, Any] = json.loads(text)
        return manifest


def _checksum_line(raw: bytes) -> str:
    return f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n"


def read_manifest(folder: Path, stage: str, key: str) -> dict[str, Any]:
    """The manifest of a published folder.

    DamagedError unless it is byte for byte what was published for this stage and key; other OSErrors
    propagate.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
        checksum = (folder / CHECKSUM).read_bytes()
    except _ABSENT as error:
        raise DamagedError(f"{Path(error.filename).name} is missing") from error
    if checksum != _checksum_line(raw).encode():
        raise DamagedError(f"{MANIFEST} does not match {CHECKSUM}")
    try:
        manifest = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{MANIFEST} is not JSON") from error
    if not _is_manifest(manifest):
        raise DamagedError(f"{MANIFEST} is no manifest of an artifact")
    if (manifest["stage"], manifest["key"]) != (stage, key):
        raise DamagedError(f"{MANIFEST} belongs to {manifest['stage']} {manifest['key']}")
    found: dict[str, Any] = manifest
    return found


def _is_manifest(value: Any) -> bool:
    """Whether a JSON value has what readers of a manifest rely on; its checksum proves nothing about who
    wrote it.
    """
    if not isinstance(value, dict) or not isinstance(value.get("metrics"), dict):
        return False
    files, seconds = value.get("files"), value.get("seconds")
    return (
        all(isinstance(value.get(name), str) and NAME.fullmatch(value[name]) for name in ("stage", "key"))
        and isinstance(seconds, (int, float))
        and 0 <= seconds < float("inf")
        and isinstance(files, dict)
        and all(
            NAME.fullmatch(name)  # a file of this folder
            and isinstance(entry, dict)
            and type(entry.get("bytes")) is int
            and isinstance(entry.get("sha256"), str)
            for name, entry in files.items()
        )
    )


def verify(folder: Path, stage: str, key: str) -> dict[str, Any]:
    """The manifest, after every file has been compared with it.

    DamagedError names the first file that is missing or differs; other OSErrors propagate. A file that this
    process has hashed before is read again only when its stamp has changed.
    """
    manifest = read_manifest(folder, stage, key)
    for name, entry in manifest["files"].items():
        try:
            size = (folder / name).stat().st_size
            if size != entry["bytes"]:
                raise DamagedError(f"{name} has {size} bytes instead of {entry['bytes']}")
            if known_sha256(folder / name) != entry["sha256"]:
                raise DamagedError(f"{name} does not match its checksum")
        except _ABSENT as error:
            raise DamagedError(f"{name} is missing") from error
    return manifest


def stamps(folder: Path, names: Iterable[str]) -> dict[str, Stamp]:
    """The stamp of each named file of an artifact and of its manifest; OSErrors propagate."""
    return {name: stamp(folder / name) for name in sorted({*names, MANIFEST, CHECKSUM})}


def readable(count: int) -> str:
    """Bytes for people."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
