"""The claims that are registered for a scale, as a record keeps them: what their yamls say, as digests. What
a claim is and how it is answered: midre_exp/report/claims.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError  # type: ignore[import-untyped]

from midre_exp.plan.config import config_files, digest

#: Where the yamls lie that the report reads.
REPORT_CONF = Path(__file__).parents[1] / "report" / "conf"


def registered_claims(scale: str) -> dict[str, str]:
    """Digest of each claim registered for a scale, by name. A file that is no yaml is left to the report."""
    found = {}
    for name, path in config_files("claim", REPORT_CONF).items():
        content = path.read_bytes()
        node = _read(content) if b"scales" in content else None
        if isinstance(node, dict) and scale in (node.get("scales") or ()):
            found[name] = digest(node)
    return found


def meaning_of(content: bytes) -> str | None:
    """Digest of what a yaml says, comments and order left out; None for one that cannot be read."""
    node = _read(content)
    return None if node is None else digest(node)


def _read(content: bytes) -> Any:
    try:
        return OmegaConf.to_container(OmegaConf.create(content.decode()), resolve=True)
    except (UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return None
