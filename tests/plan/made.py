"""Calibrations and clusters made up by hand, with round numbers."""

from dataclasses import replace

import numpy as np

import raysim as rs
from raysim.plan.case import Case
from raysim.plan.facts import Calibration, Calls, Evaluation, Exchange, Memory, Pattern
from raysim.plan.layout import Layout, layout
from raysim.plan.machines import Cluster, Machine

CALLS = Calls(True, 1e-3, 2e-3, 1e-9, 1e-8, 5.0, (1.0, 1.25), 2e8)
MEMORY = Memory(data_client=100.0, data=1000, row=40, mixed=8, server=4000)
AVERAGING = Exchange("exchange", 10.0, "sum", (4000,), row_bytes=4000, report_bytes=4.0)
WORKER = Machine("worker", cpus=4, gpus=0, gbits=8.0, memory_gb=16)  # 1 GB/s
HEAD = Machine("head", cpus=2, gpus=0, gbits=4.0, memory_gb=8)  # 0.5 GB/s
LOCAL = rs.Local(
    optimizer=rs.optimizers.SGD(lr=0.1), steps=1, batch_size=9
)  # of clients with 9 examples: 10 units


def facts(*exchanges, **changes):
    """A calibration of 100 clients, 1,000 parameters, one kind of round."""
    fields = {
        "experiment": "", "processor": "a processor", "device": "cpu", "cores": 2, "clients": 100, "cohort": 100,
        "parameters": 1000, "row_floats": 1000, "steps": 1, "sizes": (9,),
        "patterns": (Pattern(1.0, 0.5, exchanges or (AVERAGING,)),), "evaluation": Evaluation(4, 0.25),
        "client_s": 1e-3, "mixed_s": 4e-3, "gathered_s": 5e-3, "registered_s": 1e-4, "calls": CALLS, "memory": MEMORY,
    }  # fmt: skip
    return Calibration(**(fields | changes))


def cluster(nodes, **changes):
    """Workers with a head of their own."""
    return Cluster(replace(WORKER, **changes), HEAD, nodes)


def alone(cpus):
    """One machine, with the coordinator on it."""
    return Cluster(replace(WORKER, cpus=cpus), None, 1)


def case(where, per_node, known=None, clients=100, cohort=None, block=5, **changes):
    """All clients in every round, in blocks of five."""
    known, cohort = known or facts(), cohort or clients
    laid = layout(LOCAL, known.sizes, cohort, block, per_node * where.nodes, neighbours=False)
    return Case(known, laid, clients, block, 10, 6, where, per_node, **changes)


def shares(*values):
    """A layout with these shares of the work."""
    number = len(values)
    return Layout(number, number, np.arange(number + 1), np.array(values), np.ones(number, np.int64))
