"""Tiny data sets in the layouts of the official downloads, quirks included, filled with synthetic faces: to
try a setup without the data.

One function per dataset; each returns the overrides that read it. No identity appears in two datasets, or
on two sides of one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from midre_exp.data.readers.celeba import IDENTITIES, RECROPPED
from midre_exp.data.readers.celeba_lists import LISTS
from midre_exp.data.synthetic.synthfaces import render
from midre_exp.errors import ConfigError, DataError
from midre_exp.seeding import generator
from midre_exp.store.files import make_folder

Overrides = tuple[str, ...]

_DRAWN = 64  # pixels at which faces are rendered before they are enlarged: enough for tiny trees, and quick
#: Where each dataset's synthetic identities start.
_FIRST_IDENTITY = {
    "celeba": 0,
    "facescrub": 100_000,
    "vggface2": 200_000,
    "dogs": 300_000,
    "ffhq": 400_000,
    "afhq": 500_000,
    "lfw": 600_000,
}
_PUBLIC = 50_000  # added for public identities


def write_celeba(
    root: Path, *, identities: int = 5, images: int = 6, lists: bool = False, extension: str = "jpg"
) -> Overrides:
    """CelebA: ``identities`` private ones of at least ``images`` (30 in the original) aligned 178 x 218
    images each, and public ones.

    ``lists``: also the three list files. The identity file has CRLF line ends, as downloaded.
    """
    rows = _celeba_rows(_fresh(root), identities, images)
    _save(
        root / "Img" / "img_align_celeba",
        [f"{stem}.{extension}" for stem, _ in rows],
        _celeba_faces(rows, (178, 218)),
    )
    _celeba_identities(root, rows)
    public = [stem for stem, number in rows if number > 9000]
    numbers = sorted({number for _, number in rows if number < 5000})
    if lists:
        lines: dict[str, list[str]] = {part: [] for part in LISTS}
        for label, number in enumerate(numbers):
            stems = [stem for stem, owner in rows if owner == number]
            cut = int(0.9 * len(stems))
            lines["train"] += [f"{stem}.{extension} {label}" for stem in stems[:cut]]
            lines["test"] += [f"{stem}.{extension} {label}" for stem in stems[cut:]]
        lines["public"] = [f"{stem}.{extension}" for stem in public]
        for part, name in LISTS.items():
            (root / f"celeba_{name}").write_text("".join(f"{line}\n" for line in lines[part]))
    return (
        f"data.private.root={root}",
        f"data.private.identities={identities}",
        f"data.private.least_images={images}",
        f"data.private.public_images={len(public)}",
    )


def write_celeba_hd(root: Path, *, identities: int = 5, images: int = 6) -> Overrides:
    """CelebA re-cropped at 224 px, in the folder that HD-CelebA-Cropper makes, and the identity file."""
    rows = _celeba_rows(_fresh(root), identities, images)
    _save(root / RECROPPED, [f"{stem}.jpg" for stem, _ in rows], _celeba_faces(rows, (224, 224)))
    _celeba_identities(root, rows)
    return (f"data.private.root={root}", f"data.private.identities={identities}")


def write_facescrub(root: Path, *, identities: int = 5, images: int = 4, layout: str = "blanks") -> Overrides:
    """FaceScrub: ``identities``, half of them actors, with ``images`` faces each; sizes and formats
    vary, names have accents.

    ``layout``: blanks (as the author's script names folders), underscores (as PPA does) or flat (as PLG-MI's
    script does).
    """
    if layout not in ("blanks", "underscores", "flat"):
        raise ConfigError(f"layout={layout} is unknown; use blanks, underscores or flat")
    _fresh(root)
    half = (identities + 1) // 2
    groups = {"actors": _names(_ACTORS, half), "actresses": _names(_ACTRESSES, identities - half)}
    identity = _FIRST_IDENTITY["facescrub"]
    for group, names in groups.items():
        lines = ["name\timage_id\tface_id\turl\tbbox\tsha256"]
        for name in names:
            shown = name if layout == "blanks" else name.replace(" ", "_")
            folder = root / shown / "face" if layout == "flat" else root / group / "faces" / shown
            files = []
            for image in range(images):
                url = f"http://example.org/{identity}/{image}.jpg"
                sha1 = hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()
                extension = ("jpeg", "png", "jpg")[image % 3]
                files.append(
                    f"{sha1}.jpg" if layout == "flat" else f"{shown}_{image + 1}_{identity}.{extension}"
                )
                bbox = "10,12,90,95"
                lines.append(f"{name}\t{image + 1}\t{identity}\t{url}\t{bbox}\t{sha1}")
            sizes = [(80 + image, 83 - image % 7) for image in range(images)]
            _save(folder, files, _faces([identity] * images, range(images), sizes))
            identity += 1
        (root / f"facescrub_{group}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return (f"data.private.root={root}", f"data.private.expected_identities={identities}")


def write_vggface2(root: Path, *, identities: int = 5, images: int = 5) -> Overrides:
    """VGGFace2: ``identities`` in train/ and as many others in test/, loosely cropped at several
    sizes, and the detector's boxes.
    """
    _fresh(root)
    for part, first in (("train", 0), ("test", _PUBLIC)):
        lines = ["NAME_ID,X,Y,W,H"]
        for position in range(identities):
            name = f"n{2 * position + (part == 'train') + 1:06d}"
            files = [f"{image + 1:04d}_01.jpg" for image in range(images)]
            sizes = [(90 + 5 * image, 100 + 3 * position) for image in range(images)]
            portrayed = [_FIRST_IDENTITY["vggface2"] + first + position] * images
            _save(root / part / name, files, _faces(portrayed, range(images), sizes))
            lines += [
                f'"{name}/{Path(file).stem}",{width // 4},{height // 4},{width // 2},{height // 2}'
                for file, (width, height) in zip(files, sizes, strict=True)
            ]
        csv = root / "bb_landmark" / f"loose_bb_{part}.csv"
        csv.parent.mkdir(exist_ok=True)
        csv.write_text("\n".join(lines) + "\n")
    return (
        f"data.private.root={root}",
        f"data.private.expected_identities={identities}",
        f"data.private.expected_public_identities={identities}",
    )


def write_stanford_dogs(root: Path, *, identities: int = 5, images: int = 6) -> Overrides:
    """Stanford Dogs: ``identities`` breeds (played by human faces) of ``images`` pictures, some grey, with
    annotations and MATLAB lists.
    """
    import numpy as np
    from scipy.io import savemat

    _fresh(root)
    breeds = (*_BREEDS, *(f"n{2_200_000 + extra:08d}-breed_{extra}" for extra in range(identities)))[
        :identities
    ]
    lists: dict[str, list[tuple[str, int]]] = {"train_list.mat": [], "test_list.mat": []}
    for label, breed in enumerate(breeds, start=1):
        stems = [f"{breed.split('-')[0]}_{100 * image + 7}" for image in range(images)]
        sizes = [(120 + 4 * image, 90 + 3 * label) for image in range(images)]
        portrayed = [_FIRST_IDENTITY["dogs"] + label] * images
        pictures = _faces(portrayed, range(images), sizes)
        pictures[0] = pictures[0].convert("L")  # a few of the original are not RGB either
        _save(root / "Images" / breed, [f"{stem}.jpg" for stem in stems], pictures)
        (root / "Annotation" / breed).mkdir(parents=True)
        for image, (stem, size) in enumerate(zip(stems, sizes, strict=True)):
            (root / "Annotation" / breed / stem).write_text(
                _annotation(breed, stem, size, objects=1 + image % 2)
            )
            part = "train_list.mat" if image < 2 * images // 3 else "test_list.mat"
            lists[part].append((f"{breed}/{stem}", label))
    for name, rows in lists.items():
        cells = {key: np.empty((len(rows), 1), dtype=object) for key in ("file_list", "annotation_list")}
        for row, (stem, _) in enumerate(rows):
            cells["file_list"][row, 0], cells["annotation_list"][row, 0] = f"{stem}.jpg", stem
        labels = np.array([[label] for _, label in rows], dtype=np.float64)
        savemat(root / name, {**cells, "labels": labels})
    return (f"data.private.root={root}", f"data.private.expected_images={identities * images}")


def write_ffhq(root: Path, *, images: int = 12, variant: str = "thumbnails") -> Overrides:
    """FFHQ: ``images`` pictures in folders of thousands. ``variant``: thumbnails or
    images1024.
    """
    folders = {"thumbnails": ("thumbnails128x128", 128), "images1024": ("images1024x1024", 1024)}
    if variant not in folders:
        raise ConfigError(f"variant={variant} is unknown; use {' or '.join(folders)}")
    folder, side = folders[variant]
    _fresh(root)
    portrayed = [_FIRST_IDENTITY["ffhq"] + image for image in range(images)]
    for thousand, some in ((0, portrayed[: images // 2]), (1000, portrayed[images // 2 :])):
        files = [f"{thousand + row:05d}.png" for row in range(len(some))]
        _save(
            root / folder / f"{thousand:05d}",
            files,
            _faces(some, [0] * len(some), [(side, side)] * len(some)),
        )
    return (f"data.public.root={root}", f"data.public.expected_images={images}")


def write_afhq(root: Path, *, images: int = 12, version: int = 1) -> Overrides:
    """AFHQ: ``images`` dogs (human faces) for training, a few to test, and cats, which nobody reads.
    ``version``: 1 or 2.
    """
    if version not in (1, 2):
        raise ConfigError(f"version={version} is unknown; use 1 or 2")
    _fresh(root)
    base, held_out, extension = (("afhq", "val", "jpg"), ("", "test", "png"))[version - 1]
    first = _FIRST_IDENTITY["afhq"]
    for folder, count in (("train/dog", images), (f"{held_out}/dog", 2), ("train/cat", 1)):
        source = ("flickr", "pixabay")
        files = [f"{source[row % 2]}_{Path(folder).name}_{row + 2:06d}.{extension}" for row in range(count)]
        portrayed = [first + row for row in range(count)]
        _save(root / base / folder, files, _faces(portrayed, [0] * count, [(512, 512)] * count))
        first += 1000
    return (f"data.public.root={root}", f"data.public.expected_images={images}")


#: Where each of those that hand out LFW puts the folders of people.
LFW_LAYOUTS = {
    "raw": "lfw",
    "funneled": "lfw_funneled",
    "deepfunneled": "lfw-deepfunneled",
    "sklearn": "lfw_home/lfw_funneled",
    "torchvision": "lfw-py/lfw_funneled",
    "kaggle": "lfw-deepfunneled/lfw-deepfunneled",
    "flat": ".",
}


def write_lfw(root: Path, *, identities: int = 3, images: int = 5, layout: str = "raw") -> Overrides:
    """LFW: ``identities`` private people with ``images`` pictures each, one with one more, and twice as many
    public ones with fewer; text files lie about as in the archives.

    ``layout``: raw, funneled, deepfunneled (the archives), sklearn, torchvision, kaggle (what these leave),
    flat (the people right in the folder).
    """
    if layout not in LFW_LAYOUTS:
        raise ConfigError(f"layout={layout} is unknown; use {', '.join(LFW_LAYOUTS)}")
    if identities < 1 or images < 2:
        raise ConfigError(f"identities={identities} and images={images} must be at least 1 and 2")
    _fresh(root)
    people = [name.replace(" ", "_") for name in _names(("Abba Eban", "Zoran Djindjic"), 3 * identities)]
    counts = [images + (position == 0) for position in range(identities)]
    counts += [1 + position % (images - 1) for position in range(2 * identities)]
    home = root / LFW_LAYOUTS[layout]
    for position, (person, count) in enumerate(zip(people, counts, strict=True)):
        files = [f"{person}_{number + 1:04d}.jpg" for number in range(count)]
        portrayed = [_FIRST_IDENTITY["lfw"] + position] * count
        _save(home / person, files, _faces(portrayed, range(count), [(250, 250)] * count))
    for text in {home / "pairs_01.txt", home.parent / "pairs.txt", root / "lfw-names.txt"}:
        text.write_text(f"{people[0]}\t1\t2\n")
    return (f"data.root={root}", f"data.private.min_images={images}")


_ACTORS = ("Jean-Claude Van Damme", "Jean Reno", "Stellan Skarsgård", "Aaron Eckhart", "Woody Allen")
_ACTRESSES = ("Zooey Deschanel", "Adrianne León", "Michelle Rodríguez", "Amy Adams")
_BREEDS = (
    "n02085620-Chihuahua",
    "n02085782-Japanese_spaniel",
    "n02085936-Maltese_dog",
    "n02086079-Pekinese",
    "n02086240-Shih-Tzu",
)


def _fresh(root: Path) -> Path:
    """The folder, made if need be. Raises DataError if anything is in it: a fixture must never mix with a
    download.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise DataError(f"{root} exists and is not an empty folder; name a new one")
    make_folder(root)
    return root


def _faces(
    identities: Sequence[int], indices: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> list[Image.Image]:
    """A photograph of each identity, enlarged to fill its size (width, height) without distortion."""
    pixels = render(
        torch.tensor(identities, dtype=torch.int64), torch.tensor(list(indices), dtype=torch.int64), _DRAWN
    )
    pictures = []
    for face, (width, height) in zip(pixels.permute(0, 2, 3, 1).contiguous().numpy(), sizes, strict=True):
        side = max(width, height)
        square = Image.fromarray(face).resize((side, side), Image.Resampling.BICUBIC)
        left, top = (side - width) // 2, (side - height) // 2
        pictures.append(square.crop((left, top, left + width, top + height)))
    return pictures


def _save(folder: Path, names: Sequence[str], pictures: Sequence[Image.Image]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in zip(names, pictures, strict=True):
        picture.save(folder / name, compress_level=1)  # of PNG: size matters less than time


def _names(known: Sequence[str], count: int) -> list[str]:
    return [*known, *(f"Extra Person {number}" for number in range(count))][:count]


def _celeba_rows(root: Path, identities: int, images: int) -> list[tuple[str, int]]:
    """(stem, identity number) in file order: the private identities, one more with as many images, and public
    identities with fewer, mixed.
    """
    if identities < 1 or images < 2:
        raise ConfigError(f"identities={identities} and images={images} must be at least 1 and 2")
    numbers = [14 + 3 * position for position in range(identities)]
    owners = [number for number in (*numbers, 5001) for _ in range(images)] + numbers[:1]
    owners += [
        9001 + identity for identity in range(2 * identities) for _ in range(1 + identity % (images - 1))
    ]
    order = torch.randperm(len(owners), generator=generator(0, "fixture", "celeba")).tolist()
    return [(f"{position + 1:06d}", owners[row]) for position, row in enumerate(order)]


def _celeba_faces(rows: Sequence[tuple[str, int]], size: tuple[int, int]) -> list[Image.Image]:
    """The synthetic identity follows the number, the photograph the row."""
    portrayed = [_FIRST_IDENTITY["celeba"] + number for _, number in rows]
    return _faces(portrayed, range(len(rows)), [size] * len(rows))


def _celeba_identities(root: Path, rows: Sequence[tuple[str, int]]) -> None:
    file = root / "Anno" / IDENTITIES
    file.parent.mkdir(exist_ok=True)
    file.write_bytes("".join(f"{stem}.jpg {number}\r\n" for stem, number in rows).encode())


def _annotation(breed: str, stem: str, size: tuple[int, int], *, objects: int) -> str:
    """The XML of a picture with so many dogs; the first box is the one that cropping takes."""
    width, height = size
    boxes = [(width // 4, height // 5, 3 * width // 4, 4 * height // 5), (0, 0, width // 8, height // 8)][
        :objects
    ]
    dogs = "".join(
        f"\t<object>\n\t\t<name>{breed.split('-')[1]}</name>\n\t\t<bndbox>\n"
        f"\t\t\t<xmin>{left}</xmin>\n\t\t\t<ymin>{upper}</ymin>\n\t\t\t<xmax>{right}</xmax>\n\t\t\t<ymax>{lower}</ymax>\n"
        "\t\t</bndbox>\n\t</object>\n"
        for left, upper, right, lower in boxes
    )
    sizes = f"<width>{width}</width><height>{height}</height><depth>3</depth>"
    return f"<annotation>\n\t<filename>{stem}</filename>\n\t<size>{sizes}</size>\n{dogs}</annotation>"
