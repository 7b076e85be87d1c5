"""Networks by name, built to fit the data's input shape and number of outputs."""

from raysim.models.charlm import CharGRU, CharLSTM
from raysim.models.cnn import CNN, FedCNN
from raysim.models.custom import Custom
from raysim.models.densenet import DenseNet121
from raysim.models.linear import Linear
from raysim.models.mlp import MLP
from raysim.models.resnet import ResNet
from raysim.models.theory import DeepReLU, TwoLayer

__all__ = [
    "CNN",
    "MLP",
    "CharGRU",
    "CharLSTM",
    "Custom",
    "DeepReLU",
    "DenseNet121",
    "FedCNN",
    "Linear",
    "ResNet",
    "TwoLayer",
]
