"""All image operations, one class each; ``__init__.pyi`` lists them.

Fixed operations (``crop``, ``resize``) prepare images: on pictures while a dataset is decoded, and on float
batches between generator, target and evaluator. Random ones augment training batches (``flip``, ``shift``,
``random_crop``, ``colour``) or show an attack several views of a reconstruction (``view``).
Normalising is never among them: models normalise their own input.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
