"""Synthetic faces: any number of identities, any number of photographs of each; private identities, public
ones and those to pre-train on are disjoint by construction.

They stand in for licensed face data at the scales ``mini`` and ``synth``; ``midre-exp data sheet FILE.png``
draws a sheet of them. There are two versions (``looks``): what a face looks like is in ``traits`` and
``traits_v2``, how it is painted in ``renderer`` and ``renderer_v2``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

import torch
from torch import Tensor

from midre_exp.data.base import Dataset, ImageSet, KnownTraits, Part, Role
from midre_exp.data.block import threads
from midre_exp.data.cache import rendered_images
from midre_exp.data.synthetic.known import known_traits
from midre_exp.data.synthetic.looks import V1, Look, Version
from midre_exp.data.synthetic.traits import SOURCES
from midre_exp.errors import ConfigError
from midre_exp.plan.code import sources
from midre_exp.plan.config import digest
from midre_exp.plan.ranges import Count, Probability, Seed
from midre_exp.runtime import one_thread
from midre_exp.store.progress import Progress
from midre_exp.store.store import Places

#: Private identities are 0, 1, ..; public ones start here, as do test photographs of a private one.
OFFSET = 1_000_000
#: The first identity of each pool.
_FIRST = {"private": 0, "public": OFFSET, "pretraining": 2 * OFFSET, "verification": 3 * OFFSET}
_POOLS = ("private", "pretraining", "verification")

#: What paints them, by version: with its code, stored images are of this art and no other.
_ART: dict[int, tuple[str, ...]] = {
    1: ("midre_exp.data.synthetic.renderer", "midre_exp.data.synthetic.traits"),
    2: ("midre_exp.data.synthetic.renderer_v2", "midre_exp.data.synthetic.traits_v2"),
}
_PAGE = 4096  # photographs whose traits are drawn together
_CHUNK = (
    96 * 32 * 32
)  # pixels painted together: enough to hide the cost of a call, few enough for a core's cache
_LONG = 20_000 * 32 * 32  # pixels from which on a progress bar is shown


def render(
    identity: Tensor,
    index: Tensor,
    size: int,
    seed: int = 0,
    source: str = "same",
    look: Look = V1,
    borrowed: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """Photograph ``index`` [n] of ``identity`` [n] (int64, not negative) as uint8 [n, 3, size, size]
    RGB.

    An image depends on its own identity and index, and on size, seed, source and look: not on the batch or
    its order. What is a person's depends on (seed, identity) alone; ``source="other"`` photographs it
    elsewhere: wider poses, outdoor grounds, warmer light. ``borrowed``: see ``Look.faces``.
    """
    images = torch.empty(len(identity), 3, size, size, dtype=torch.uint8)
    short = images.numel() < 3 * _LONG
    with Progress("synthetic faces", len(identity), bar=not short) as bar:
        render_into(images, identity, index, seed, source, bar.update, look=look, borrowed=borrowed)
    return images


def render_into(
    images: Tensor,
    identity: Tensor,
    index: Tensor,
    seed: int,
    source: str,
    done: Callable[[int], object] = lambda count: None,
    *,
    look: Look = V1,
    borrowed: Mapping[str, Tensor] | None = None,
) -> None:
    """The same into ``images``, by a thread for each core; ``done`` is told how many more there are."""
    size = images.shape[-1]
    step = max(1, _CHUNK // size**2)
    # torch computes outside the interpreter lock; each thread's own operations are too small to be split
    with one_thread(), ThreadPoolExecutor(threads()) as pool:
        try:
            for page in torch.arange(len(identity)).split(_PAGE) if len(identity) else ():
                lent = {group: whose[page] for group, whose in (borrowed or {}).items()}
                traits = look.faces(identity[page], index[page], seed=seed, source=source, borrowed=lent)
                # like poses together: what is painted in a chunk is a box around all its faces
                pose = (traits["yaw"] * 12).round() * 4 + traits["scale"]
                chunks = pose.squeeze(1).argsort().split(step)
                painted = pool.map(lambda some, traits=traits: look.paint(traits.of_rows(some), size), chunks)
                for some, faces_of_chunk in zip(chunks, painted, strict=True):
                    images[page[some]] = faces_of_chunk
                    done(len(some))
        finally:
            pool.shutdown(cancel_futures=True)  # after Ctrl-C, do not render the rest


@dataclass(kw_only=True, eq=False)
class SynthFaces(Dataset):
    """Private identities and, disjoint from them, public ones, who share the public images evenly. With
    ``pool: pretraining`` or ``verification`` others, who are none of these, stand in place of the private
    ones.
    """

    size: Count  # px of a side, 16 to 1024
    identities: Count  # private ones
    train_per_identity: Count  # photographs of each private identity to train on
    test_per_identity: Count  # and to test on
    public_identities: Count
    public_images: Count  # in all, at least one of each public identity
    # how public photographs are taken: "same" as private ones, or "other", as public FFHQ faces private
    # CelebA
    source: Literal["same", "other"] = "same"
    seed: Seed = 0  # of all identities and photographs
    pool: Literal["private", "pretraining", "verification"] = (
        "private"  # whose photographs are train and test
    )
    # 1: hair, glasses and all of the face are the person's; 2: ``per_photo`` decides, and there are occluders
    version: Version = 1
    # the groups of traits that are drawn anew for every photograph (see ``trait_groups``)
    per_photo: Sequence[str] = ("clothes",)
    occluders: Probability = 0.0  # the share of photographs with something before the face
    #: The artifact store, where images are kept and mapped into memory by every run; None: rendered anew at
    #: every load, into main memory.
    store: Places | None = None

    is_rendered: ClassVar[bool] = True
    has_own_pools: ClassVar[bool] = True
    knows_traits: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("resolution", self.size, 16, 1024)
        for key in ("identities", "train_per_identity", "test_per_identity", "public_identities"):
            _check(f"data.{key}", getattr(self, key), 1, OFFSET)
        _check("data.public_images", self.public_images, 1, OFFSET * OFFSET)
        _check("data.seed", self.seed, 0, 2**63 - 1)
        if self.public_images < self.public_identities:
            raise ConfigError(
                f"data.public_images={self.public_images} is less than one for each of "
                f"data.public_identities={self.public_identities}; raise the first or lower the second"
            )
        if self.source not in SOURCES:
            raise ConfigError(f"public_source={self.source} is unknown; use same or other")
        if self.pool not in _POOLS:
            raise ConfigError(f"data.*.pool={self.pool} is unknown; use {', '.join(_POOLS)}")
        self._look = Look(self.version, tuple(self.per_photo), self.occluders)

    def load(self, part: Part) -> ImageSet:
        """Labels 0, 1, .. in order; no part changes with the size of another. Rendered once for a store.
        Raises ConfigError on an unknown part.
        """
        identities, labels, index, source = self._photographs(part)
        classes = tuple(f"synth-{identity:04d}" for identity in identities.tolist())
        images = self._images(part, identities[labels], index, labels, classes, source)
        return ImageSet(images, labels, classes)

    def _photographs(self, part: Part) -> tuple[Tensor, Tensor, Tensor, str]:
        """The identities of a part; of each image the label, an index into them, and which photograph of its
        identity it is; the source. Raises ConfigError on an unknown part.
        """
        source, start = "same", 0
        if part == "public":
            identities, source = _FIRST["public"] + torch.arange(self.public_identities), self.source
            labels = torch.arange(self.public_images) * self.public_identities // self.public_images
        elif part in ("train", "test"):
            start, count = (
                (0, self.train_per_identity) if part == "train" else (OFFSET, self.test_per_identity)
            )
            identities = _FIRST[self.pool] + torch.arange(self.identities)
            labels = torch.arange(self.identities).repeat_interleave(count)
        else:
            raise ConfigError(f"part {part!r} is unknown; use train, test or public")
        index = start + torch.arange(len(labels)) - torch.searchsorted(labels, labels)
        return identities, labels, index, source

    def traits(self, part: Part, rows: Tensor | slice = slice(None)) -> dict[str, Tensor]:
        """Every number behind the images of a part, or some ``rows`` of them, in the order of ``load``:
        float32 [n], and colours [n, 3] as red, green and blue from 0 to 1 before any light.

        Drawn traits are in their ranges (``trait_groups``); others follow from these, such as ``glassed``,
        ``bearded`` or ``mask``, above 0 where there is one. Nothing is rendered.
        """
        identities, labels, index, source = self._photographs(part)
        shown = self._look.faces(identities[labels][rows], index[rows], seed=self.seed, source=source)
        numbers = {name: shown[name] for name in shown.names}
        return {
            name: value.squeeze(-1) if value.dim() == 2 else value.squeeze(-1).t().contiguous()
            for name, value in numbers.items()
        }

    def known_traits(self, part: Part) -> KnownTraits:
        """Those that a person has in every photograph."""
        return known_traits(self.traits(part), self.personal_traits(), self.version)

    def trait_groups(self) -> dict[str, tuple[str, ...]]:
        """The names of the drawn traits by group."""
        return self._look.groups()

    def personal_traits(self) -> tuple[str, ...]:
        """The names of the drawn traits that a person has in every photograph; the others are drawn for
        each.
        """
        return self._look.personal()

    def _images(
        self,
        part: Part,
        identity: Tensor,
        index: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        source: str,
    ) -> Tensor:
        """Photograph ``index`` [n] of ``identity`` [n], from the store where there is one."""
        if self.store is None:
            return render(identity, index, self.size, self.seed, source, self._look)
        photographs = zip(identity.tolist(), index.tolist(), strict=True)
        content: dict[str, object] = {
            "dataset": "synthfaces",
            **self._look.fingerprint(),
            "code": _art(self.version),
            "size": self.size,
            "seed": self.seed,
            "source": source,
            "photographs": hashlib.sha256(repr([*photographs]).encode()).hexdigest()[:16],
        }

        def some(images: Tensor, rows: range) -> None:
            those = slice(rows.start, rows.stop)
            render_into(images, identity[those], index[those], self.seed, source, look=self._look)

        return rendered_images(
            self.store,
            digest(content),
            size=self.size,
            names=[f"{classes[k]}/{i}" for k, i in zip(labels.tolist(), index.tolist(), strict=True)],
            labels=labels.tolist(),
            render=some,
            title=f"synthetic faces ({self._who(part)}, {self.size} px)",
            config={**content, "part": part},
        )

    def _who(self, part: Part) -> str:
        """How the photographs of a part are called."""
        return part if self.pool == "private" or part == "public" else f"{self.pool} {part}"

    def fingerprint(self, role: Role) -> dict[str, object]:
        """The arguments that matter to the role, and the version of the art."""
        names = ["size", "seed"]
        if role == "private":
            names += ["identities", "train_per_identity", "test_per_identity"]
            names += ["pool"] if self.pool != "private" else []
        else:
            names += ["public_identities", "public_images", "source"]
        values = {name: getattr(self, name) for name in names}
        return {"dataset": "synthfaces"} | self._look.fingerprint() | values

    def count_images(self, role: Role) -> int:
        """As many as asked for."""
        each = self.train_per_identity + self.test_per_identity
        return self.public_images if role == "public" else self.identities * each

    def num_identities(self) -> int:
        """As many as asked for."""
        return self.identities

    def class_names(self) -> tuple[str, ...]:
        """Numbers."""
        first = _FIRST[self.pool]
        return tuple(f"synth-{identity:04d}" for identity in range(first, first + self.identities))


@cache
def _art(version: Version) -> str:
    """The digest of the code that paints, as it was when this process first asked."""
    return sources().code(_ART[version], ())


def _check(key: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(
            f"{key}={value} cannot be used by synthetic faces; give a whole number from {least} to {most}"
        )
