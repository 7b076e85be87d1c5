"""Step sizes that change with the round, each a ``Schedule`` that stands where a number could."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raysim.core.plugin import ConfigError, Count, NonNegative, Positive, Rate, Schedule, at_round


@dataclass(frozen=True)
class Constant(Schedule):
    """The same step size in every round: what a plain number means.

    Paper: none; the baseline of every schedule.

    Args:
        lr: step size, above 0.
    """

    lr: Positive

    def value(self, round: int) -> float:
        """``lr``."""
        return self.lr


@dataclass(frozen=True)
class Step(Schedule):
    """A step size multiplied by a factor at regular intervals: lr factor^floor(round / every).

    Paper: none; common practice.

    Args:
        lr: step size of the first ``every`` rounds, above 0.
        every: rounds between two changes, at least 1.
        factor: what the step size is multiplied by, above 0 (0.1 divides it by ten).
    """

    lr: Positive
    every: Count
    factor: Positive = 0.1

    def value(self, round: int) -> float:
        """Constant over ``every`` rounds."""
        return self.lr * self.factor ** (round // self.every)


@dataclass(frozen=True)
class Cosine(Schedule):
    """A step size that falls along half a cosine: final + (lr - final) (1 + cos(pi round / rounds)) / 2.

    Paper: Loshchilov, Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2016,
    https://arxiv.org/abs/1608.03983 (one cycle of it, without restarts)

    Args:
        lr: step size of round 0, above 0.
        rounds: round in which ``final`` is reached, at least 1; a run of so many rounds ends just before it.
        final: step size from then on, from 0 to lr.
    """

    lr: Positive
    rounds: Count
    final: NonNegative = 0.0

    def check(self) -> None:
        """A cosine falls."""
        if self.final > self.lr:
            raise ConfigError(
                f"Cosine.final must be at most lr, got final={self.final} and lr={self.lr}. Exchange "
                "the two, or use WarmUp for a step size that rises."
            )

    def value(self, round: int) -> float:
        """Falls until ``rounds``, constant afterwards."""
        share = min(round / self.rounds, 1.0)
        return self.final + (self.lr - self.final) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class InverseSqrt(Schedule):
    """A step size that falls like the inverse root of time: lr / sqrt(round + 1).

    Paper: none; the textbooks' rate for convex stochastic problems.

    Args:
        lr: step size of round 0, above 0.
    """

    lr: Positive

    def value(self, round: int) -> float:
        """A tenth of ``lr`` in round 99."""
        return self.lr / math.sqrt(round + 1)


@dataclass(frozen=True)
class WarmUp(Schedule):
    """A linear rise to another schedule's first value, then that schedule from its beginning.

    In round r < rounds it is (r + 1) / (rounds + 1) of that first value, so no round has step size zero.

    Paper: Goyal et al., Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour, 2017,
    https://arxiv.org/abs/1706.02677

    Args:
        rounds: rounds of the rise, at least 1.
        then: step size afterwards, above 0, or a schedule, whose round 0 is our round ``rounds``.
    """

    rounds: Count
    then: Rate

    def value(self, round: int) -> float:
        """Rises until ``rounds``, then follows ``then``."""
        if round < self.rounds:
            return at_round(self.then, 0) * (round + 1) / (self.rounds + 1)
        return at_round(self.then, round - self.rounds)
