# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Prior as Prior
from .base import initial_prior as initial_prior
from .gmi import GMIPrior as GMIPrior
from .kedmi import KedMIPrior as KedMIPrior
from .networks import build_network as build_network
from .plgmi import PLGMIPrior as PLGMIPrior
from .stylegan2 import StyleGAN2Prior as StyleGAN2Prior
