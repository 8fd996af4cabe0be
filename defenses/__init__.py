"""Defenses: one class per file, losses and kernels beside it as pure functions. ``compose`` makes several
into one.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
