"""Image sets. Images are uint8 in memory and float32 in [0, 1] wherever they cross a boundary."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
