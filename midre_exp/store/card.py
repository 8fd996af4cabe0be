"""The page that goes with exported artifacts: what each is, what it was trained on and under which defense,
how good it is, which code made it, how to load it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from midre_exp.store.artifact import Artifact, readable

_LONGEST = 300  # characters of a value in the table; the manifest has it whole
#: Facts of a manifest that its schema may or may not have, with the words for them.
_FACTS = {
    "commit": "commit of the code",
    "code": "digest of the code",
    "device": "device",
    "numerics": "numerics",
}


def card(artifacts: Sequence[Artifact]) -> str:
    """The text in Markdown; it says nothing that the manifests do not say."""
    lines = [
        "# Artifacts of midre-exp",
        "",
        "Networks and results of model inversion experiments, as the stages of a run left them. Each",
        "folder `<stage>/<key>/` holds safetensors and JSON files, and `manifest.json` with their SHA-256",
        "checksums. A target was trained on images of the people whom an attack tries to reconstruct, and",
        "reconstructions may resemble them: share both only where the licence of the data allows it.",
        "",
        "    midre-exp store import THIS                       # into ./artifacts, checksums verified",
        "    midre-exp run 'paths.store=[artifacts,THIS]' ...  # or read it where it lies (a folder, no tar)",
        "",
        "A run of the same settings then takes these stages instead of computing them. In Python:",
        "",
        "    from midre_exp.store.store import Store",
        *(
            f'    Store("THIS").find("{a.stage}", "{a.key}").{_reading(a)}'
            for a in artifacts
            if _reading(a) is not None
        ),
    ]
    for artifact in artifacts:
        lines += ["", f"## {artifact.stage} {artifact.key}", "", *_facts(artifact)]
    return "\n".join(lines) + "\n"


def _reading(artifact: Artifact) -> str | None:
    """The call that reads its first file."""
    for name in sorted(artifact.manifest["files"], reverse=True):
        stem, _, kind = name.rpartition(".")
        if kind == "safetensors":
            return f'tensors("{stem}")'
        if kind == "json":
            return f'json("{stem}")'
    return None


def _facts(artifact: Artifact) -> Iterator[str]:
    manifest = artifact.manifest
    yield "| | |"
    yield "|---|---|"
    for name, value in manifest.get("config", {}).items():
        yield _row(_WORDS.get(name, name), value)
    for name, key in manifest.get("upstream", {}).items():
        yield _row(f"made from {name}", key)
    for name, value in artifact.metrics.items():
        if isinstance(value, (int, float, str)) and not isinstance(value, bool):
            yield _row(_WORDS.get(name, name), _number(value))
        elif name in ("counts", "alarms"):
            yield _row(name, value)
    for name, words in _FACTS.items():
        if manifest.get(name) is not None:
            yield _row(words, manifest[name])
    yield _row("versions", manifest.get("versions", {}))
    yield _row("seconds to build", f"{artifact.seconds:.0f}")
    files = manifest["files"]
    yield _row("files", ", ".join(f"{name} ({readable(files[name]['bytes'])})" for name in sorted(files)))


_WORDS = {
    "data": "trained on",
    "acc": "accuracy on the test images (%)",
    "train_acc": "accuracy on the training images (%)",
}


def _row(name: str, value: object) -> str:
    text = value if isinstance(value, str) else _plain(value)
    if len(text) > _LONGEST:
        text = f"{text[:_LONGEST]} ... (whole in the manifest)"
    return f"| {_cell(name)} | {_cell(text)} |"


def _plain(value: object) -> str:
    """A value in one line, mappings as ``name: value``."""
    if isinstance(value, Mapping):
        parts: dict[str, Any] = {str(name): inner for name, inner in value.items()}
        return ", ".join(
            f"{name}: {json.dumps(inner, sort_keys=True) if isinstance(inner, (dict, list)) else inner}"
            for name, inner in parts.items()
        )
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _cell(text: str) -> str:
    """Text that neither ends a cell of Markdown nor starts markup in it."""
    flat = " ".join(text.split())
    for mark in "\\|`*_[]<":
        flat = flat.replace(mark, "&lt;" if mark == "<" else f"\\{mark}")
    return flat


def _number(value: float | str) -> str:
    """A number as people write it: whole ones without decimals."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
    return f"{value:.0f}" if isinstance(value, float) else str(value)
