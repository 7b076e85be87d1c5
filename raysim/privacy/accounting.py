"""What a mechanism's releases have cost so far: a ledger in the server's state, and the epsilon that follows from it.

Two data sets are neighbours if one client's data are replaced by any other (replace-one); who the clients are, and how
many, is public. A release of noise multiplier σ adds N(0, (σ Δ)²) to a sum that changes by at most Δ between
neighbours. Releases on the same cohort are one: 1/σ² adds up. Its Rényi divergence of order α is α / (2σ²), a client
that is not in the cohort loses nothing, and over rounds divergences add up. That holds whoever sees which clients took
part, so the ledger keeps ρ = Σ 1/(2σ²) for every client.

Where nobody can tell who took part, and a uniformly drawn cohort of m out of N hides it, a round costs less
(amplification: Wang, Balle, Kasiviswanathan, Subsampled Rényi Differential Privacy and Analytical Moments Accountant,
2019, https://arxiv.org/abs/1808.00087, as dp-accounting computes it). The ledger counts such rounds by (σ, m, N). The
bound may exceed that of a round in which everybody takes part, which holds as well, for the Rényi divergence of
mixtures is at most the largest among their parts: so each order takes the smaller.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

PUBLIC, HIDDEN = "rho", "hidden"  # entries of the state: ρ by client, and rounds whose cohorts nobody sees


def spend(state: MutableMapping[str, Tensor], sigma: float, ids_C: np.ndarray, clients: int) -> None:
    """A release of noise multiplier ``sigma`` on clients whom everybody may know."""
    rho_N = state.get(PUBLIC, torch.zeros(clients, dtype=torch.float64)).clone()
    rho_N[torch.from_numpy(ids_C)] += 1 / (2 * sigma**2)
    state[PUBLIC] = rho_N


def spend_hidden(state: MutableMapping[str, Tensor], sigma: float, cohort: int, clients: int) -> None:
    """A release of noise multiplier ``sigma`` on a cohort drawn out of all clients, which nobody sees."""
    kind = torch.tensor([sigma, cohort, clients, 0], dtype=torch.float64)
    table_K4 = state.get(HIDDEN, kind.unsqueeze(0)).clone()
    same_K = (table_K4[:, :3] == kind[:3]).all(1)
    if not same_K.any():
        table_K4, same_K = torch.cat([table_K4, kind.unsqueeze(0)]), torch.cat([same_K, torch.tensor([True])])
    table_K4[same_K, 3] += 1
    state[HIDDEN] = table_K4


def epsilon(state: Mapping[str, Tensor], delta: float) -> float | None:
    """ε for δ = ``delta`` of the client that lost most; None where there is no package to compute it."""
    package = accounting()
    if package is None:
        return None
    rho = float(state[PUBLIC].max()) if PUBLIC in state else 0.0
    orders = _orders()
    rdp = rho * orders
    for sigma, cohort, clients, times in state[HIDDEN].tolist() if HIDDEN in state else ():
        rdp = rdp + times * hidden_round(sigma, int(cohort), int(clients))
    return float(package.rdp.compute_epsilon(orders, rdp, delta)[0])


def accounting() -> Any:
    """The package dp-accounting, or None."""
    try:
        return importlib.import_module("dp_accounting")
    except ImportError:
        return None


@functools.lru_cache(maxsize=1)
def _orders() -> np.ndarray:
    return accounting().rdp.RdpAccountant().orders


@functools.lru_cache(maxsize=64)
def hidden_round(sigma: float, cohort: int, clients: int) -> np.ndarray:
    """Rényi divergence of each order that a round with a hidden cohort costs."""
    dp = accounting()
    release = dp.GaussianDpEvent(sigma)
    events = [release, dp.SampledWithoutReplacementDpEvent(clients, cohort, release)]
    relation = dp.NeighboringRelation.REPLACE_ONE
    found = [dp.rdp.RdpAccountant(neighboring_relation=relation).compose(event).rdp for event in events]
    return np.minimum(*found)


def together(*sigma: float) -> float:
    """Noise multiplier of one release that costs as much as all these on the same cohort."""
    return 1 / math.sqrt(math.fsum(1 / s**2 for s in sigma))
