"""Target classifiers: images [n, 3, h, w] in [0, 1] in, ``Output`` out; one file and config each."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
