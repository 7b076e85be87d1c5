"""Attacks: what hostile clients send, or learn from. Adding one: a file here and its name below."""

from raysim.attacks.alie import LittleIsEnough
from raysim.attacks.flips import LabelFlip, SignFlip
from raysim.attacks.ipm import InnerProduct
from raysim.attacks.mimic import Mimic
from raysim.attacks.noise import Noise
from raysim.attacks.scale import Scale
from raysim.core.transforms import Attack

__all__ = ["Attack", "InnerProduct", "LabelFlip", "LittleIsEnough", "Mimic", "Noise", "Scale", "SignFlip"]
