"""Compressors: what a client sends in place of a row. Adding one: a file here and its name below."""

from raysim.compressors.dp_sign import DPSign
from raysim.compressors.feedback import Feedback
from raysim.compressors.momentum import MomentumCorrection
from raysim.compressors.natural import Natural
from raysim.compressors.powersgd import PowerSGD
from raysim.compressors.qsgd import QSGD
from raysim.compressors.randomk import RandomK
from raysim.compressors.sign import Sign
from raysim.compressors.stochastic_sign import StochasticSign
from raysim.compressors.ternary import Ternary
from raysim.compressors.topk import TopK
from raysim.core.transforms import Compressor

__all__ = [
    "QSGD",
    "Compressor",
    "DPSign",
    "Feedback",
    "MomentumCorrection",
    "Natural",
    "PowerSGD",
    "RandomK",
    "Sign",
    "StochasticSign",
    "Ternary",
    "TopK",
]
