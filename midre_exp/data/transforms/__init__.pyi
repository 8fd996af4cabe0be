# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Augmentation as Augmentation
from .base import Transform as Transform
from .base import View as View
from .colour import ColorJitter as ColorJitter
from .crop import CenterCrop as CenterCrop
from .crop import Crop as Crop
from .flip import HorizontalFlip as HorizontalFlip
from .random_crop import RandomResizedCrop as RandomResizedCrop
from .resize import AlignedResize as AlignedResize
from .resize import EightBitResize as EightBitResize
from .resize import Resize as Resize
from .resize import ResizeShorterSide as ResizeShorterSide
from .shift import RandomShift as RandomShift
from .view import RandomView as RandomView
