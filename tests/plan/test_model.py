"""The model's equations: by hand, against a naive simulation of a round, and as more nodes come."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from raysim.plan import model
from raysim.plan.facts import Evaluation, Exchange, Pattern
from raysim.plan.layout import Halo
from tests.plan.made import AVERAGING, CALLS, HEAD, MEMORY, WORKER, alone, case, cluster, facts, shares


def test_training_by_hand():
    """100 clients in 20 blocks, 10 s: 4 actors have a quarter each, at the speed that two measured side by side had."""
    assert model.training_s(case(cluster(1), 4), AVERAGING) == pytest.approx(10 * 1.25 / 4)
    assert model.training_s(case(cluster(4), 1), AVERAGING) == pytest.approx(10 * 1.0 / 4)
    assert model.training_s(case(cluster(4), 1, speed=5.0), AVERAGING) == pytest.approx(0.5)
    assert model.training_s(case(cluster(4), 1, clients=300), AVERAGING) == pytest.approx(7.5)


def test_actors_beyond_the_cores_share_them():
    assert model.slowest(case(alone(2), 2), np.array([0.5, 0.5])) == 0.5
    assert model.slowest(case(alone(2), 3), np.full(3, 1 / 3)) == pytest.approx(0.5)
    assert model.slowest(case(alone(2), 3), np.array([0.8, 0.1, 0.1])) == pytest.approx(0.8)
    assert model.slowest(case(cluster(2, cpus=1), 2), np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.7)


def test_actors_that_share_a_gpu_are_no_faster_than_one():
    one, two = (case(cluster(1, gpus=1, gpu_memory_gb=8.0), k) for k in (1, 2))
    assert model.training_s(one, AVERAGING) == pytest.approx(model.training_s(two, AVERAGING))


def test_bytes_by_hand_on_one_machine():
    """Two actors: the model to each; clients' ids and weights, block bounds; one tree node from each of two halves."""
    here = case(alone(2), 2, block=50)
    assert model.down_bytes(here, AVERAGING)[0] == 2 * 4000 + 16 * 100 + 8 * (2 + 2)
    assert model.up_bytes(here, AVERAGING)[0] == 2 * 4000 + 4 * 100
    rows = replace(AVERAGING, reduce="rows")
    assert model.up_bytes(here, rows)[0] == 100 * 4000 + 4 * 100
    assert model.up_bytes(here, replace(AVERAGING, reduce="none"))[0] == 400
    assert model.up_bytes(here, Exchange("fetch", 0.0, row_bytes=4000, rows=3)) == (12000, 12000)


def test_a_large_tensor_goes_to_each_node_once_and_a_small_one_with_each_call():
    there = case(cluster(2), 3, block=50)  # two blocks: two of six actors have work, on two nodes
    large = replace(AVERAGING, sent_bytes=(4000, 1_000_000))
    ids = 16 * 100 + 8 * (2 + 2)
    assert model.down_bytes(there, large)[0] == 2 * 4000 + 2 * 1_000_000 + ids
    there = case(cluster(2), 3, block=5)
    assert model.down_bytes(there, large)[0] == 6 * 4000 + 2 * 1_000_000 + 16 * 100 + 8 * (20 + 6)
    assert model.down_bytes(there, large)[1] == pytest.approx(3 * 4000 + 1_000_000 + 24 + (1600 + 160) / 2)
    carried = replace(AVERAGING, carried_bytes=500, carried_client_bytes=8.0)
    more = model.down_bytes(there, carried)[0] - model.down_bytes(there, AVERAGING)[0]
    assert more == 6 * (500 + 8 * 100)


def test_an_exchange_by_hand_across_a_network():
    """Head 0.5 GB/s, nodes 1 GB/s, 10 ns a byte, 1 ms + 2 ms an actor."""
    there = case(cluster(2), 1, block=50)
    found = model.cost(there, AVERAGING)
    down, up = 2 * 4000 + 1600 + 32, 2 * 4000 + 400
    assert (found.down_bytes, found.up_bytes) == (down, up)
    assert found.training_s == pytest.approx(5.0)
    assert found.head_network_s == pytest.approx((down + up) / 0.5e9)
    assert found.node_network_s == 0
    assert found.coordinator_s == pytest.approx(1e-8 * (down + up))
    assert found.calls_s == pytest.approx(1e-3 + 2 * 2e-3)
    assert found.seconds == pytest.approx(5.005 + (down + up) * (2e-9 + 1e-8))


def test_on_one_machine_nothing_is_on_a_wire_and_bytes_pass_by_shared_memory():
    found = model.cost(case(alone(2), 2, block=50), AVERAGING)
    assert (found.head_network_s, found.node_network_s) == (0, 0)
    assert found.coordinator_s == pytest.approx(1e-9 * (found.down_bytes + found.up_bytes))
    large = replace(AVERAGING, sent_bytes=(8 << 20,))  # finds no room there: put into the object store, once
    assert model.cost(case(alone(2), 2, block=50), large).down_bytes == (8 << 20) + 1632


MIX = Exchange("mix", 2.0, row_bytes=4000)


def test_mixing_by_hand():
    """The coordinator sends each actor its part of the matrix, and the actors send each other rows."""
    there = case(cluster(2), 1, facts(MIX), halo=Halo(np.array([3, 5]), np.array([200, 100]), 2))
    found = model.cost(there, MIX)
    down = 16 * 100 + 12 * 300 + 16 * 8
    assert (found.down_bytes, found.up_bytes, found.halo_bytes) == (down, 0, 8 * 4000)
    assert found.node_down_bytes == pytest.approx(16 * 50 + 12 * 200 + 16 * 3 + 5 * 4000)
    assert found.head_network_s == pytest.approx(down / 0.5e9)
    assert found.node_network_s == pytest.approx(5 * 4000 / 1e9)
    assert found.coordinator_s == pytest.approx(1e-8 * (down + 8 * 4000 / 2))
    assert found.calls_s == pytest.approx(1e-3 + (2 + 2) * 2e-3)
    assert found.training_s == pytest.approx(1.0)


def test_a_round_is_the_mean_of_its_kinds_and_the_coordinators_own_work():
    known = facts(patterns=(Pattern(0.75, 0.5, (AVERAGING,)), Pattern(0.25, 0.9, (AVERAGING, AVERAGING))))
    one = model.cost(case(cluster(2), 2, known), AVERAGING).seconds
    whole = model.round_cost(case(cluster(2), 2, known)).seconds
    assert whole == pytest.approx(0.75 * (0.5 + one) + 0.25 * (0.9 + 2 * one))
    grown = model.round_cost(case(cluster(2), 2, known, clients=300))
    assert grown.coordinator_s - 1e-8 * (grown.down_bytes + grown.up_bytes) == pytest.approx(
        0.6 + 200 * 1.1e-3
    )


@pytest.mark.parametrize(
    ("exchange", "each"),
    [
        (AVERAGING, 1.1e-3),
        (replace(AVERAGING, reduce="rows"), 6.1e-3),
        (replace(AVERAGING, reduce="rows", row_bytes=4), 1.1e-3),  # scores, not models
        (MIX, 5.1e-3),
    ],
)
def test_work_on_a_row_or_on_edges_of_every_client_grows_with_them(exchange, each):
    known = facts(exchange)
    many = case(cluster(2), 1, known, clients=1000, halo=Halo(np.zeros(2), np.zeros(2), 0))
    assert model.own_s(many, known.patterns[0]) == pytest.approx(0.5 + 900 * each)


def test_rows_that_find_no_room_in_one_place_do_not_fit():
    """As ``Clients.rows`` refuses them, above 4 GiB."""
    rows = facts(replace(AVERAGING, reduce="rows"))
    large = replace(HEAD, memory_gb=100)
    there = replace(cluster(2), head=large)
    assert model.predict(case(there, 1, rows, clients=1_073_000, block=1000)).fits
    full = model.predict(case(there, 1, rows, clients=1_074_000, block=1000))
    assert [name for name, share in full.busy.items() if share > 1] == ["memory for rows in one place"]


def test_rows_of_a_sampled_cohort_move_to_whoever_works_on_them():
    found = model.moved(case(cluster(2), 2, clients=100, cohort=20))
    assert found.calls_s == pytest.approx(1e-3 + 2 * 2e-3 * 4 * 3)  # one gives, the other takes
    assert found.halo_bytes == pytest.approx(40 * 20 * 3 / 4)
    assert model.moved(case(cluster(2), 2)).halo_bytes == 0
    assert model.moved(case(cluster(2), 2, facts(memory=replace(MEMORY, row=0)), cohort=20)).seconds == 0


def test_an_evaluation_takes_as_long_as_the_actor_with_most_chunks():
    """4 chunks of 0.25 s on 3 actors of one node with 4 CPUs: two for the first."""
    found = model.evaluation_cost(case(cluster(1), 3))
    assert found.training_s == pytest.approx(2 * 0.25 * 1.25)
    assert found.calls_s == pytest.approx(1e-3 + 2e-3 * 3)
    probed = facts(evaluation=Evaluation(4, 0.25, (AVERAGING,)))
    more = model.evaluation_cost(case(cluster(1), 3, probed)).seconds - found.seconds
    assert more == pytest.approx(model.cost(case(cluster(1), 3, probed), AVERAGING).seconds)


def test_only_actors_that_have_a_chunk_are_asked_to_evaluate():
    """Two chunks, 20 actors on 10 nodes: the model goes to two actors of one node, and nobody else waits for it."""
    known = facts(evaluation=Evaluation(2, 0.25), calls=replace(CALLS, slowdown=(1.0,)))
    found = model.evaluation_cost(case(cluster(10), 2, known))
    assert (found.down_bytes, found.up_bytes) == (2 * 4000, 0)
    assert found.calls_s == pytest.approx(1e-3 + 2e-3 * 2)
    assert found.head_network_s == pytest.approx(8000 / 0.5e9)
    assert found.coordinator_s == pytest.approx(1e-8 * 8000)
    assert found.training_s == pytest.approx(0.25)
    large = model.evaluation_cost(case(cluster(10), 2, replace(known, parameters=10**6)))
    assert large.down_bytes == 4e6  # once to the node


def test_the_whole_run_by_hand():
    known = case(cluster(2), 1)
    found = model.predict(known)
    data = 100 * 100 + 1000
    ship = 2 * data / 0.5e9
    assert found.total_s == pytest.approx(5 + ship + 10 * found.round_s + 6 * found.evaluation_s)


def test_memory_by_hand():
    """Per actor 25 clients' rows of 48 bytes and their books; the data once a node; on a GPU all of it."""
    found = model.memory(case(cluster(2), 2))
    actor = 2e8 + 48 * 25 + 120 * 25 + 16 * 100 + 1000
    assert found.actor_bytes == pytest.approx(actor)
    assert found.node_bytes == pytest.approx(11_000 + 2 * actor + 0.4e9)
    assert found.head_bytes == pytest.approx(
        2 * 11_000 + 2e8 + 4000 + 330 * 100 + model.up_bytes(case(cluster(2), 2), AVERAGING)[0] + 0.8e9
    )
    gpu = model.memory(case(cluster(2, gpus=1, gpu_memory_gb=8.0), 2))
    assert gpu.gpu_bytes == pytest.approx(0.6e9 + 11_000 + 48 * 25 + 4 * 3 * 1000 * 5)
    assert gpu.actor_bytes == pytest.approx(actor - 48 * 25)


def test_memory_on_one_machine_holds_the_coordinator_too():
    found = model.memory(case(alone(4), 2))
    assert found.node_bytes == pytest.approx(2 * found.actor_bytes + found.head_bytes)


def test_actors_that_were_not_measured_need_room_to_train_in():
    """Measured ones had trained: what they took for it is in what they were seen to take."""
    assumed = facts(calls=replace(CALLS, measured=False))
    more = (
        model.memory(case(cluster(2), 2, assumed)).actor_bytes - model.memory(case(cluster(2), 2)).actor_bytes
    )
    assert more == 4 * 3 * 1000 * 5


def test_what_saturates_first():
    assert model.predict(case(cluster(1), 1)).first == "training on the actors"
    slow = facts(replace(AVERAGING, work_s=0.0, row_bytes=1_000_000_000), patterns=())
    slow = replace(slow, patterns=(Pattern(1.0, 0.0, (replace(AVERAGING, work_s=0.0, row_bytes=10**9),)),))
    known = replace(slow, calls=replace(CALLS, far_byte_s=0.0))
    assert model.predict(case(cluster(4), 1, known)).first == "memory of the head"
    light = replace(known, patterns=(Pattern(1.0, 0.0, (replace(AVERAGING, work_s=0.0, row_bytes=10**8),)),))
    assert model.predict(case(cluster(4), 1, light)).first == "network of the head"
    assert (
        model.predict(case(cluster(1), 1, facts(patterns=(Pattern(1.0, 500.0, (AVERAGING,)),)))).first
        == "the coordinator's processor"
    )
    full = model.predict(case(cluster(1, memory_gb=0.5), 1))
    assert full.first == "memory of a node"
    assert not full.fits


def simulated(known):
    """Seconds of a round, naively: a clock that every call, byte, block and answer moves on, one after the other."""
    facts, laid, clock = known.facts, known.layout, 0.0
    head = HEAD.gbits / 8 * 1e9
    clock += facts.patterns[0].coordinator_s + facts.client_s * (laid.clients - facts.cohort)
    clock += facts.registered_s * (known.clients - facts.clients)
    for exchange in facts.patterns[0].exchanges:
        clock += CALLS.call_s
        blocks = {a: int(np.diff(laid.bounds_A)[a] // known.block) for a in range(laid.actors)}
        for number in blocks.values():
            size = exchange.sent_bytes[0] + 16 * number * known.block + 8 * (number + 1)
            clock += CALLS.actor_s + size / head + size * CALLS.far_byte_s
        block_s = (
            exchange.work_s
            * laid.clients
            / facts.cohort
            / laid.blocks
            * CALLS.slowdown[min(known.per_node, 2) - 1]
        )
        free_by_node = {}  # list scheduling: a core takes the next block of any actor of its node that waits
        for actor, number in blocks.items():
            cores = free_by_node.setdefault(actor // known.per_node, [0.0] * int(WORKER.cpus))
            mine = 0.0
            for _ in range(number):
                first = min(range(len(cores)), key=lambda c: max(cores[c], mine))
                mine = cores[first] = max(cores[first], mine) + block_s
        clock += max(max(cores) for cores in free_by_node.values())
        for actor, number in blocks.items():
            size = laid.nodes_A[actor] * exchange.row_bytes + exchange.report_bytes * number * known.block
            clock += size / head + size * CALLS.far_byte_s
    return clock


@pytest.mark.parametrize(("nodes", "per_node"), [(1, 1), (1, 4), (2, 2), (5, 4), (10, 2)])
@pytest.mark.parametrize("clients", [100, 400])
def test_a_round_takes_as_long_as_in_a_naive_simulation(nodes, per_node, clients):
    known = case(cluster(nodes), per_node, facts(AVERAGING, AVERAGING), clients=clients)
    assert model.round_cost(known).seconds == pytest.approx(simulated(known), rel=1e-9)


def test_more_actors_than_cores_take_little_less_than_in_a_naive_simulation_of_their_blocks():
    known = case(cluster(1), 6, clients=600)  # 20 blocks each, six actors on four cores
    predicted, naive = model.round_cost(known).seconds, simulated(known)
    assert predicted <= naive * (1 + 1e-9)
    assert (
        predicted >= 0.6 * naive
    )  # blocks that wait for no core other than their own would be shared more evenly


def fair(shares, cores):
    """Seconds until all are done where processes share cores evenly, in small steps."""
    left, clock, step = np.array(shares), 0.0, 1e-4
    while (left > 0).any():
        running = left > 0
        left = left - step * running * min(1.0, cores / running.sum())
        clock += step
    return clock


@pytest.mark.parametrize("actors", [1, 2, 3, 5])
def test_sharing_cores_evenly_takes_as_long_as_the_model_says(actors):
    even = np.full(actors, 1 / actors)
    assert fair(even, 2) == pytest.approx(model.slowest(case(alone(2), actors), even), rel=0.01)


def test_more_nodes_are_never_slower_until_calls_or_bytes_outweigh_the_training_they_save():
    """Round by round of doubling: time falls, then rises with the actors; from there on it never falls again."""
    seconds = [
        model.round_cost(case(cluster(n), 4, clients=20_000)).seconds for n in (2**k for k in range(11))
    ]
    falling = [after <= before for before, after in itertools.pairwise(seconds)]
    turn = falling.index(False)
    assert turn >= 3
    assert not any(falling[turn:])
    training = [model.round_cost(case(cluster(n), 4, clients=20_000)).training_s for n in (1, 2, 4, 8, 16)]
    assert training == sorted(training, reverse=True)


@pytest.mark.parametrize("field", ["gbits"])
def test_a_faster_network_is_never_slower(field):
    slow, quick = (model.round_cost(case(cluster(4, **{field: g}), 2)).seconds for g in (1.0, 100.0))
    assert quick <= slow


def test_an_idle_actor_counts_for_nothing():
    known = replace(
        case(cluster(1), 3),
        layout=replace(shares(1.0, 0.0, 0.0), bounds_A=np.array([0, 3, 3, 3]), nodes_A=np.array([2, 0, 0])),
    )
    assert known.layout.busy == 1
    assert model.down_bytes(known, AVERAGING)[0] == 4000 + 16 * 3 + 8 * (3 + 1)
    assert model.calls_s(known, AVERAGING) == pytest.approx(3e-3)
