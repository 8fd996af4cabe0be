"""Trained classifiers that travel alone: one safetensors file each, with a card inside; a folder of them is a
zoo. ``load_target("zoo/resnet18-midre-s0")`` makes a network of one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
