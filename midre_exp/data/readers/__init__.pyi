# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .picture import CentreCrop as CentreCrop
from .picture import Crop as Crop
from .picture import Resize as Resize
from .picture import ResizeAndCentre as ResizeAndCentre
from .picture import ResizeShorter as ResizeShorter
