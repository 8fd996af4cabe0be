"""Synthetic faces: every image is a function of (seed, identity, index, size, source) and of nothing else."""

from __future__ import annotations

import base64
import json
import multiprocessing
import zlib
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from midre_exp.data import cache
from midre_exp.data.synthetic import canvas as face_canvas
from midre_exp.data.synthetic import looks, renderer, synthfaces
from midre_exp.data.synthetic.looks import V1, V2, Look
from midre_exp.data.synthetic.synthfaces import OFFSET, SynthFaces, render
from midre_exp.data.synthetic.traits import IDENTITY, NUISANCE, OTHER, faces
from midre_exp.data.synthetic.traits_v2 import PERSON
from midre_exp.errors import ConfigError
from tests.data.slow_decoding import render_and_tell

GOLDEN = Path(__file__).parents[2] / "golden"

SIZES = {
    "identities": 5,
    "train_per_identity": 4,
    "test_per_identity": 3,
    "public_identities": 4,
    "public_images": 10,
}

VERSION_1 = {"per_photo": ["clothes"], "occluders": 0.0}
VERSION_2 = {"version": 2, "per_photo": ["hair", "glasses", "clothes"], "occluders": 0.15}


def dataset(**changes):
    return SynthFaces(**({"size": 24} | SIZES | changes))


def some(count, *, first=0):
    return torch.arange(first, first + count) % 37, torch.arange(first, first + count)


#: As V2, and something lies before every other face.
COVERED = Look(version=2, per_photo=V2.per_photo, occluders=0.5)


@pytest.mark.parametrize(
    ("size", "count", "look"),
    [(32, 220, V1), (57, 70, V1), (224, 6, V1), (32, 100, COVERED)],
)
def test_an_image_does_not_depend_on_its_batch_or_order(monkeypatch, size, count, look):
    identity, index = some(count)
    whole = render(identity, index, size, look=look)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert torch.equal(render(identity[order], index[order], size, look=look), whole[order])
    ends = [0, 0, 1, 3, count // 2, count]
    parts = [render(identity[a:b], index[a:b], size, look=look) for a, b in pairwise(ends)]
    assert torch.equal(torch.cat(parts), whole)
    monkeypatch.setattr(synthfaces, "_CHUNK", 7 * size**2)
    monkeypatch.setattr(synthfaces, "_PAGE", 50)
    assert torch.equal(render(identity, index, size, look=look), whole)


@pytest.mark.parametrize("source", ["same", "other"])
@pytest.mark.parametrize(
    ("size", "count", "look"),
    [(16, 40, V1), (32, 100, V1), (96, 20, V1), (16, 40, COVERED), (48, 40, COVERED)],
)
def test_windows_cut_nothing_off_a_feature(monkeypatch, size, count, look, source):
    identity, index = some(count, first=1000)
    monkeypatch.setattr(synthfaces, "_CHUNK", 1)  # one image at a time: the tightest windows
    tight = render(identity, index, size, source=source, look=look)
    window = face_canvas.Canvas.window
    monkeypatch.setattr(
        face_canvas.Canvas,
        "window",
        lambda self, f, x, y, fields, rows=None: window(self, f, (-9.0, 9.0), (-9.0, 9.0), fields, rows),
    )
    assert torch.equal(render(identity, index, size, source=source, look=look), tight)


def test_an_image_depends_on_seed_identity_index_and_source():
    identity, index = some(20)
    base = render(identity, index, 24)
    assert torch.equal(render(identity, index, 24), base)
    for other in (
        render(identity, index, 24, seed=1),
        render(identity + 37, index, 24),
        render(identity, index + 1, 24),
        render(identity, index, 24, source="other"),
    ):
        assert (other != base).flatten(1).any(1).all()


def test_the_art_has_the_version_that_was_published():
    """Means of every image and channel: processors with other vector units round single pixels to the next
    level, which moves a mean by a few thousandths. When the art changes on purpose, raise RENDERER_VERSION,
    so that stored artifacts are not mistaken for those of the new faces, and write the new means.
    """
    identity, index = torch.arange(40), torch.arange(40) * 3
    golden = json.loads((GOLDEN / "synthfaces.json").read_text())
    assert golden["version"] == renderer.RENDERER_VERSION
    for size in (16, 48):
        for source in ("same", "other"):
            means = render(identity, index, size, source=source).double().mean((2, 3))
            torch.testing.assert_close(
                means, torch.tensor(golden[f"{source} {size}"]).double(), atol=0.02, rtol=0
            )


@pytest.mark.parametrize(
    ("look", "file"), [(V1, "synthfaces_pixels.json"), (V2, "synthfaces_v2_pixels.json")]
)
def test_the_pixels_are_those_that_were_published(look, file):
    """Six images of each source. Processors with other vector units round some pixels to the next level, and
    may set one beside an edge differently; when the art changes on purpose, see above.
    """
    golden = json.loads((GOLDEN / file).read_text())
    assert golden["version"] == looks.ART_VERSIONS[look.version]
    for source in ("same", "other"):
        pixels = zlib.decompress(base64.b64decode(golden[source]))
        expected = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(6, 3, 24, 24)
        images = render(torch.arange(6) * 5, torch.arange(6), 24, source=source, look=look)
        off = (images.int() - expected.int()).abs()
        assert (off > 1).float().mean() < 0.001 and off.float().mean() < 0.02


def test_an_identity_has_the_same_traits_in_every_photograph_and_source():
    index = torch.arange(30)
    traits = faces(torch.full_like(index, 7), index, seed=3, source="same")
    elsewhere = faces(torch.full_like(index, 7), index, seed=3, source="other")
    others = faces(index, index, seed=3, source="same")
    for name in (*IDENTITY, "skin", "hair", "iris", "lips", "hair_length", "beard_full", "glassed"):
        assert torch.equal(traits[name], traits[name][..., :1, :].expand_as(traits[name])), name
        assert torch.equal(traits[name], elsewhere[name]), name
        assert others[name].unique().numel() > 1, name
    for name in ("yaw", "smile", "ground", "cloth", "sun", "noise_x"):
        assert traits[name].flatten(1 if traits[name].dim() == 3 else 0).unique(dim=-1).shape[-1] >= 30, name


def test_traits_fill_their_ranges_and_the_other_source_is_wider():
    index = torch.arange(4000)
    for source, ranges in (("same", IDENTITY | NUISANCE), ("other", IDENTITY | NUISANCE | OTHER)):
        traits = faces(index, index, seed=0, source=source)
        for name, (low, high) in ranges.items():
            if name in ("light", "ambient"):  # multiplied by the exposure
                continue
            value, width = traits[name], high - low
            assert low <= value.min() < low + 0.01 * width and high - 0.01 * width < value.max() <= high, name
            assert abs(value.mean() - (low + high) / 2) < 0.03 * width, name
    assert OTHER["yaw"][1] > NUISANCE["yaw"][1]


def test_photographs_of_a_identity_are_closer_than_those_of_two_identities():
    identities, shots = torch.arange(40), 24
    images = render(identities.repeat(shots), torch.arange(shots).repeat_interleave(40), 32).float()
    faces_only = images.view(2, shots // 2, 40, 3, 32, 32)[..., 6:26, 6:26].flatten(3)
    distance = torch.cdist(
        *faces_only.mean(1)
    )  # mean faces of disjoint photographs: rows and columns are identities
    assert (distance.argmin(1) == identities).float().mean() > 0.75
    assert distance.diag().mean() < 0.5 * distance.mean()
    single = torch.cdist(*faces_only[:, 0]).argmin(1)
    assert (single == identities).float().mean() < 0.6  # one photograph does not tell: the nuisance matters


def test_parts_have_the_announced_sizes_labels_and_names():
    data = dataset()
    train, test, public = data.load("train"), data.load("test"), data.load("public")
    assert train.images.shape == (20, 3, 24, 24) and train.images.dtype == torch.uint8
    assert (
        train.labels.tolist() == [k for k in range(5) for _ in range(4)] and train.labels.dtype == torch.int64
    )
    assert test.labels.tolist() == [k for k in range(5) for _ in range(3)]
    assert (
        train.classes
        == test.classes
        == ("synth-0000", "synth-0001", "synth-0002", "synth-0003", "synth-0004")
    )
    assert len(public) == 10 and public.labels.bincount().tolist() == [3, 2, 3, 2]
    assert public.classes[0] == "synth-1000000" and public.num_classes == 4
    assert not set(public.classes) & set(train.classes)


def test_no_image_occurs_twice():
    data = dataset(train_per_identity=30, test_per_identity=30, public_images=100)
    images = torch.cat([data.load(part).images for part in ("train", "test", "public")]).flatten(1)
    assert images.unique(dim=0).shape[0] == len(images) == 400


def test_a_part_does_not_change_with_the_size_of_another():
    small, large = dataset(), dataset(train_per_identity=9, public_images=40)
    assert torch.equal(small.load("test").images, large.load("test").images)
    first = large.load("train").images.view(5, 9, 3, 24, 24)[:, :4].flatten(0, 1)
    assert torch.equal(small.load("train").images, first)


def test_only_the_public_part_comes_from_the_other_source():
    same, other = dataset(), dataset(source="other")
    for part in ("train", "test"):
        assert torch.equal(same.load(part).images, other.load(part).images)
    assert not torch.equal(same.load("public").images, other.load("public").images)
    assert torch.equal(same.load("public").labels, other.load("public").labels)


def test_the_fingerprint_changes_exactly_with_what_matters_to_a_role():
    def changes(**arguments):
        roles = ("private", "public")
        return [
            role for role in roles if dataset().fingerprint(role) != dataset(**arguments).fingerprint(role)
        ]

    assert changes() == []
    assert changes(size=25) == changes(seed=1) == ["private", "public"]
    for name in ("identities", "train_per_identity", "test_per_identity"):
        assert changes(**{name: 9}) == ["private"]
    assert changes(public_identities=3) == changes(public_images=11) == changes(source="other") == ["public"]
    assert changes(**VERSION_2) == ["private", "public"]


def test_version_1_has_the_fingerprint_that_was_published():
    """Every key of an artifact made from synthetic faces stands on it."""
    assert dataset(size=32, identities=50).fingerprint("private") == {
        "dataset": "synthfaces", "renderer": 1, "size": 32, "seed": 0,
        "identities": 50, "train_per_identity": 4, "test_per_identity": 3,
    }  # fmt: skip
    assert dataset().fingerprint("public") == {
        "dataset": "synthfaces", "renderer": 1, "size": 24, "seed": 0,
        "public_identities": 4, "public_images": 10, "source": "same",
    }  # fmt: skip


def test_the_fingerprint_of_version_2_says_what_decides_about_its_images():
    base = dataset(**VERSION_2).fingerprint("public")
    for change in ({"per_photo": ["hair"]}, {"occluders": 0.2}, {"version": 1, **VERSION_1}):
        assert dataset(**(VERSION_2 | change)).fingerprint("public") != base, change
    turned = dataset(**(VERSION_2 | {"per_photo": ["clothes", "hair", "glasses", "hair"]}))
    assert turned.fingerprint("public") == base


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"size": 15},
            "resolution=15 cannot be used by synthetic faces; give a whole number from 16 to 1024",
        ),
        ({"identities": 0}, "data.identities=0 "),
        ({"identities": OFFSET + 1}, f"data.identities={OFFSET + 1} "),
        ({"train_per_identity": 2.5}, "data.train_per_identity=2.5 "),
        ({"test_per_identity": True}, "data.test_per_identity=True "),
        ({"public_identities": "4"}, "data.public_identities=4 "),
        ({"public_images": -1}, "data.public_images=-1 "),
        ({"public_images": 3}, "data.public_images=3 is less than one for each of data.public_identities=4"),
        ({"seed": -1}, "data.seed=-1 "),
        ({"source": "ffhq"}, "public_source=ffhq is unknown; use same or other"),
        ({"version": 3}, "data.version=3 is no version of synthetic faces; use 1 or 2"),
        ({"occluders": 0.1}, "synthetic faces of data.version=1 have data.per_photo=[clothes] and data.occl"),
        ({"per_photo": []}, "synthetic faces of data.version=1 have data.per_photo=[clothes] and data.occl"),
        ({"version": 2, "per_photo": ["hat"]}, "data.per_photo names hat, which is no group of traits; use "),
        ({"version": 2, "per_photo": [*PERSON]}, "data.per_photo leaves nothing of a person; leave out one"),
        ({"version": 2, "occluders": 1.5}, "data.occluders=1.5 is no share; give a number from 0 to 1"),
    ],
)
def test_an_impossible_argument_is_named(arguments, message):
    with pytest.raises(ConfigError) as error:
        dataset(**arguments)
    assert str(error.value).startswith(message)


@pytest.fixture
def painted(monkeypatch):
    """How many images are painted in each call."""
    counts = []
    honest = Look.paint

    def counted(look, traits, size):
        counts.append(len(traits))
        return honest(look, traits, size)

    monkeypatch.setattr(Look, "paint", counted)
    return counts


def test_with_a_store_every_part_is_rendered_once_for_all_and_is_what_it_was(tmp_path, painted):
    fresh = {part: dataset().load(part) for part in ("train", "test", "public")}
    assert sum(painted) == 20 + 15 + 10
    for _ in range(2):
        for part, images in fresh.items():
            kept = dataset(store=tmp_path).load(part)
            assert torch.equal(kept.images, images.images) and kept.images.dtype == torch.uint8
            assert torch.equal(kept.labels, images.labels) and kept.classes == images.classes
    assert sum(painted) == 2 * (20 + 15 + 10)
    dataset(store=tmp_path).load("train").images.fill_(0)  # a copy of the pages that are written
    assert torch.equal(dataset(store=tmp_path).load("train").images, fresh["train"].images)
    names = [path.joinpath("files.txt").read_text().splitlines() for path in tmp_path.glob("images/*")]
    assert sorted(len(lines) for lines in names) == [10, 15, 20]
    assert any("synth-0001/0 1" in lines for lines in names)
    assert any("synth-1000003/1 3" in lines for lines in names)


def test_images_are_shared_by_whoever_shows_the_same_photographs(tmp_path, painted):
    dataset(store=tmp_path).load("train")
    for other in ({"test_per_identity": 9}, {"public_images": 40}, {"source": "other"}):
        dataset(store=tmp_path, **other).load("train")
    assert sum(painted) == 20
    for other in ({"size": 25}, {"seed": 1}, {"identities": 6}):
        dataset(store=tmp_path, **other).load("train")
    assert sum(painted) == 20 + 20 + 20 + 24


def test_images_of_other_code_are_rendered_anew(tmp_path, painted, monkeypatch):
    dataset(store=tmp_path).load("test")
    monkeypatch.setattr(synthfaces, "_art", lambda version: "other code")
    dataset(store=tmp_path).load("test")
    monkeypatch.setitem(looks.ART_VERSIONS, 1, 2)
    dataset(store=tmp_path).load("test")
    assert sum(painted) == 3 * 15


def test_a_killed_rendering_goes_on_where_it_stopped(tmp_path, painted, monkeypatch):
    monkeypatch.setattr(cache, "_BLOCK", 8)
    honest = Look.faces

    def until_killed(*args, **options):
        if sum(painted) >= 16:
            raise KeyboardInterrupt
        return honest(*args, **options)

    monkeypatch.setattr(Look, "faces", until_killed)
    with pytest.raises(KeyboardInterrupt):
        dataset(store=tmp_path).load("train")
    monkeypatch.setattr(Look, "faces", honest)
    kept = dataset(store=tmp_path).load("train").images
    assert sum(painted) == 20
    assert torch.equal(kept, dataset().load("train").images)


def test_two_processes_render_once(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    log = tmp_path / "log.txt"
    jobs = [spawn.Process(target=render_and_tell, args=(tmp_path / "store", log)) for _ in range(2)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(60)
    assert [job.exitcode for job in jobs] == [0, 0]
    assert sum(map(int, log.read_text().split())) == 20


def test_an_unknown_part_is_named():
    with pytest.raises(ConfigError, match="part 'validation' is unknown"):
        dataset().load("validation")


@pytest.mark.parametrize(("count", "shown"), [(3, False), (5, True)])
def test_a_progress_bar_shows_when_the_work_is_long(monkeypatch, capsys, count, shown):
    monkeypatch.setattr(synthfaces, "_LONG", 4 * 16 * 16)
    monkeypatch.setattr("midre_exp.store.progress._display.bars", True)
    render(torch.arange(count), torch.arange(count), 16)
    assert ("synthetic faces" in capsys.readouterr().err) is shown


def test_those_to_pretrain_on_are_neither_private_nor_public():
    private, pool = dataset(), dataset(pool="pretraining", identities=3)
    public = {*private.load("public").classes}
    assert not {*pool.class_names()} & {*private.class_names(), *public}
    train, test = pool.load("train"), pool.load("test")
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4 and len(test) == 9
    assert train.classes == test.classes == pool.class_names() and pool.num_identities() == 3
    ours = {image.numpy().tobytes() for part in ("train", "test") for image in pool.load(part).images}
    theirs = {
        image.numpy().tobytes() for p in ("train", "test", "public") for image in private.load(p).images
    }
    assert len(ours) == 21 and not ours & theirs


def test_a_fingerprint_tells_private_identities_from_those_to_pretrain_on():
    assert dataset().fingerprint("private") != dataset(pool="pretraining").fingerprint("private")
    assert "pool" not in dataset().fingerprint("private")  # keys from before there were any stay


def test_an_unknown_pool_is_refused():
    with pytest.raises(ConfigError, match="pool=publik"):
        dataset(pool="publik")
