# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Attack as Attack
from .brepmi import BREPMI as BREPMI
from .gmi import GMI as GMI
from .ifgmi import IFGMI as IFGMI
from .kedmi import KedMI as KedMI
from .lomma import LogitLoss as LogitLoss
from .losses import max_margin_identity as max_margin_identity
from .mirror import Mirror as Mirror
from .mirror_genetic import MirrorGenetic as MirrorGenetic
from .parts.final_selection import FinalSelection as FinalSelection
from .parts.identity_losses import CrossEntropy as CrossEntropy
from .parts.identity_losses import Poincare as Poincare
from .parts.initial_selection import InitialSelection as InitialSelection
from .parts.p_space import Energy as Energy
from .parts.p_space import NaiveBox as NaiveBox
from .parts.p_space import NormalBox as NormalBox
from .parts.p_space import PercentileBox as PercentileBox
from .parts.p_space import PSpaceBox as PSpaceBox
from .parts.random_crops import RandomCrop as RandomCrop
from .parts.sac import SAC as SAC
from .plgmi import PLGMI as PLGMI
from .plgmi import MaxMargin as MaxMargin
from .ppa import PPA as PPA
from .rlbmi import RLBMI as RLBMI
