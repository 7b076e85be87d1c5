"""Problems for votes: clients whose gradients at the start are what one says."""

import numpy as np

import raysim as rs

StochasticSign = rs.compressors.StochasticSign
PLAIN = rs.compressors.Sign(scale="none")


def voting(rule, rounds, data, **changes):
    """One gradient a round on all of each client's data, for a linear model without bias."""
    fields = {
        "data": data,
        "partition": rs.partitions.ByGroup(),
        "model": rs.models.Linear(bias=False),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=1.0), steps=1),
        "rule": rule,
        "rounds": rounds,
        "evaluate_every": rounds,
    }
    return rs.Simulation(**(fields | changes))


def with_gradients(gradients, rule, rounds, copies=1, **changes):
    """Clients with losses ½ ||w - y_m||² and these gradients at the start, the same in every coordinate.

    Args:
        gradients: of the clients, one number each.
        rule: the rule.
        rounds: how long.
        copies: number of coordinates, which draw votes of their own.
        changes: other fields of the experiment.

    Returns:
        The experiment, and the parameters that it starts from.
    """
    g = np.repeat(np.asarray(gradients, np.float32)[:, None], copies, 1)
    ones = np.ones((len(g), 1), np.float32)

    def experiment(y):
        data = rs.data.Arrays(x_train=ones, y_train=y, x_test=ones, y_test=y, groups=np.arange(len(g)))
        return voting(rule, rounds, data, **changes)

    start = next(experiment(np.zeros_like(g)).initial_model().parameters()).detach().numpy()[:, 0]
    return experiment(start - g), start


def moved(gradients, rule, rounds, copies=1, **changes):
    """How far every coordinate is from where it started."""
    sim, start = with_gradients(gradients, rule, rounds, copies, **changes)
    return sim.run(None).x_P.numpy() - start
