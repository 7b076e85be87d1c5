"""Data sets: plug-ins whose ``load()`` gives the arrays of one set. Partitions are in ``.partitions``.

A new data set is one new file with a frozen dataclass and one line here.
"""

from raysim.data.arrays import Arrays
from raysim.data.decoupled import ComponentDecoupled
from raysim.data.digits import Digits
from raysim.data.gaussian import GaussianRegression
from raysim.data.logistic import Logistic
from raysim.data.npz import Npz
from raysim.data.quadratic import Quadratic
from raysim.data.sphere import UnitSphere
from raysim.data.teacher import Teacher
from raysim.data.text import Text
from raysim.data.vision import CIFAR10, CIFAR100, MNIST, FashionMNIST

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "MNIST",
    "Arrays",
    "ComponentDecoupled",
    "Digits",
    "FashionMNIST",
    "GaussianRegression",
    "Logistic",
    "Npz",
    "Quadratic",
    "Teacher",
    "Text",
    "UnitSphere",
]
