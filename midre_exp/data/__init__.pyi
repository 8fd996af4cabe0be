# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from .base import Dataset as Dataset
from .base import ImageSet as ImageSet
from .base import Part as Part
from .base import Role as Role
from .base import to_float as to_float
from .readers.afhq import AFHQDogs as AFHQDogs
from .readers.any_pictures import AnyPictures as AnyPictures
from .readers.celeba import CelebA as CelebA
from .readers.facescrub import FaceScrub as FaceScrub
from .readers.ffhq import FFHQ as FFHQ
from .readers.folder import FaceFolder as FaceFolder
from .readers.lfw import LFW as LFW
from .readers.stanford_dogs import StanfordDogs as StanfordDogs
from .readers.vggface2 import VGGFace2 as VGGFace2
from .synthetic.synthfaces import SynthFaces as SynthFaces
