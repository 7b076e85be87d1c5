"""Aggregation rules. Adding one: a file here and its name below."""

from raysim.core.interfaces import Rule
from raysim.rules.alignment import FedGA, GradAlign, SequentialGradAlign
from raysim.rules.averaging import Averaging
from raysim.rules.choco import ChocoSGD
from raysim.rules.diffusion import ExactDiffusion
from raysim.rules.diloco import DiLoCo
from raysim.rules.elastic import EAMSGD, EASGD, Downpour
from raysim.rules.feddyn import FedDyn
from raysim.rules.fednova import FedNova
from raysim.rules.fedprox import FedProx
from raysim.rules.gossip import Gossip, GossipAGA
from raysim.rules.leader import Leader
from raysim.rules.majority import MajorityVote
from raysim.rules.mime import MimeLite
from raysim.rules.robust import Robust
from raysim.rules.scaffold import Scaffold
from raysim.rules.shared_step import SharedStep
from raysim.rules.slowmo import SlowMo
from raysim.rules.tracking import GradientTracking

__all__ = [
    "EAMSGD",
    "EASGD",
    "Averaging",
    "ChocoSGD",
    "DiLoCo",
    "Downpour",
    "ExactDiffusion",
    "FedDyn",
    "FedGA",
    "FedNova",
    "FedProx",
    "Gossip",
    "GossipAGA",
    "GradAlign",
    "GradientTracking",
    "Leader",
    "MajorityVote",
    "MimeLite",
    "Robust",
    "Rule",
    "Scaffold",
    "SequentialGradAlign",
    "SharedStep",
    "SlowMo",
]
