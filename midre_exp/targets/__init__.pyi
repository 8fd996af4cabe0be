# The package's public names, each with the module that holds it; loaded when first used.
# These names, not the modules, stand in configs and keys.
from . import assemble as assemble
from . import chance as chance
from .architectures.densenet import DenseNet as DenseNet
from .architectures.evolve import IR as IR
from .architectures.evolve import FaceNet112 as FaceNet112
from .architectures.inception_resnet_v1 import InceptionResNetV1 as InceptionResNetV1
from .architectures.inception_v3 import InceptionV3 as InceptionV3
from .architectures.maxvit import MaxViT as MaxViT
from .architectures.resnest import ResNeSt as ResNeSt
from .architectures.resnet import ResNet as ResNet
from .architectures.vgg import VGG16 as VGG16
from .architectures.vggface_resnet50 import VGGFaceResNet50 as VGGFaceResNet50
from .architectures.wrapped import FactoryNetwork as FactoryNetwork
from .architectures.wrapped import TimmNetwork as TimmNetwork
from .architectures.wrapped import TorchvisionNetwork as TorchvisionNetwork
from .base import Classifier as Classifier
from .base import Output as Output
from .factory import build_target as build_target
from .factory import load_checkpoint as load_checkpoint
from .training.label_order import likely_order as likely_order
from .training.published import published_classifier as published_classifier
from .training.schedule import learning_rates as learning_rates
from .training.train import checked_recipe as checked_recipe
from .training.train import train_classifier as train_classifier
