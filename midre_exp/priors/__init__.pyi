# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Prior as Prior
from .base import check_images as check_images
from .base import initial_prior as initial_prior
from .ddpm import DDPMPrior as DDPMPrior
from .diffusion.tuning import TargetTuning as TargetTuning
from .factory import build_network as build_network
from .factory import build_prior as build_prior
from .gmi import GMIPrior as GMIPrior
from .kedmi import KedMIPrior as KedMIPrior
from .lokt import TACGANPrior as TACGANPrior
from .plgmi import PLGMIPrior as PLGMIPrior
from .style_prior import StylePrior as StylePrior
from .stylegan2 import StyleGAN2Prior as StyleGAN2Prior
