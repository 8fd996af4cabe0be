"""Synthetic faces: any number of people, any number of photographs of each, private and public people
disjoint by construction.

They stand in for licensed face data at the scales ``mini`` and ``synth``; ``python -m
midre_exp.data.synthfaces FILE.png`` draws a sheet of them. What a face looks like is in ``face_traits``, how
it is painted in ``face_renderer``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from midre_exp.data.base import Dataset, ImageSet, Part, Role
from midre_exp.data.synthetic.renderer import RENDERER_VERSION, paint
from midre_exp.data.synthetic.traits import SOURCES, faces
from midre_exp.errors import ConfigError

#: Private people are 0, 1, ..; public people start here. Test photographs of a private person start here too.
OFFSET = 1_000_000

_PAGE = 4096  # photographs whose traits are drawn together
_CHUNK = (
    96 * 32 * 32
)  # pixels painted together: enough to hide the cost of a call, few enough for a core's cache
_LONG = 20_000 * 32 * 32  # pixels from which on a progress bar is shown


def render(identity: Tensor, index: Tensor, size: int, seed: int = 0, source: str = "same") -> Tensor:
    """Photograph ``index`` [n] of person ``identity`` [n] (int64, not negative) as uint8 [n, 3, size, size]
    RGB.

    An image depends on its own identity and index, and on size, seed and source: not on the batch or its
    order. A person's looks depend on (seed, identity) alone; ``source="other"`` photographs them elsewhere:
    wider poses, outdoor grounds, warmer light.
    """
    images = torch.empty(len(identity), 3, size, size, dtype=torch.uint8)
    step = max(1, _CHUNK // size**2)
    short = images.numel() < 3 * _LONG
    with tqdm(total=len(identity), desc="synthetic faces", unit="img", disable=short) as bar:
        for page in torch.arange(len(identity)).split(_PAGE) if len(identity) else ():
            traits = faces(identity[page], index[page], seed=seed, source=source)
            # like poses together: what is painted in a chunk is a box around all its faces
            pose = (traits["yaw"] * 12).round() * 4 + traits["scale"]
            for some in pose.squeeze(1).argsort().split(step):
                images[page[some]] = paint(traits.of_rows(some), size)
                bar.update(len(some))
    return images


class SynthFaces(Dataset):
    """``identities`` private people with ``train_per_identity`` and ``test_per_identity`` photographs each,
    and public people.

    The public part shares ``public_images`` evenly among ``public_identities`` other people, photographed by
    ``source``: "same" as the private part, or "other", as public FFHQ faces private CelebA. Raises
    ConfigError naming the key.
    """

    def __init__(
        self,
        *,
        size: int,
        identities: int,
        train_per_identity: int,
        test_per_identity: int,
        public_identities: int,
        public_images: int,
        source: str = "same",
        seed: int = 0,
    ):
        _check("resolution", size, 16, 1024)
        _check("data.identities", identities, 1, OFFSET)
        _check("data.train_per_identity", train_per_identity, 1, OFFSET)
        _check("data.test_per_identity", test_per_identity, 1, OFFSET)
        _check("data.public_identities", public_identities, 1, OFFSET)
        _check("data.public_images", public_images, 1, OFFSET * OFFSET)
        _check("data.seed", seed, 0, 2**63 - 1)
        if public_images < public_identities:
            raise ConfigError(
                f"data.public_images={public_images} is less than one for each of data.public_identities={public_identities}; "
                "raise the first or lower the second"
            )
        if source not in SOURCES:
            raise ConfigError(f"public_source={source} is unknown; use same or other")
        self.size, self.source, self.seed = size, source, seed
        self.identities, self.public_identities = identities, public_identities
        self.train_per_identity, self.test_per_identity = train_per_identity, test_per_identity
        self.public_images = public_images

    def load(self, part: Part) -> ImageSet:
        """Labels 0, 1, .. in order; no part changes with the size of another. Raises ConfigError on an
        unknown part.
        """
        source, start = "same", 0
        if part == "public":
            people, source = OFFSET + torch.arange(self.public_identities), self.source
            labels = torch.arange(self.public_images) * self.public_identities // self.public_images
        elif part in ("train", "test"):
            start, count = (
                (0, self.train_per_identity) if part == "train" else (OFFSET, self.test_per_identity)
            )
            people = torch.arange(self.identities)
            labels = people.repeat_interleave(count)
        else:
            raise ConfigError(f"part {part!r} is unknown; use train, test or public")
        index = start + torch.arange(len(labels)) - torch.searchsorted(labels, labels)
        images = render(people[labels], index, self.size, self.seed, source)
        return ImageSet(images, labels, tuple(f"synth-{person:04d}" for person in people.tolist()))

    def fingerprint(self, role: Role) -> dict[str, object]:
        """The arguments that matter to the role, and the version of the art."""
        names = ["size", "seed"]
        if role == "private":
            names += ["identities", "train_per_identity", "test_per_identity"]
        else:
            names += ["public_identities", "public_images", "source"]
        return {"dataset": "synthfaces", "renderer": RENDERER_VERSION} | {
            name: getattr(self, name) for name in names
        }

    def num_identities(self) -> int:
        """As many as asked for."""
        return self.identities


def _check(key: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(
            f"{key}={value} cannot be used by synthetic faces; give a whole number from {least} to {most}"
        )


def contact_sheet(size: int = 72) -> Tensor:
    """uint8 [3, 8 * size, 12 * size]: 60 people, then 12 photographs each of two people and, by the other
    source, of a third.
    """
    row = torch.arange(12)
    blocks = [render(torch.arange(60), torch.arange(60), size)]
    for person, source in ((3, "same"), (64, "same"), (71, "other")):
        blocks.append(render(torch.full_like(row, person), row, size, source=source))
    grid = torch.cat(blocks).view(-1, 12, 3, size, size)
    return grid.permute(2, 0, 3, 1, 4).reshape(3, -1, 12 * size)


def main(arguments: list[str]) -> int:
    """Write the contact sheet to the file named by the only argument."""
    if len(arguments) != 1:
        print("usage: python -m midre_exp.data.synthfaces FILE.png", file=sys.stderr)
        return 2
    from PIL import Image

    file = Path(arguments[0])
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(contact_sheet().permute(1, 2, 0).contiguous().numpy()).save(file, optimize=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
