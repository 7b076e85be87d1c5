"""Small experiments that tests share."""

import numpy as np

import raysim as rs


def digits(**changes):
    """30 clients with unequal shares of the digits, 8 a round, mini-batches: every source of raggedness at once."""
    fields = {
        "data": rs.data.Digits(),
        "partition": rs.partitions.Dirichlet(clients=30, alpha=0.3),
        "model": rs.models.MLP(hidden=(16,)),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), epochs=1, batch_size=8),
        "cohort": 8,
        "rounds": 4,
        "execution": rs.Execution(block=3),
    }
    return rs.Simulation(**(fields | changes))


def arrays(n=60, features=5, classes=3, seed=0):
    """A tiny classification problem as plain arrays."""
    rng = np.random.Generator(np.random.PCG64(seed))
    x = rng.standard_normal((n, features)).astype(np.float32)
    y = rng.integers(0, classes, n)
    return rs.data.Arrays(x_train=x, y_train=y, x_test=x[:10], y_test=y[:10])


def same(a, b):
    """Whether two results agree to the last bit, in weights and in every metric but seconds."""
    import torch

    left, right = (r.metrics.drop(columns="seconds") for r in (a, b))
    return torch.equal(a.x_P, b.x_P) and left.equals(right)
