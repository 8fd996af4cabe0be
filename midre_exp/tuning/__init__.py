"""A prior tuned on an attack's own best reconstructions (PPDG-MI): how, and the attack that follows."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
