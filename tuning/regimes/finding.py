"""What a probe of scaling found of one experiment."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from raysim.simulation import Simulation
from tuning.regimes.fits import Fit
from tuning.regimes.theory import Theory


@dataclass
class Finding:
    """What was found of one experiment.

    Args:
        simulation: it.
        shares_N: training examples of every client; along clients, where they are the most.
        best: by value: step size, rounds to the target of each seed, and the metrics of those runs.
        edges: by value: "high" or "low" where the best step size is the last that was tried on that side.
        trials: runs that it took.
        fit: regimes; None with too few values at which the target was reached.
        theory: of the training data; None where there is none.
        noise: gradient noise scales along one run.
        no_noise: why there are none, where they were asked for.
    """

    simulation: Simulation
    shares_N: np.ndarray
    best: dict[int, tuple[float, np.ndarray, list[pd.DataFrame]]] = field(default_factory=dict)
    edges: dict[int, str] = field(default_factory=dict)
    trials: int = 0
    fit: Fit | None = None
    theory: Theory | None = None
    noise: np.ndarray = field(default_factory=lambda: np.empty(0))
    no_noise: str = ""
