"""Target classifiers: images [n, 3, h, w] in [0, 1] in, ``Output`` out; one file and config each."""

from midre_exp.targets.base import Classifier, Output
from midre_exp.targets.factory import build_target
from midre_exp.targets.weights import load_checkpoint

__all__ = ["Classifier", "Output", "build_target", "load_checkpoint"]
