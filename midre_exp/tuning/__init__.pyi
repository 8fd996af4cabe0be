# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Tuning as Tuning
from .base import build_tuning as build_tuning
from .gan import GanTuning as GanTuning
from .style import StyleTuning as StyleTuning
