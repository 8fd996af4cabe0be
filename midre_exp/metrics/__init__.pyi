# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .accuracy import AttackAccuracy as AttackAccuracy
from .accuracy import Confidence as Confidence
from .distance import EvaluatorDistance as EvaluatorDistance
from .distance import KnnDistance as KnnDistance
from .evaluate import evaluate as evaluate
from .evaluate import hits_by_identity as hits_by_identity
from .face import VGGFACE2 as VGGFACE2
from .face import FaceDistance as FaceDistance
from .fid import EvaluatorFid as EvaluatorFid
from .fid import Fid as Fid
from .prdc import Prdc as Prdc
from .stages import StageAccuracy as StageAccuracy
