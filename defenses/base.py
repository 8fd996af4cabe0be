"""What a defense derives from: the engine's contract, under the name that plugins import."""

from midre_exp.defense import Batch, Defense, Informed, PictureView, Sampler, TrainingProgress

__all__ = ["Batch", "Defense", "Informed", "PictureView", "Sampler", "TrainingProgress"]
