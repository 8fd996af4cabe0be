"""Distance between reconstructions and private images in FaceNet's embedding, which knows faces but not the
private identities.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import normalize

from midre_exp.data.transforms import Resize
from midre_exp.errors import CheckpointError
from midre_exp.memory.batches import AtOnce
from midre_exp.metrics.base import Evaluation, Unavailable
from midre_exp.metrics.distance import knn_distance
from midre_exp.metrics.extractors import Extractor
from midre_exp.numerics import Numerics
from midre_exp.targets.architectures.inception_resnet_v1 import InceptionResNetV1
from midre_exp.targets.predict import predict
from midre_exp.weights.published import note_weights
from midre_exp.weights.state_dict import load_backbone

#: What ``vggface2`` stands for: the release file of facenet-pytorch.
VGGFACE2 = "20180402-114759-vggface2.pt"
_SIZE = 160  # px
_BATCH = 256


@dataclass(kw_only=True, eq=False)
class FaceDistance:
    """``delta_face`` of PPA: mean over reconstructions of the smallest squared L2 distance to the private
    training images of the attacked identity, in the unit-length 512-d embedding of Inception-ResNet-v1 at 160
    px (0 to 4). Higher is safer.

    Images are resized (bilinear, antialiased) from the stored ones and from the evaluator's private images,
    in PPA's code directly from what generator and camera gave; normalised with 0.5 / 0.5 as there. Only for
    faces. Where the private images are VGGFace2 the weights have seen the very identities (S34, S35), and the
    number is not independent of them.
    """

    #: ``vggface2``: 20180402-114759-vggface2.pt in the folder ``checkpoints`` of torch's hub
    #: (``TORCH_HOME``), where it must be put by hand | the path of that file | None: not measured.
    weights: str | None

    def __call__(self, evaluation: Evaluation) -> dict[str, float]:
        """The distance. Raises Unavailable without weights, and when an attacked identity has no private
        image.
        """
        embed = self.embedder(evaluation.device, evaluation.numerics)
        fake = embed(evaluation.images)
        real = evaluation.shared.get(Extractor("face", self.weights))
        if real is None:  # they may be mapped from disk: a batch of them is in memory at a time
            parts = evaluation.private_rows.split(_BATCH)
            real = torch.cat([fake[:0], *(embed(evaluation.private_images[part]) for part in parts)])
        distance = knn_distance(
            normalize(fake, dim=1), evaluation.labels, normalize(real, dim=1), evaluation.private_labels
        )
        return {"delta_face": distance}

    def embedder(self, device: torch.device, numerics: Numerics) -> Callable[[Tensor], Tensor]:
        """From uint8 images [n, 3, h, w] to embeddings [n, 512] on the CPU, not normalised. Raises
        Unavailable as ``network``.
        """
        network, steps, at_once = self.network(), (Resize(size=_SIZE),), AtOnce(_BATCH)
        numerics.accelerate(network)
        return lambda images: predict(network, images, device, steps=steps, batch=at_once)[1]

    def network(self) -> InceptionResNetV1:
        """The network with its weights. Raises Unavailable when they are not chosen, missing or do not
        fit.
        """
        if self.weights is None:
            raise Unavailable(
                "no face weights are chosen; set metrics.measure.delta_face.weights (face_weights) to "
                "vggface2 or "
                f"to the path of {VGGFACE2}"
            )
        path = Path(self.weights)
        if self.weights == "vggface2":
            path = Path(torch.hub.get_dir()) / "checkpoints" / VGGFACE2
            if not path.exists():
                raise Unavailable(
                    f"{path} does not exist; put the release file of facenet-pytorch there or set "
                    "metrics.measure.delta_face.weights (face_weights) to its path"
                )
        network = InceptionResNetV1(num_classes=1, mean=0.5, std=0.5)  # the head plays no part
        try:
            load_backbone(network, str(path))
        except CheckpointError as error:
            raise Unavailable(f"no face weights: {error}") from error
        if self.weights == "vggface2":  # a name, which tells nothing of the file's content
            note_weights("vggface2", weights=VGGFACE2, source="facenet-pytorch", path=path)
        return network.eval()
