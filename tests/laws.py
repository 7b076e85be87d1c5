"""Laws that every rule must keep, as functions over a rule; ``tests/rules/test_laws.py`` runs them over the folder."""

import copy

import numpy as np
import torch

import raysim as rs
from raysim.core.channel import Channel
from raysim.core.clients import Clients
from raysim.core.cohorts import cohort_ids, plan
from raysim.core.execution import choose_form, examples_of
from raysim.core.host import Setup
from raysim.core.placement import Placement
from raysim.core.server import Server
from raysim.core.task import Task
from raysim.runtime.ray_fleet import RayFleet
from tests.experiments import digits


def ragged(rule, local, **changes):
    """Clients of different sizes and numbers of steps; a third of them a round, where the rule allows that."""
    fields = {
        "partition": rs.partitions.Dirichlet(clients=13, alpha=0.5),
        "cohort": None if rule.everyone else 5,
        "local": local,
        "rule": rule,
        "rounds": 5,
    }
    return digits(**(fields | changes))


def prepared(sim):
    """(setup, initial parameters, shards): what a fleet is made of."""
    dataset, shards = sim.load()
    module = sim.initial_model(dataset)
    task = Task(module, dataset.loss)
    form = choose_form(sim.execution.form, task, examples_of(dataset, shards), "cpu")
    return Setup(dataset, shards, module, sim.local, sim.seed, form), task.initial(), shards


def played(sim, fleet, initial_P, shards):
    """The rounds of an experiment on a fleet: model, the rule's state, and each round's metrics and bits."""
    fleet.load_rows([])
    server, told = Server(initial_P), []
    size = sim.cohort_size(shards.number)
    while server.round < sim.rounds:
        ids = cohort_ids(sim.seed, server.round, shards.number, size)
        cut = plan(sim.local, shards, ids, server.round, sim.execution.block, neighbours=sim.rule.own_models)
        clients = handle(sim, fleet, cut, server, shards.number)
        after = clients.settled(sim.rule.round(clients, server))
        server = after.at(after.x_P)
        server = type(server)(server.x_P, len(told) + 1, server.state)
        told.append({**clients.measured(), "up": clients.bits_up, "down": clients.bits_down})
    return server, told


class Fleets:
    """Fleets of one to three actors, shared by experiments that give actors the same to hold.

    Starting actors takes longer than what they do in a test, so the smaller fleets are the first actors of the largest.
    """

    def __init__(self):
        self.made = {}

    def __call__(self, setup, actors):
        """The fleet; ``played`` begins by forgetting the rows that its actors keep."""
        key = (setup.local, setup.dataset.y_train.tobytes())
        if key not in self.made:
            self.made[key] = RayFleet(setup, Placement(actors=3, cpus_per_actor=0.1))
        part = copy.copy(self.made[key])
        part.actors = part.actors[:actors]
        return part

    def close(self):
        """End all actors."""
        for fleet in self.made.values():
            fleet.close()


def handle(sim, fleet, cut, server, number):
    """A rule's handle on the cohort."""
    shapes = tuple(p.shape for p in sim.initial_model().parameters() if p.requires_grad)
    channel = Channel(sim.seed, sim.uplink, sim.downlink, shapes)
    return Clients(fleet, cut, len(server.x_P), number, channel, server.state)


def assert_same(a, b):
    """Two plays that agree to the last bit."""
    (left, left_told), (right, right_told) = a, b
    assert torch.equal(left.x_P, right.x_P)
    assert left.state.keys() == right.state.keys()
    assert all(torch.equal(left.state[k], right.state[k]) for k in left.state)
    assert left_told == right_told


def at_rest(rule, local):
    """Equal clients whose gradients are all zero: inputs of zero, targets of zero, a linear model."""
    x, y = np.zeros((24, 3), np.float32), np.zeros((24, 2), np.float32)
    return rs.Simulation(
        data=rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y),
        partition=rs.partitions.IID(clients=6),
        model=rs.models.Linear(bias=False),
        local=local,
        rule=rule,
        rounds=4,
    )


def relabelled(rule, local, order):
    """Nine clients with the shares of the digits, numbered in this order."""
    shares = rs.partitions.Dirichlet(clients=9, alpha=0.5).split(rs.data.Digits().load(), 0)
    return digits(
        partition=rs.partitions.Explicit(indices=[shares[i] for i in order]),
        cohort=None,
        local=local,
        rule=rule,
        rounds=4,
    )
