"""What a server hears from clients, round after round at the same model."""

from dataclasses import dataclass, replace

import numpy as np
import torch

import raysim as rs
from raysim.core import streams
from raysim.runtime.coordinator import Coordinator
from tests.experiments import digits

CLIENTS, SIZE = 13, 8
ATTACKS = {
    "SignFlip": rs.attacks.SignFlip(hostile=0.3, scale=2.0),
    "LabelFlip": rs.attacks.LabelFlip(hostile=0.3),
    "Noise": rs.attacks.Noise(hostile=0.3, std=0.5),
    "added noise": rs.attacks.Noise(hostile=0.3, std=0.5, add=True),
    "Scale": rs.attacks.Scale(hostile=0.3, factor=3.0),
    "InnerProduct": rs.attacks.InnerProduct(hostile=0.3, scale=0.7),
    "LittleIsEnough": rs.attacks.LittleIsEnough(hostile=0.3, z=1.5),
    "as little as needed": rs.attacks.LittleIsEnough(hostile=0.3),
    "Mimic": rs.attacks.Mimic(hostile=0.3),
}
SENT = [name for name in ATTACKS if name != "LabelFlip"]
WATCH = [name for name in ATTACKS if ATTACKS[name].watches]


@dataclass
class Heard:
    """One round: cohort in increasing order, each part's rows in that order, and the handle they came from."""

    ids: np.ndarray
    parts: list[torch.Tensor]
    clients: rs.core.clients.Clients

    @property
    def rows(self):
        return self.parts[0].numpy()


def some(*uplink, **changes):
    """Unlike clients, 8 of 13 a round, a step of training each."""
    fields = {
        "partition": rs.partitions.Dirichlet(clients=CLIENTS, alpha=0.5),
        "local": rs.Local(optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=8),
        "cohort": SIZE,
        "uplink": uplink,
    }
    return digits(**(fields | changes))


def heard(sim, function, *more, rounds=3, **how):
    """What the server receives of a client function, called with the initial model and these values."""
    coordinator = Coordinator(sim, None)
    server = coordinator._prepare()
    found = []
    for round in range(rounds):
        clients = coordinator._clients(replace(server, round=round))
        got = clients.rows(function, server.x_P, *more, **how)
        order = np.argsort(clients.ids)
        parts = [part[order] for part in (got if isinstance(got, tuple) else (got,))]
        found.append(Heard(clients.ids[order], parts, clients))
    return found


def hostile_of(sim):
    """Numbers of the hostile clients: those whose rows a flipped sign changes when all take part."""
    flip = rs.attacks.SignFlip(hostile=sim.uplink[0].hostile)
    (all_heard,) = heard(sim.replaced(uplink=(flip,), cohort=None), ones, rounds=1)
    return set(all_heard.ids[all_heard.rows[:, 0] < 0].tolist())


def ones(cohort, x_P):
    return torch.ones(len(cohort), len(x_P))


def pattern(cohort, x_P):
    """Rows that depend on client and round alone, whatever the block."""
    return streams.normal(cohort.key("pattern"), len(x_P)) + torch.from_numpy(cohort.ids_C)[:, None]
