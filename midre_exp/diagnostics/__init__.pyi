# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Diagnostic as Diagnostic
from .base import Finding as Finding
from .base import Subject as Subject
from .base import Work as Work
from .base import diagnose as diagnose
from .calibration import Calibration as Calibration
from .dependence import Dependence as Dependence
from .membership import MembershipInference as MembershipInference
from .robustness import AutoPGD as AutoPGD
from .robustness import RobustAccuracy as RobustAccuracy
