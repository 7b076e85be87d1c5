"""Probes: numbers measured on demand. Adding one: a file here and its name below."""

from raysim.core.interfaces import Probe
from raysim.probes.consensus import Consensus
from raysim.probes.deviation import GradientDeviation
from raysim.probes.drift import Drift
from raysim.probes.variance import GradientVariance

__all__ = ["Consensus", "Drift", "GradientDeviation", "GradientVariance", "Probe"]
