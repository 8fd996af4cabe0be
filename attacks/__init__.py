"""Attacks: one file per method; losses in ``losses``, what several share in ``parts``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
