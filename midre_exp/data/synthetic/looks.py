"""Which synthetic faces: the version of their art, what changes from photograph to photograph, and how often
something lies before a face.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from midre_exp.data.synthetic import renderer, renderer_v2, traits, traits_v2
from midre_exp.data.synthetic.canvas import Faces
from midre_exp.errors import ConfigError

Version = Literal[1, 2]

#: Part of every artifact key: raise a version's number whenever an image of it changes.
ART_VERSIONS: dict[Version, int] = {1: renderer.RENDERER_VERSION, 2: renderer_v2.RENDERER_VERSION}

#: In version 1 a person always has the same hair and glasses, and clothes change.
_PER_PHOTO_V1 = ("clothes",)


@dataclass(frozen=True)
class Look:
    """How synthetic faces look; the options are those of ``SynthFaces``."""

    version: Version = 1
    per_photo: tuple[str, ...] = _PER_PHOTO_V1
    occluders: float = 0.0

    def __post_init__(self) -> None:
        if self.version not in ART_VERSIONS:
            raise ConfigError(f"data.version={self.version} is no version of synthetic faces; use 1 or 2")
        if self.version == 1:
            if tuple(self.per_photo) != _PER_PHOTO_V1 or self.occluders != 0:
                raise ConfigError(
                    "synthetic faces of data.version=1 have data.per_photo=[clothes] and data.occluders=0; "
                    "use data=synthfaces_v2 for others"
                )
            return
        groups = ", ".join(traits_v2.PERSON)
        for group in self.per_photo:
            if group not in traits_v2.PERSON:
                raise ConfigError(f"data.per_photo names {group}, which is no group of traits; use {groups}")
        if {*self.per_photo} == {*traits_v2.PERSON}:
            raise ConfigError(f"data.per_photo leaves nothing of a person; leave out one of {groups}")
        if not 0 <= self.occluders <= 1:
            raise ConfigError(f"data.occluders={self.occluders} is no share; give a number from 0 to 1")

    def fingerprint(self) -> dict[str, object]:
        """Plain values that change whenever the images do; those of version 1 say no more than they did
        when it was the only one.
        """
        art: dict[str, object] = {"renderer": ART_VERSIONS[self.version]}
        if self.version == 1:
            return art
        return art | {
            "version": self.version,
            "per_photo": sorted({*self.per_photo}),
            "occluders": float(self.occluders),
        }

    def groups(self) -> dict[str, tuple[str, ...]]:
        """The drawn traits by group: those of people first, then those of photographs."""
        every = traits_v2.PERSON | traits_v2.PHOTOGRAPH
        known = {*traits.IDENTITY, *traits.NUISANCE}
        named = {
            group: tuple(name for name in ranges if self.version == 2 or name in known)
            for group, ranges in every.items()
        }
        return {group: names for group, names in named.items() if names}

    def personal(self) -> tuple[str, ...]:
        """The drawn traits that a person has in every photograph."""
        if self.version == 1:
            return tuple(traits.IDENTITY)
        kept = (ranges for group, ranges in traits_v2.PERSON.items() if group not in self.per_photo)
        return tuple(name for ranges in kept for name in ranges)

    def faces(
        self,
        identity: Tensor,
        index: Tensor,
        *,
        seed: int,
        source: str,
        borrowed: Mapping[str, Tensor] | None = None,
    ) -> Faces:
        """What photograph ``index`` [n] of ``identity`` [n] shows. In version 2 a group of traits may be
        ``borrowed`` from another identity [n], to see what it alone does.
        """
        if self.version == 1:
            if borrowed:
                raise ValueError("traits of version 1 are drawn together and cannot be borrowed")
            return traits.faces(identity, index, seed=seed, source=source)
        return traits_v2.faces(
            identity,
            index,
            seed=seed,
            source=source,
            per_photo=self.per_photo,
            occluders=self.occluders,
            borrowed=borrowed,
        )

    def paint(self, faces: Faces, size: int) -> Tensor:
        """uint8 [n, 3, size, size] of the photographs ``faces``."""
        paint = renderer.paint if self.version == 1 else renderer_v2.paint
        return paint(faces, size)


#: The faces of scale mini.
V1 = Look()
#: Of ``data=synthfaces_v2``.
V2 = Look(version=2, per_photo=("hair", "glasses", "clothes"), occluders=0.15)
