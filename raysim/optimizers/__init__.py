"""Optimisers and schedules; the same classes train clients (a row each) and the server's model (one row)."""

from raysim.optimizers.adagrad import Adagrad
from raysim.optimizers.adam import Adam, AdamW
from raysim.optimizers.armijo import Armijo
from raysim.optimizers.constants import Constants, estimate_constants, tangent_features
from raysim.optimizers.mass import MaSS
from raysim.optimizers.polyak import PolyakStep
from raysim.optimizers.schedules import Constant, Cosine, InverseSqrt, Step, WarmUp
from raysim.optimizers.sgd import SGD
from raysim.optimizers.yogi import Yogi

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "Armijo",
    "Constant",
    "Constants",
    "Cosine",
    "InverseSqrt",
    "MaSS",
    "PolyakStep",
    "Step",
    "WarmUp",
    "Yogi",
    "estimate_constants",
    "tangent_features",
]
