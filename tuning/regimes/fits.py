"""Where more stops to help: critical sizes from measured costs, with confidence intervals.

The cost of reaching a target (iterations, or rounds) against a size m (batch size, clients, local steps) is fitted by

    one size:    log s(m) = c + log(1 + (m* - 1)/m)
    two sizes:   log s(m) = c + ½ log(1 + (m1* - 1)/m) + ½ log(1 + (m2* - 1)/m)

The second is what theory says of MaSS on least squares, s(m) ∝ √(κ_m κ̃_m) with m1* and m2* the smaller and the larger
of L1/L and κ̃; the first what it says of SGD, s(m) ∝ κ_m with m* = L1/L. On logarithmic axes the slope is -1 up to
the first critical size (linear scaling), -1/2 between two (diminishing returns), and 0 beyond the last (saturation).

Paper: Liu, Belkin, Accelerating SGD with momentum for over-parameterized learning, 2018 (ICLR 2020),
https://arxiv.org/abs/1810.13395
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from raysim.core.plugin import ConfigError

POINTS, ZOOMS = 161, 5
LOOSE = 0.2  # scatter of log s that curves of another shape have, where seeds do not account for more
BEYOND = 64.0  # how far above the largest size a critical size is looked for; what lies there is as good as infinite


@dataclass(frozen=True)
class Fit:
    """Critical sizes and what is known of them.

    Args:
        critical: m*, or m1* and m2*; 1 where even the first doubling gains nothing, ``inf`` where the end of the gain
            lies beyond what was measured.
        intervals: (low, high) of each.
        shape: the critical sizes of the curve that was fitted, all of them finite.
        scale: s(m) for m -> ∞.
        scatter: standard deviation of log s about the curve.
        limit: scatter up to which the measurements lie about the curve.
        level: confidence of the intervals.
        apart: whether the measurements tell two sizes apart; where they do not, both are the one that fits best.
    """

    critical: tuple[float, ...]
    intervals: tuple[tuple[float, float], ...]
    shape: tuple[float, ...]
    scale: float
    scatter: float
    limit: float
    level: float
    apart: bool = True

    @property
    def follows(self) -> bool:
        """Whether the measurements lie about the curve at all; where not, its critical sizes mean nothing."""
        return self.scatter <= self.limit

    def curve(self, m: np.ndarray | float) -> np.ndarray:
        """s(m), as fitted."""
        return self.scale * scaling(m, self.shape)

    def slope(self, m: float, to: float | None = None) -> float:
        """Slope of log s against log m at a size, or from one to another: -1 where linear, 0 at saturation."""
        to = m * 1.001 if to is None else to
        return float(np.log(self.curve(to) / self.curve(m)) / math.log(to / m))


def scaling(m: np.ndarray | float, critical: Sequence[float]) -> np.ndarray:
    """s(m) / s(∞) for one or two critical sizes: the geometric mean of 1 + (m* - 1)/m.

    Args:
        m: sizes, 1 or more.
        critical: critical sizes, 1 or more and finite.
    """
    m = np.asarray(m, np.float64)
    logs = [np.log1p((size - 1) / m) for size in critical]
    return np.exp(sum(logs) / len(logs))


def fit(m: Sequence[float], cost: Sequence[float | np.ndarray], sizes: int, level: float = 0.95) -> Fit:
    """Critical sizes by least squares on logarithms, with intervals by profile likelihood.

    An interval holds every value of its critical size whose best curve has at most 1 + F(1, K - p)/(K - p) times the
    squared residuals of the best of all, F being the quantile of that level, K sizes measured and p numbers fitted:
    the scatter about the curve, whether it comes from few seeds or from a curve of another shape, is taken from the
    measurements themselves. The cost of every size should be a mean over the same seeds.

    Measurements lie about the curve where their scatter is small, or what seeds make of it: up to the 95 % quantile of
    F(K - p, K (seeds - 1)) times the variance that the seeds give the mean.

    Two sizes are called apart where the curve with one size, used twice, is outside of what the F test at that level
    admits. Where they are not, ``critical`` repeats the one; the intervals are still those of the curve with two.

    Args:
        m: sizes, 1 or more, increasing.
        cost: cost of each, above 0, or those of its seeds; not finite where the target was not reached, which leaves
            the size out.
        sizes: 1 or 2.
        level: confidence, in (0, 1).

    Raises:
        ConfigError: too few measurements for a curve and its scatter.
    """
    kept = [(size, np.atleast_1d(c)) for size, c in zip(m, cost, strict=True) if np.isfinite(c).all()]
    x, y = np.array([size for size, _ in kept], np.float64), np.log([c.mean() for _, c in kept])
    freedom = len(x) - 1 - sizes
    if freedom < 1:
        raise ConfigError(
            f"A fit of {sizes} critical size{'s' * (sizes > 1)} needs at least {sizes + 2} sizes at which the target "
            f"was reached, got {len(x)}. Name more values, raise max_rounds, or choose an easier target."
        )
    top = x.max() * BEYOND
    axis = np.linspace(0, math.log(top), POINTS)
    best = _zoomed(x, y, sizes, axis)
    least = max(float(_squares(x, y, best)), 1e-16)
    admitted = least * (1 + float(stats.f.ppf(level, 1, freedom)) / freedom)
    apart, logs = True, best
    if sizes == 2:
        single = _zoomed(x, y, 1, axis).repeat(2)
        apart = bool(_squares(x, y, single) > admitted)
        logs = best if apart else single
    intervals = tuple(_interval(x, y, sizes, place, axis, best, admitted) for place in range(sizes))
    shape = tuple(float(size) for size in np.exp(logs))
    critical = tuple(_open(size, x) for size in shape)
    scale = math.exp(float(np.mean(y - _shape(x, logs))))
    scatter = math.sqrt(float(_squares(x, y, logs)) / freedom)
    limit = max(LOOSE, _by_seeds([c for _, c in kept], freedom))
    return Fit(critical, intervals, shape, scale, scatter, limit, level, apart)


def _by_seeds(costs: Sequence[np.ndarray], freedom: int) -> float:
    """Scatter of log s about the true curve that the seeds account for; 0 with one seed, which says nothing of it."""
    seeds = min(len(c) for c in costs)
    if seeds < 2:
        return 0.0
    variance = float(np.mean([np.log(c).var(ddof=1) for c in costs])) / seeds  # of the mean
    return math.sqrt(variance * float(stats.f.ppf(0.95, freedom, len(costs) * (seeds - 1))))


def _open(size: float, x: np.ndarray) -> float:
    """Infinite where it is the end of the search."""
    return math.inf if size > x.max() * BEYOND * 0.9 else size


def _shape(x: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """What log s(m) is up to c: logs [..., sizes] of critical sizes -> [..., K]."""
    return np.log1p(np.expm1(logs)[..., None] / x).mean(-2)


def _squares(x: np.ndarray, y: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Sum of squared residuals with the best c, for logs [..., sizes]."""
    residual = y - _shape(x, logs)
    return np.square(residual - residual.mean(-1, keepdims=True)).sum(-1)


def _zoomed(x: np.ndarray, y: np.ndarray, sizes: int, axis: np.ndarray) -> np.ndarray:
    """The best logs, increasing, on a grid that is refined around its best point."""
    axes, best = [axis] * sizes, np.zeros(sizes)
    for _ in range(ZOOMS):
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        squares = _squares(x, y, grid)
        best = grid[np.unravel_index(int(squares.argmin()), squares.shape)]
        steps = [a[1] - a[0] for a in axes]
        axes = [
            np.linspace(max(b - 2 * h, axis[0]), min(b + 2 * h, axis[-1]), 21)
            for b, h in zip(best, steps, strict=True)
        ]
    return np.sort(best)


def _interval(
    x: np.ndarray, y: np.ndarray, sizes: int, place: int, axis: np.ndarray, best: np.ndarray, admitted: float
) -> tuple[float, float]:
    """Least and largest value of one critical size whose best curve is admitted."""
    own = np.sort(np.append(axis, best[place]))
    if sizes == 1:
        squares = _squares(x, y, own[:, None])
    else:
        other = np.sort(np.append(axis, best[1 - place]))
        grid = np.stack(np.meshgrid(own, other, indexing="ij"), -1)
        squares = _squares(x, y, grid)
        wrong = grid[..., 0] > grid[..., 1] if place == 0 else grid[..., 0] < grid[..., 1]
        squares = np.where(wrong, math.inf, squares).min(1)
    inside = np.flatnonzero(squares <= admitted)
    low, high = (
        _crossing(own, squares, admitted, int(i), side) for i, side in ((inside[0], -1), (inside[-1], 1))
    )
    return float(np.exp(low)), _open(float(np.exp(high)), x)


def _crossing(own: np.ndarray, squares: np.ndarray, admitted: float, i: int, side: int) -> float:
    """Where the profile passes the admitted value, by a line between two points of the grid."""
    j = i + side
    if not 0 <= j < len(own) or not math.isfinite(squares[j]):
        return float(own[i])
    share = (admitted - squares[i]) / (squares[j] - squares[i])
    return float(own[i] + share * (own[j] - own[i]))
