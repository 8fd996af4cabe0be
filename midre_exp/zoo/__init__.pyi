# The package's public names, each with the module that holds it; loaded when first used.
from .files import read_card as read_card
from .load import load_prior as load_prior
from .load import load_target as load_target
