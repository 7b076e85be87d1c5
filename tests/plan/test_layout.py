"""Who works on what: the same as the runtime does."""

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

import raysim as rs
from raysim.core import cohorts
from raysim.core.cohorts import Shards
from raysim.core.interfaces import Topology
from raysim.core.mixing import Mixing
from raysim.core.reduction import Tree
from raysim.plan import layout as layouts
from raysim.plan.layout import halo, layout, nodes_of

SGD = rs.optimizers.SGD(lr=0.1)
SIZES = tuple((np.arange(57) * 37 % 50 + 1).tolist())


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("actors", [1, 2, 3, 7, 40])
@pytest.mark.parametrize(
    "local", [rs.Local(SGD, epochs=2, batch_size=8), rs.Local(SGD, steps=3)], ids=["epochs", "steps"]
)
def test_actors_get_the_runs_of_blocks_that_the_runtime_gives_them(local, actors, neighbours):
    shards = Shards(np.concatenate([[0], np.cumsum(SIZES)]))
    plan = cohorts.plan(local, shards, np.arange(57), 0, 4, neighbours=neighbours)
    found = layout(local, SIZES, 57, 4, actors, neighbours)
    runs = cohorts.runs(plan, local, shards, actors)
    assert found.bounds_A.tolist() == [plan.bounds[a] for a, _ in runs] + [57]
    assert found.blocks == plan.blocks
    assert found.busy == sum(b > a for a, b in runs)
    work = lambda ids: sum(
        local.steps_of(np.array([n]))[0] * min(n, local.batch_size or n) + 1 for n in shards.sizes_N[ids]
    )
    parts = [work(plan.ids_C[plan.bounds[a] : plan.bounds[b]]) for a, b in runs]
    np.testing.assert_allclose(found.share_A, np.array(parts) / sum(parts))
    assert found.nodes_A.tolist() == [len(sent(a, b, plan.blocks)) for a, b in runs]


def sent(begin, end, leaves):
    tree = Tree(leaves)
    for b in range(begin, end):
        tree.add((0, b), (torch.ones(1),))
    return tree.nodes


@pytest.mark.parametrize("leaves", [1, 2, 3, 5, 8, 11, 16, 21])
def test_nodes_of_the_tree_are_counted_as_it_adds_them_up(leaves):
    for begin in range(leaves + 1):
        for end in range(begin, leaves + 1):
            assert nodes_of(begin, end, leaves) == len(sent(begin, end, leaves)), (begin, end)


def test_more_clients_than_measured_are_the_same_again_and_fewer_are_spread():
    local = rs.Local(SGD, epochs=1, batch_size=1)
    assert layouts._spread((3, 5), 5).tolist() == [3, 5, 3, 5, 3]
    assert layouts._spread((1, 2, 3, 4), 2).tolist() == [1, 3]
    even = layout(local, (9,), 1000, 10, 4, False)
    np.testing.assert_allclose(even.share_A, 0.25)


def test_the_work_of_very_many_clients_is_spread_as_that_of_fewer(monkeypatch):
    local = rs.Local(SGD, epochs=1, batch_size=8)
    exact = layout(local, SIZES, 57_000, 10, 13, False)
    monkeypatch.setattr(layouts, "LAID_OUT", 5_700)
    few = layout(local, SIZES, 57_000, 10, 13, False)
    assert few.blocks == exact.blocks
    np.testing.assert_allclose(few.share_A, exact.share_A, rtol=0.02)
    assert few.bounds_A[-1] == 57_000


def crossing(topology, clients, bounds):
    """Rows that the fleet would ask others for, and entries that it sends, as ``RayFleet.mix`` does."""
    mixing = Mixing.of(topology.mixing(clients, 0), np.arange(clients))
    owner = np.searchsorted(bounds, np.arange(clients), side="right") - 1
    rows, edges, pairs = [], [], 0
    for a in range(len(bounds) - 1):
        part = mixing.part(np.flatnonzero(owner == a))
        far = np.unique(part.neighbour_E[owner[part.neighbour_E] != a])
        rows.append(len(far))
        edges.append(len(part.neighbour_E))
        pairs += len(np.unique(owner[far]))
    return rows, edges, pairs


@pytest.mark.parametrize(
    "topology",
    [rs.topologies.Ring(), rs.topologies.Complete(), rs.topologies.StaticExponential()],
    ids=lambda t: type(t).__name__,
)
@pytest.mark.parametrize("bounds", [[0, 24], [0, 10, 24], [0, 3, 8, 8, 24]])
def test_the_halo_is_what_the_fleet_asks_for(topology, bounds):
    found = halo(topology, 24, np.array(bounds), 24)
    rows, edges, pairs = crossing(topology, 24, np.array(bounds))
    assert found.rows_A.tolist() == rows
    assert found.edges_A.tolist() == edges
    assert found.pairs == pairs


def test_the_halo_of_a_graph_too_large_to_write_out_is_scaled_up_from_a_smaller_one(monkeypatch):
    monkeypatch.setattr(layouts, "EDGES", 10_000)
    found = halo(rs.topologies.Complete(), 1000, np.array([0, 500, 1000]), 10)
    assert found.rows_A.tolist() == [500, 500]
    assert found.edges_A.tolist() == [500_000, 500_000]
    assert found.pairs == 2
    monkeypatch.setattr(Complains, "written", [])
    assert halo(Complains(), 1000, np.array([0, 500, 1000]), 10).rows_A.tolist() == [0, 0]
    assert max(Complains.written) <= 10_000


class Complains(Topology):
    """Nobody talks to anybody; remembers what it was asked to write out."""

    written = ()

    def mixing(self, clients, round):
        self.written.append(clients)
        return csr_array(
            np.eye(10) if clients == 10 else (np.ones(clients), (range(clients), range(clients)))
        )
