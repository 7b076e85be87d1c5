"""A rule with a model per client, in a module that actors can import: train, then go half way to the mean."""

from dataclasses import dataclass
from typing import ClassVar

from raysim.core.interfaces import Rule


@dataclass(frozen=True)
class Halfway(Rule):
    """x_i <- (y_i + ȳ) / 2, y_i client i's model after training."""

    own_models: ClassVar[bool] = True

    def round(self, clients, server):
        mean_P = clients.mean(train, server.x_P, uniform=True)
        clients.run(blend, mean_P)
        return server.at(mean_P)


def train(cohort, x_P):
    return cohort.train(cohort.state.rows("model", x_P), inplace=True)


def blend(cohort, mean_P):
    cohort.state.rows("model", mean_P).lerp_(mean_P, 0.5)
