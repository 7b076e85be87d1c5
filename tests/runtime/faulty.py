"""A rule whose client code fails for one client, in a module that actors can import."""

from dataclasses import dataclass

from raysim.core.interfaces import Rule


@dataclass(frozen=True)
class Faulty(Rule):
    """Fails for one client in one round."""

    client: int
    round_: int

    def round(self, clients, server):
        return server.at(server.x_P + clients.mean(update, server.x_P, self.client, self.round_))


def update(cohort, x_P, client, round_):
    if client in cohort.ids_C and cohort.round == round_:
        raise ValueError("no more")
    return cohort.train(x_P).sub_(x_P)
