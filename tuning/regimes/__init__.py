"""Scaling regimes: where a larger batch, more clients or more local steps stop to help."""

from tuning.regimes.probe import Regimes, regimes

__all__ = ["Regimes", "regimes"]
