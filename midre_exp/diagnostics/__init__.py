"""What a trained target is like, whoever attacks it: numbers that say why a defense works."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
