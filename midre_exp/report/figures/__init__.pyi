# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .attackers import Attackers as Attackers
from .bars import Bars as Bars
from .curves import Curves as Curves
from .diagnostics import RobustCurves as RobustCurves
from .feature_hulls import IdentityHulls as IdentityHulls
from .feature_hulls import ReconstructionHulls as ReconstructionHulls
from .frontier import Frontier as Frontier
from .grid import Grid as Grid
from .leakage import Leakage as Leakage
from .lengths import Lengths as Lengths
from .scatter import Scatter as Scatter
