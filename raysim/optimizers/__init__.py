"""Optimisers and schedules; the same classes train clients (a row each) and the server's model (one row)."""

from raysim.optimizers.adagrad import Adagrad
from raysim.optimizers.adam import Adam, AdamW
from raysim.optimizers.schedules import Constant, Cosine, InverseSqrt, Step, WarmUp
from raysim.optimizers.sgd import SGD
from raysim.optimizers.yogi import Yogi

__all__ = ["SGD", "Adagrad", "Adam", "AdamW", "Constant", "Cosine", "InverseSqrt", "Step", "WarmUp", "Yogi"]
