"""Aggregators: one row from many, some of which may be lies. Adding one: a file here and its name below."""

from raysim.aggregators.bucketing import Bucketing
from raysim.aggregators.clipping import CenteredClipping
from raysim.aggregators.geometric import GeometricMedian
from raysim.aggregators.krum import Krum
from raysim.aggregators.mean import Mean
from raysim.aggregators.median import Median
from raysim.aggregators.trimmed import TrimmedMean
from raysim.core.interfaces import Aggregator

__all__ = [
    "Aggregator",
    "Bucketing",
    "CenteredClipping",
    "GeometricMedian",
    "Krum",
    "Mean",
    "Median",
    "TrimmedMean",
]
