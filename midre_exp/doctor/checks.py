"""What one run needs and whether it is here: data, weights, GPU, memory, disk. Looks, and changes nothing;
told by `midre_exp.doctor.__main__`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from midre_exp.doctor import requirements as needs
from midre_exp.doctor.environment import main_memory
from midre_exp.errors import ConfigError, UserError
from midre_exp.plan.config import build, digest
from midre_exp.plan.keys import is_pretrained, nodes_of, reads_public
from midre_exp.store.artifact import readable


@dataclass(frozen=True)
class Finding:
    """Something missing (``blocks``: the run would fail, or take forever), or worth knowing. ``name`` is for
    a table, ``text`` one sentence or more with the remedy.
    """

    blocks: bool
    name: str
    text: str


class Checkup:
    """Checks many runs on one machine; what several of them share is looked at once."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = {}

    def findings(self, settings: Mapping[str, Any]) -> list[Finding]:
        """What a run with these resolved settings lacks here. Never raises: what cannot be checked is a
        finding too.
        """
        found: dict[Finding, None] = {}
        for check in (
            self._data,
            self._weights,
            self._prior,
            self._metrics,
            self._device,
            self._memory,
            self._disk,
        ):
            try:
                found.update(dict.fromkeys(check(settings)))
            except UserError as error:
                found[Finding(True, "config", str(error))] = None
            except Exception as error:
                what = f"the check of {check.__name__.strip('_')} failed with {type(error).__name__}: {error}"
                found[
                    Finding(True, "check failed", f"{what}; try the run itself, and report this as a bug")
                ] = None
        return list(found)

    def _once(self, key: object, look: Callable[[], Any]) -> Any:
        name = digest(key)
        if name not in self._known:
            self._known[name] = look()
        return self._known[name]

    def _datasets(
        self, settings: Mapping[str, Any]
    ) -> Iterator[tuple[str, int, int | None, UserError | None]]:
        """Title, pixels, number of images and what is wrong of each dataset the run reads."""
        private, public, judged = nodes_of(settings["data"])
        trusted = settings["runtime"]["trusted_packages"]

        def look(node: Mapping[str, Any], role: Any) -> tuple[str, int, int | None, UserError | None]:
            title, size = str(node["_target_"]).rpartition(".")[2], int(node["size"])
            try:
                dataset = self._dataset(node, trusted)
                title = getattr(dataset, "title", title)
                return title, size, dataset.count_images(role), None
            except UserError as error:
                return title, size, needs.COUNTS.get((title, role)), error

        yield self._once(["data", private, "private"], lambda: look(private, "private"))
        yield self._once(["data", judged, "private"], lambda: look(judged, "private"))
        if reads_public(settings["attack"]):
            yield self._once(["data", public, "public"], lambda: look(public, "public"))

    def _data(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        for title, _, _, error in self._datasets(settings):
            if error is not None:
                yield Finding(True, f"{title} data", str(error))
        yield from self._people(settings)

    def _dataset(self, node: Mapping[str, Any], trusted: list[str]) -> Any:
        """The dataset of a node, made once, because it remembers what it has listed."""
        return self._once(["dataset", node], lambda: build(node, trusted=trusted))

    def _people(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        """More people to attack than there are."""
        private = nodes_of(settings["data"])[0]
        trusted, wanted = settings["runtime"]["trusted_packages"], settings["attack"]["identities"]
        try:
            people = self._once(["people", private], self._dataset(private, trusted).num_identities)
        except UserError:  # told already
            return
        if people is not None and wanted > people:
            text = f"attack.identities={wanted} exceeds the {people} private identities of the data; use {people} or fewer"
            yield Finding(True, "identities", text)

    def _weights(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        for part in ("target", "evaluator"):
            node = settings[part]
            if node["checkpoint"] is not None:
                yield from _file(node["checkpoint"], f"{part}.checkpoint")
            elif node["weights"] == "imagenet":
                yield from self._library(node["model"], settings["runtime"]["trusted_packages"])
            elif node["weights"] is not None:
                yield from _file(node["weights"], f"{part}.weights")

    def _library(self, model: Mapping[str, Any], trusted: list[str]) -> Iterator[Finding]:
        """Public ImageNet weights that are not here yet."""

        def look() -> Any:
            import torch
            from hydra.utils import get_class

            from midre_exp.weights.published import library_source

            target = str(model["_target_"])
            library = getattr(get_class(target), "library", "") if target.startswith("midre_exp.") else ""
            if not library:  # of a family: which one, only a member knows
                with torch.device("meta"):  # no memory is needed for that
                    library = build(model, num_classes=2, trusted=trusted).library
            if not library:
                raise ConfigError(f"{target} has no ImageNet weights; set weights to a file or to null")
            return library_source(library)

        source = self._once(["library", model], look)
        if source.path is None:
            yield Finding(
                False,
                "download",
                f"{source.source if source.file in source.source else f'{source.file} of {source.source} (Hugging Face hub)'} will be "
                f"fetched into {source.folder} when first needed; without internet access put it there before",
            )

    def _prior(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        prior = settings["attack"]["prior"]
        named = prior.get("pretrained")
        if is_pretrained(prior):
            for path in named.values() if isinstance(named, Mapping) else [named]:
                if path is not None:
                    yield from _file(path, "attack.prior.pretrained")
        elif prior["name"] == "stylegan2":
            large = int(prior["image_size"]) >= 512
            size, images = prior["image_size"], int(prior["steps"]) * int(prior["batch_size"])
            effort = ", days of eight GPUs, and" if large else ";"
            yield Finding(
                large,
                "StyleGAN2 weights",
                f"attack.prior.pretrained is null, so StyleGAN2 at {size} px would be trained from scratch on {images:,} images{effort} "
                "reads the public data; give attack.prior.pretrained=PATH of published weights (ffhq.pkl, afhqdog.pkl), which need neither",
            )

    def _metrics(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        """Weights of networks that metrics look through; without them a metric is reported as missing, the
        run goes on.
        """
        for name, metric in settings["metrics"]["measure"].items():
            weights = (metric or {}).get("weights", ...)
            if weights is None:
                key = "face_weights" if "face" in name else "inception_weights"
                yield Finding(
                    False, f"no {name}", f"{name} will be reported as not measured; set {key} to measure it"
                )
            elif weights == "imagenet":
                node = {
                    "_target_": "midre_exp.targets.InceptionV3",
                    "auxiliary": False,
                    "transform_input": False,
                }
                yield from self._library(node, [])
            elif weights == "vggface2":
                import torch

                from midre_exp.metrics.face import VGGFACE2

                path = Path(torch.hub.get_dir()) / "checkpoints" / VGGFACE2
                if not path.exists():
                    yield Finding(
                        False,
                        f"no {name}",
                        f"{name} will be reported as not measured: {path} does not exist; put the release file of facenet-pytorch there "
                        "or set face_weights to its path",
                    )
            elif weights is not ...:
                yield from _file(weights, f"metrics.measure.{name}.weights", blocks=False)

    def _device(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        import torch

        from midre_exp.runtime import choose_device
        from midre_exp.speed import make_speed

        try:
            device = choose_device(settings["runtime"]["device"])
            make_speed(settings["speed"], device)
        except ConfigError as error:
            yield Finding(True, "device", str(error))
            return
        if device.type != "cuda":
            if settings["scale"] == "mini":
                return
            cluster, chosen = shutil.which("sbatch") is not None, settings["runtime"]["device"] == "cpu"
            yield Finding(
                not (cluster or chosen),
                "no GPU",
                f"torch sees no GPU here, and at scale {settings['scale']} a run takes weeks on a CPU; "
                + (
                    "ask again inside a job of your cluster (srun ... make doctor)"
                    if cluster
                    else "use a machine with an NVIDIA GPU, or scale=mini; runtime.device=cpu if you mean it"
                ),
            )
            return
        free, total = torch.cuda.mem_get_info(device)
        resolution = int(settings["resolution"])
        wanted = {
            f"training {settings['target']['name']}": needs.training_memory(settings["target"], resolution),
            f"training {settings['evaluator']['name']}": needs.training_memory(
                settings["evaluator"], int(settings["evaluator"]["resolution"])
            ),
            "the attack": needs.attack_memory(settings["attack"]),
        }
        for what, amount in wanted.items():
            if amount is not None and amount > free:
                yield Finding(
                    amount > total,
                    "GPU memory",
                    f"{what} takes about {readable(int(amount))} of GPU memory (estimate) and {readable(free)} of {readable(total)} are "
                    "free; use a larger GPU, or a smaller target.recipe.batch_size, which changes the training",
                )

    def _memory(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        wanted = needs.host_memory(settings["attack"], int(settings["resolution"]))
        total = main_memory()
        if total is not None and wanted > total:
            remedy = "attack.keep_stages=false, " if settings["attack"].get("keep_stages") else ""
            yield Finding(
                True,
                "memory",
                f"the reconstructions of attack={settings['attack']['name']} take about {readable(int(wanted))} of main memory when they "
                f"are put together and this machine has {readable(total)}; use {remedy}fewer attack.restarts or a machine with more",
            )

    def _disk(self, settings: Mapping[str, Any]) -> Iterator[Finding]:
        for name in ("store", "runs", "results"):
            place = _existing(Path(settings["paths"][name]))
            if not os.access(place, os.W_OK):
                yield Finding(
                    True,
                    "no write access",
                    f"{place} cannot be written; set paths.{name} to a folder you can write",
                )
        store = Path(settings["paths"]["store"]).expanduser()
        decoded = self._once(["decoded", str(store)], lambda: _size_of_decoded(store))
        kept = [title for title, *_ in self._datasets(settings) if title != "SynthFaces"]
        images = sum(
            needs.image_bytes(count, size)
            for title, size, count, _ in self._datasets(settings)
            if count and title in kept
        )
        wanted = needs.result_bytes(settings["attack"], int(settings["resolution"])) + max(
            0, images - decoded
        )
        free = shutil.disk_usage(_existing(store)).free
        if wanted > free:
            yield Finding(
                True,
                "disk space",
                f"the run takes about {readable(int(wanted))} of disk (estimate: {readable(images)} of decoded images, of which "
                f"{readable(min(images, decoded))} may be there, the rest networks and reconstructions) and {readable(free)} are free in "
                f"{_existing(store)}; free space or set paths.store to another disk",
            )


def _file(path: Any, key: str, *, blocks: bool = True) -> Iterator[Finding]:
    """A weight file that is named but not there."""
    file = Path(str(path)).expanduser()
    if not file.is_file() or file.stat().st_size == 0:
        state = "is empty" if file.is_file() else "does not exist"
        yield Finding(blocks, f"{key} file", f"{key}={path} {state}; put the file there or correct the path")


def _existing(path: Path) -> Path:
    """The path itself, or the nearest folder above it that exists."""
    path = path.expanduser().absolute()
    return next(place for place in (path, *path.parents) if place.exists())


def _size_of_decoded(store: Path) -> int:
    """Bytes of the decoded images in a store."""
    return sum(file.stat().st_size for file in store.glob("images/*/pixels.u8"))
