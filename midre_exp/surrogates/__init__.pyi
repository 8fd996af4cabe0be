# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Surrogates as Surrogates
from .base import initial_surrogates as initial_surrogates
from .class_features import ClassFeatures as ClassFeatures
from .lokt import LoktSurrogates as LoktSurrogates
from .lomma import LommaSurrogates as LommaSurrogates
