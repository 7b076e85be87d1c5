"""Choosing hyper-parameters: sweeps over fields of an experiment, and where more batch or more clients stop helping."""

from tuning.regimes import Regimes
from tuning.sweep import Sweep, sweep

__all__ = ["Regimes", "Sweep", "sweep"]
