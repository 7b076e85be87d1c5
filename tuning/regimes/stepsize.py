"""The best step size for one experiment: the one that reaches a target first, on average over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from raysim.core.plugin import ConfigError, Count, Plugin, Positive
from raysim.report.tables import diverged
from raysim.report.units import higher_is_better
from raysim.simulation import Simulation

EXTENSIONS = 6
SOME = 0.01  # of the way to the target: what a run must make in its second half to be worth more rounds
Make = Callable[[float, int, int], Simulation]
"""(step size, seed, rounds) -> the experiment."""


@dataclass(frozen=True)
class Grid(Plugin):
    """Step sizes to try around a guess.

    Args:
        log_grid: (low, high, n): n step sizes, evenly spaced in logarithms, from low times the guess to high times.
    """

    log_grid: tuple[Positive, Positive, Count] = (0.25, 4.0, 7)

    def check(self) -> None:
        """At least two step sizes, rising."""
        low, high, n = self.log_grid
        if not (low < high and n >= 2):
            raise ConfigError(
                f"log_grid is (low, high, n) with low < high and n of 2 or more, got {list(self.log_grid)}. Write "
                "steps: {log_grid: [0.25, 4, 7]}."
            )

    @property
    def ratio(self) -> float:
        """From one step size to the next."""
        low, high, n = self.log_grid
        return (high / low) ** (1 / (n - 1))

    def around(self, guess: float) -> list[float]:
        """The step sizes."""
        return [float(guess * self.log_grid[0] * self.ratio**i) for i in range(self.log_grid[2])]

    def beyond(self, rates: Sequence[float], up: bool) -> list[float]:
        """Half as many again, beyond the largest or the smallest."""
        more = range(1, -(-self.log_grid[2] // 2) + 1)
        return [max(rates) * self.ratio**i if up else min(rates) / self.ratio**i for i in more]


@dataclass(frozen=True)
class Goal:
    """What is to be reached.

    Args:
        metric: column of the metrics; accuracies rise to the target, everything else falls.
        target: the value.
    """

    metric: str
    target: float

    def falling(self, table: pd.DataFrame) -> tuple[np.ndarray, float]:
        """The metric and its target, with the sign that makes less better.

        Raises:
            ConfigError: there is no such column.
        """
        if self.metric not in table:
            known = ", ".join(str(c) for c in table.columns)
            raise ConfigError(f"The metrics have no column {self.metric!r} for a target. Known: {known}.")
        sign = -1 if higher_is_better(self.metric) else 1
        return sign * table[self.metric].to_numpy(np.float64), sign * self.target

    def improving(self, table: pd.DataFrame) -> bool:
        """Whether the second half of a run brought it nearer to the target."""
        value, target = self.falling(table)
        half = max(1, len(value) // 2)
        before, after = value[:half].min(), value[half:].min()
        return bool(before - after > SOME * (before - target))

    def rounds(self, table: pd.DataFrame) -> float:
        """Rounds until the target was first reached, between two evaluations by interpolation; infinite if never.

        Losses are interpolated in logarithms, as they fall by factors.

        Raises:
            ConfigError: there is no such column, or the target is reached before the first round.
        """
        value, target = self.falling(table)
        hit = np.flatnonzero(value <= target)
        if not len(hit):
            return math.inf
        i, rounds = int(hit[0]), table["round"].to_numpy(np.float64)
        if rounds[i] == 0:
            raise ConfigError(
                f"The target {self.metric} {self.target:g} is reached before training starts ({abs(value[0]):.4g} "
                "at the initial model). Choose a harder one."
            )
        before, here = value[i - 1], value[i]
        if i == 0 or not math.isfinite(before):
            return float(rounds[i])
        if target > 0 and here > 0:
            before, here, target = math.log(before), math.log(here), math.log(target)
        return float(rounds[i - 1] + (rounds[i] - rounds[i - 1]) * (before - target) / (before - here))


@dataclass
class Search:
    """Step sizes tried, and the best of them.

    Args:
        make: experiment of a step size, a seed and a number of rounds.
        goal: the target.
        seeds: of the runs of each step size.
        grid: of step sizes.
        limit: rounds at most.
        run_all: gives the metrics of experiments, in their order.
        tell: called with a line as things happen.
    """

    make: Make
    goal: Goal
    seeds: Sequence[int]
    grid: Grid
    limit: int
    run_all: Callable[[Sequence[Simulation]], list[pd.DataFrame]]
    tell: Callable[[str], object] | None = None
    rounds: dict[float, np.ndarray] = field(default_factory=dict)  # to the target, of each seed
    tables: dict[float, list[pd.DataFrame]] = field(default_factory=dict)
    trials: int = 0
    edge: str | None = None  # "high" or "low" where the best is the last that was tried on that side

    def run(self, guess: float, horizon: int) -> float | None:
        """The best step size; None if none reaches the target with every seed within ``limit`` rounds.

        Where the best so far lies at an end of those tried, more are tried beyond it, a few times at most. Step sizes
        that may still become the best are run for twice as many rounds, and so on up to the limit.

        Args:
            guess: in the middle of the first step sizes.
            horizon: rounds to try first.
        """
        extended, horizon = 0, min(horizon, self.limit)
        self._try(self.grid.around(guess), horizon)
        while True:
            best = self.best()
            open_ = [rate for rate in self.rounds if self._open(rate, best, horizon)]
            self.edge = self._edge(best, bool(open_))
            if self.edge and extended < EXTENSIONS:
                extended += 1
                self._try(self.grid.beyond(list(self.rounds), self.edge == "high"), horizon)
            elif open_ and horizon < self.limit:
                horizon = min(2 * horizon, self.limit)
                self._try(open_, horizon)
            else:
                return best

    def best(self) -> float | None:
        """The step size with the fewest rounds on average, of those that reach the target with every seed."""
        means = {rate: float(rounds.mean()) for rate, rounds in self.rounds.items()}
        best = min(means, key=lambda rate: means[rate])
        return best if math.isfinite(means[best]) else None

    def _edge(self, best: float | None, promising: bool) -> str | None:
        """The end beyond which a better step size may lie; nearest to the target counts while none has reached it."""
        rates = sorted(self.rounds)
        at = rates.index(min(rates, key=self._last) if best is None else best)
        if best is None and not promising:  # nothing to see between the ends
            return "low" if at < len(rates) / 2 else "high"
        return "low" if at == 0 else "high" if at == len(rates) - 1 else None

    def _last(self, rate: float) -> float:
        """The metric at the end of the runs, less being better; infinite where one diverged."""
        last = float(np.mean([self.goal.falling(table)[0][-1] for table in self.tables[rate]]))
        return last if math.isfinite(last) else math.inf

    def _open(self, rate: float, best: float | None, horizon: int) -> bool:
        """Whether more rounds may make a step size the best: its other seeds are on their way, and not too late."""
        rounds = self.rounds[rate]
        late = [t for r, t in zip(rounds, self.tables[rate], strict=True) if not math.isfinite(r)]
        at_least = float(np.minimum(rounds, horizon).mean())
        ahead = best is None or at_least < self.rounds[best].mean()
        return bool(late) and ahead and not any(map(diverged, late)) and any(map(self.goal.improving, late))

    def _try(self, rates: list[float], horizon: int) -> None:
        pairs = [(rate, seed) for rate in rates for seed in self.seeds]
        tables = self.run_all([self.make(rate, seed, horizon) for rate, seed in pairs])
        self.trials += len(pairs)
        for i, rate in enumerate(rates):
            own = tables[i * len(self.seeds) : (i + 1) * len(self.seeds)]
            self.tables[rate], self.rounds[rate] = own, np.array([self.goal.rounds(t) for t in own])
        if self.tell:
            best = self.best()
            found = "none yet" if best is None else f"best {best:.3g}, {self.rounds[best].mean():.1f} rounds"
            self.tell(
                f"{len(rates)} step sizes from {min(rates):.3g} to {max(rates):.3g}, {horizon} rounds: {found}"
            )
