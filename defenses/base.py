"""What a defense derives from: the engine's contract, under the name that plugins import."""

from midre_exp.defense import (
    Batch,
    Classify,
    Companions,
    Defense,
    Informed,
    PictureView,
    Sampler,
    Trained,
    TrainingProgress,
)

__all__ = [
    "Batch",
    "Classify",
    "Companions",
    "Defense",
    "Informed",
    "PictureView",
    "Sampler",
    "Trained",
    "TrainingProgress",
]
