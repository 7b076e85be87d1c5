"""Topologies: who talks to whom. Adding one: a file here and its name below."""

from raysim.core.interfaces import Topology
from raysim.topologies.complete import Complete
from raysim.topologies.explicit import ExplicitMixing
from raysim.topologies.exponential import OnePeerExponential, StaticExponential
from raysim.topologies.grid import Grid, Torus
from raysim.topologies.random_graphs import ErdosRenyi, RandomRegular
from raysim.topologies.ring import OneSidedRing, Ring
from raysim.topologies.spectrum import beta, spectral_gap
from raysim.topologies.star import Star

__all__ = [
    "Complete",
    "ErdosRenyi",
    "ExplicitMixing",
    "Grid",
    "OnePeerExponential",
    "OneSidedRing",
    "RandomRegular",
    "Ring",
    "Star",
    "StaticExponential",
    "Topology",
    "Torus",
    "beta",
    "spectral_gap",
]
