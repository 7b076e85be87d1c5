"""A rule of one's own, from nothing to a number: `python examples/rule_from_scratch.py` (seconds, no Ray).

Clients whose local training goes far outweigh the others in FedAvg's mean. Here every client's change is first brought
to the median length, so that each has the same say in the direction.
"""

from dataclasses import dataclass

import raysim as rs
from raysim.core.interfaces import Rule


@dataclass(frozen=True)
class EqualSay(Rule):
    """FedAvg of changes of equal length."""

    def round(self, clients, server):  # noqa: ANN001, ANN201
        """Down the model, up one row per client."""
        delta_CP = clients.rows(local_update, server.x_P)  # C clients, P parameters
        length_C = delta_CP.norm(dim=1, keepdim=True)
        return server.at(server.x_P + (delta_CP / length_C * length_C.median()).mean(0))


def local_update(cohort, x_P):  # noqa: ANN001, ANN201
    """What local training from the shared model changes, for all clients of the cohort at once."""
    return cohort.update(x_P)


if __name__ == "__main__":
    experiment = rs.Simulation(
        data=rs.data.Digits(),
        partition=rs.partitions.Dirichlet(clients=50, alpha=0.1),
        model=rs.models.MLP(hidden=(32,)),
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=10, batch_size=16),
        cohort=20,
        rounds=50,
        evaluate_every=10,
    )
    for rule in (rs.rules.Averaging(), EqualSay()):
        result = experiment.replaced(rule=rule).run(folder=None)
        print(f"{type(rule).__name__}: test accuracy {result.metrics['accuracy'].iloc[-1]:.1%}")
