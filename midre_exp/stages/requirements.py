"""What the ``needs`` of several stages share: is a data set here, is a weight file, are library weights?"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from midre_exp.cards import card_of, steps
from midre_exp.cards.named import is_named, named_files
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.config import Settings, Trusted, build, trusted_packages
from midre_exp.plan.keys import node_of
from midre_exp.plan.trust import named_class
from midre_exp.stages.base import Remember, Requirement

if TYPE_CHECKING:  # torch
    from midre_exp.data.base import Dataset

#: The images of a run, each with the role that its reader knows them by.
ROLES = {
    "private": "private",
    "public": "public",
    "evaluation": "private",
    "pretraining": "private",  # of a data set of their own
    "evaluator_pretraining": "private",
    "others": "private",
    "verification": "private",
    "traits": "private",
}


@dataclass(frozen=True)
class Images:
    """A data set as this machine has it: ``count`` images, None where nobody can tell, ``error`` what is
    wrong with it.
    """

    title: str
    role: str
    pixels: int
    count: int | None
    error: UserError | None


def images_of(settings: Settings, name: str, remember: Remember) -> Images:
    """Some images of a run, by their name in ``ROLES``, looked at once. Raises ConfigError for images to
    pre-train on where there are none.
    """
    node = node_of(settings["data"], name)
    return _Look(node, ROLES[name], trusted_packages(settings), remember).images()


def dataset_of(settings: Settings, name: str, remember: Remember) -> Dataset:
    """The data set itself, made once, because it remembers what it has listed. Raises UserError."""
    node = node_of(settings["data"], name)
    return _Look(node, ROLES[name], trusted_packages(settings), remember).dataset()


class _Look(NamedTuple):
    node: Mapping[str, Any]
    role: str
    trusted: Trusted
    remember: Remember

    def dataset(self) -> Dataset:
        found: Dataset = self.remember(["dataset", self.node], self._build)
        return found

    def images(self) -> Images:
        found: Images = self.remember(["images", self.node, self.role], self._images)
        return found

    def _build(self) -> Dataset:
        made: Dataset = build(self.node, kind="midre_exp.data.Dataset", trusted=self.trusted)
        return made

    def _images(self) -> Images:
        title, pixels = str(self.node["_target_"]).rpartition(".")[2], int(self.node["size"])
        try:
            dataset = self.dataset()
            title = getattr(dataset, "title", title)
            count = dataset.count_images(self.role)  # type: ignore[arg-type]
            return Images(title, self.role, pixels, count, None)
        except UserError as error:
            return Images(title, self.role, pixels, None, error)


def data_needs(settings: Settings, name: str, remember: Remember) -> Iterator[Requirement]:
    """A data set that is not here, or that cannot be used."""
    images = images_of(settings, name, remember)
    if images.error is not None:
        node = node_of(settings["data"], name)
        yield Requirement(True, f"{images.title} data", _with_card(str(images.error), node))


def _with_card(text: str, node: Mapping[str, Any]) -> str:
    """What is wrong with a data set, and below it what its card says and the layout that is expected."""
    card = card_of(node)
    if card is None:
        return text
    sentence, expected, layout = text.partition(" Expected:\n")
    lines = [sentence]
    for word, told in steps(card, str(node["root"])).items():
        lines += textwrap.wrap(
            told,
            116,
            initial_indent=f"    {word:8}",
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
    if expected:
        lines += ["    layout", *(f"    {line}" for line in layout.splitlines())]
    return "\n".join(lines)


def named_needs(settings: Settings, place: str) -> Iterator[Requirement]:
    """Weight files that keys below ``place`` call by name and that cannot be used here."""
    for file in named_files(settings):
        if file.key.startswith(f"{place}.") and (told := file.problem()) is not None:
            yield Requirement(True, f"{file.key} file", told)


def file_needs(path: Any, key: str, *, blocks: bool = True) -> Iterator[Requirement]:
    """A weight file whose path is named but that is not there; of what has a card ``named_needs`` tells."""
    if is_named(path):
        return
    file = Path(str(path)).expanduser()
    if not file.is_file() or file.stat().st_size == 0:
        state = "is empty" if file.is_file() else "does not exist"
        yield Requirement(
            blocks, f"{key} file", f"{key}={path} {state}; put the file there or correct the path"
        )


def library_needs(model: Mapping[str, Any], trusted: Trusted, remember: Remember) -> Iterator[Requirement]:
    """Public ImageNet weights of a network that are not here yet."""
    source = remember(["library", model], lambda: _library_source(model, trusted))
    if source.path is None:
        where = source.source
        if source.file not in where:
            where = f"{source.file} of {where} (Hugging Face hub)"
        yield Requirement(
            False,
            "download",
            f"{where} will be fetched into {source.folder} when first needed; without internet access put it "
            "there before",
        )


def _library_source(model: Mapping[str, Any], trusted: Trusted) -> Any:
    import torch  # planning loads this module with the stages

    from midre_exp.targets.base import Classifier
    from midre_exp.weights.published import library_source

    target = str(model["_target_"])
    named: Any = named_class(target, Classifier, trusted)
    library = named.library if target.startswith("midre_exp.") else ""
    if not library:  # of a family: which one, only a member knows
        with torch.device("meta"):  # no memory is needed for that
            library = build(model, num_classes=2, kind=Classifier, trusted=trusted).library
    if not library:
        raise ConfigError(f"{target} has no ImageNet weights; set weights to a file or to null")
    return library_source(library)
