# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .augment import HorizontalFlip as HorizontalFlip
from .augment import RandomResizedCrop as RandomResizedCrop
from .augment import RandomShift as RandomShift
from .jitter import ColorJitter as ColorJitter
from .steps import AlignedResize as AlignedResize
from .steps import CenterCrop as CenterCrop
from .steps import EightBitResize as EightBitResize
from .steps import Resize as Resize
