"""A verifier: a network that tells people apart whom it was never shown. It is trained on people who are
neither private nor, where data allow it, the attacker's, and judged on others of them who were held out.

Photographs of a person become one template, the unit mean of their embeddings; the score of a picture is its
cosine with a template. Training: softmax over cosines, from that of the own person a margin subtracted
(CosFace, Wang et al., CVPR 2018), over the people it is trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from midre_exp import seeding
from midre_exp.data.base import ImageSet
from midre_exp.errors import DataError
from midre_exp.leakage.network import FaceNetwork, Pictures, Step, answers
from midre_exp.leakage.training import Course, fit
from midre_exp.runtime import Runtime


class People(NamedTuple):
    """Photographs of people 0, 1, .. (labels int64 [n])."""

    images: Pictures
    labels: Tensor
    who: Tensor  # int64 [people], their labels in the data set


class Cosines(nn.Module):
    """A network with a direction for each person it is trained on."""

    def __init__(self, network: FaceNetwork, dimension: int, people: int):
        super().__init__()
        self.network = network
        self.directions = nn.Parameter(torch.empty(people, dimension))
        nn.init.normal_(self.directions, std=0.01)

    def forward(self, images: Tensor) -> Tensor:
        """Cosines [n, people]."""
        return F.linear(F.normalize(self.network(images)), F.normalize(self.directions))


def cosface(cosines: Tensor, labels: Tensor, *, margin: float, scale: float) -> Tensor:
    """Cross entropy of ``scale`` (cosines [n, k] - ``margin`` of the label's)."""
    own = F.one_hot(labels, cosines.shape[1]).to(cosines.dtype)
    return F.cross_entropy(scale * (cosines - margin * own), labels)


def shared_out(parts: Sequence[ImageSet], *, held_out: float, seed: int) -> tuple[People, People]:
    """People to train on and people held out: the share ``held_out`` of all, drawn by seed of those who have
    two photographs or more. Raises DataError where either would be fewer than two.
    """
    labels = torch.cat([part.labels for part in parts])
    count = parts[0].num_classes
    able = (torch.bincount(labels, minlength=count) >= 2).nonzero().squeeze(1)
    draws = seeding.generator(seed, "verifier", "held out")
    away = able[torch.randperm(len(able), generator=draws)[: round(held_out * count)]].sort().values
    stays = torch.ones(count, dtype=torch.bool)
    stays[away] = False
    if min(len(away), int(stays.sum())) < 2:
        raise DataError(
            f"of {count} people {len(able)} have two photographs, too few to train a verifier and to hold "
            "two out (open_set.held_out); use data with more people, or open_set=null"
        )
    blocks = [part.images for part in parts]
    return _only(blocks, labels, stays.nonzero().squeeze(1)), _only(blocks, labels, away)


def _only(blocks: Sequence[Tensor], labels: Tensor, chosen: Tensor) -> People:
    rows = torch.isin(labels, chosen).nonzero().squeeze(1)
    rows = rows[labels[rows].argsort(stable=True)]  # of a person, those of the first part first
    return People(Pictures(blocks, rows), torch.searchsorted(chosen, labels[rows]), chosen)


def train(
    people: People,
    *,
    pixels: int,
    dimension: int,
    margin: float,
    scale: float,
    course: Course,
    work: Path,
    runtime: Runtime,
) -> tuple[FaceNetwork, float]:
    """A verifier, and the last of its loss. Raises DivergedError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeding.derive(course.seed, "verifier", "weights"))
        network = FaceNetwork(pixels=pixels, outputs=dimension, normed=True)
        cosines = Cosines(network, dimension, len(people.who))
    labels = people.labels.to(runtime.device)
    runtime.numerics.reorder(cosines)
    call = runtime.numerics.call(cosines)

    def loss(images: Tensor, rows: Tensor) -> Tensor:
        return cosface(call(images).float(), labels[rows], margin=margin, scale=scale)

    last = fit(
        cosines,
        people.images,
        loss,
        course,
        key="open_set",
        mirrors=True,
        title="training a verifier",
        work=work,
        runtime=runtime,
    )
    return network, last


def embed(
    network: FaceNetwork, images: Tensor | Pictures, device: torch.device, steps: Sequence[Step] = ()
) -> Tensor:
    """Unit embeddings [n, d] of images, as ``answers`` takes them: of a picture and its mirror image
    together.
    """
    return F.normalize(answers(network, images, device, steps, mirrored=True))


class Templates(NamedTuple):
    """A template of each person and the pictures that are not in it."""

    templates: Tensor  # [people, d], of unit length
    probes: Tensor  # [n, d]
    labels: Tensor  # int64 [n], whose the probes are


def templates_of(embeddings: Tensor, labels: Tensor, people: int, most: int) -> Templates:
    """Of each person the first ``most`` photographs, at most half of them, are the template and the others
    probes; one photograph is a template without probes. Raises DataError for somebody who has none.
    """
    counts = torch.bincount(labels, minlength=people)
    if bool((counts == 0).any()):
        raise DataError(f"person {int((counts == 0).nonzero()[0])} has no photograph to be recognised by")
    order = labels.argsort(stable=True)
    embeddings, labels = embeddings[order], labels[order]
    place = torch.arange(len(labels)) - torch.searchsorted(labels, labels)
    inside = place < (counts // 2).clamp(min=1, max=most)[labels]
    total = torch.zeros(people, embeddings.shape[1]).index_add(0, labels[inside], embeddings[inside])
    return Templates(F.normalize(total), embeddings[~inside], labels[~inside])


def pairs(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of the cosines [n, people] of pictures with all templates those with their own [n] and with others."""
    own = F.one_hot(labels, scores.shape[1]).bool()
    return scores[own], scores[~own]
