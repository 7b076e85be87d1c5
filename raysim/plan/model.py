"""The cost model: what a round takes on M nodes with k actors each, A = M k, from what was measured on one machine.

A node has u cores or GPUs; C clients a round lie in B blocks; C0 of them were measured. For each exchange of a round:

 (1) training_s    = work_s C/C0 slowdown(min(k, u)) / speed max(max_a w_a, max_m sum_{a on m} w_a / u)
                     where actor a has the share w_a of the work, in whole blocks
 (2) down_bytes    = sum over tensors b (A if b <= inline else M) + A carried + 16 C + 8 (B + A)
                     of a mixing: 16 C + 12 entries of the matrix + 16 halo
 (3) up_bytes      = sum_a n_a row + report C       n_a: nodes of the summation tree (or clients) of actor a
 (4) network_s     = max(down of the head, down of a node) / rate + the same up + halo of a node / rate
 (5) handling_s    = byte_s (bytes that the coordinator copies down + up_bytes)
 (6) calls_s       = call_s + actor_s (actors that work + pairs that swap rows)
 (7) round_s       = own_s + client_s (C - C0) + registered_s (N - N0) + sum over exchanges of (1) + (4) + (5) + (6)
                     client_s with what mixing and aggregating rows take the coordinator, where it does
 (8) evaluation_s  = chunk_s ... as (1) with ceil(chunks / A) for a share + (4) + (5) + (6) + its probes' exchanges
 (9) total_s       = start_s + data M / rate + rounds round_s + evaluations evaluation_s
(10) actor_bytes   = process + N/A rows + books (+ the data, on a GPU);  node_bytes = data + k actor_bytes + Ray's own
     head_bytes    = 2 data + 330 N + process + up_bytes + Ray's own; on one machine a part of node_bytes

Bytes are those that the simulation moves, not those that its clients would send: of compressed rows the sums travel,
whole. Nothing overlaps: what a round does it does one after the other, so the model leans to the slow side. Rounds of
several kinds are averaged by their shares. Not in it: faults, stragglers, checkpoints, other users of machines.
"""

from __future__ import annotations

import math

import numpy as np

from raysim.core.clients import ROWS_LIMIT
from raysim.plan.case import Case, Cost, Memory, Prediction
from raysim.plan.facts import Calibration, Exchange, Pattern
from raysim.plan.machines import Machine
from raysim.runtime import mailbox

INLINE_BYTES = 90_000  # on a cluster Ray sends up to 100 KB along with each call; more goes once to each node
ID_BYTES = 16  # a client's id and weight, in every call
ENTRY_BYTES = 12  # of a mixing matrix: whose row, and its weight
BOUND_BYTES = 8  # a block's boundary
BOOK_BYTES = 120  # where a client's rows lie: an entry of a dictionary
START_BYTES = 16  # where a client's examples begin and how many they are, of every client in every process
HEAD_CLIENT_BYTES = (
    330  # of every client while the coordinator deals out the data: an array of indices, order, weight
)
RAY_NODE_BYTES = 0.4e9  # raylet, agents and idle workers of Ray 2.60
RAY_HEAD_BYTES = 0.8e9  # the same with GCS and dashboard
CONTEXT_BYTES = 0.6e9  # CUDA's own in every process: 0.3 to 0.6 GB
SCRATCH = 3  # times a block's rows: parameters, gradients, activations of small models


def slowdown(case: Case) -> float:
    """How much slower an actor computes beside others that have cores of their own, as measured here."""
    measured = case.facts.calls.slowdown
    alike = case.on_gpus == (case.facts.device == "cuda")
    together = min(case.per_node, int(case.units), len(measured)) if alike else 1
    return measured[max(1, together) - 1]


def slowest(case: Case, share_A: np.ndarray) -> float:
    """(1) The share of the work that takes longest: the busiest actor's, or that of a node whose actors share cores."""
    on_node_M = np.bincount(case.node_A, weights=share_A)
    return float(max(share_A.max(), on_node_M.max() / case.units))


def training_s(case: Case, exchange: Exchange) -> float:
    """(1) Seconds of the clients' work."""
    scale = case.layout.clients / case.facts.cohort
    return exchange.work_s * scale * slowdown(case) / case.speed * slowest(case, case.layout.share_A)


def by_mailbox(case: Case, exchange: Exchange) -> bool:
    """Whether tensors pass through shared memory: on one machine, few actors, tensors that find room."""
    room = max(sum(exchange.sent_bytes), exchange.row_bytes) <= mailbox.SIDE
    return case.near and case.layout.actors <= mailbox.MOST and room and exchange.kind == "exchange"


def down_bytes(case: Case, exchange: Exchange) -> tuple[float, float]:
    """(2) Bytes to actors: that leave the coordinator, and that the busiest node receives."""
    work_A = np.diff(case.layout.bounds_A) > 0
    actors, clients = int(work_A.sum()), case.layout.clients
    nodes = len(np.unique(case.node_A[work_A]))
    at_one = int(np.bincount(case.node_A[work_A]).max())
    each = [_copies(case, exchange, b, actors, nodes) for b in exchange.sent_bytes]
    here = [_copies(case, exchange, b, at_one, 1) for b in exchange.sent_bytes]
    if exchange.kind == "mix" and case.halo is not None:
        entries_A = ENTRY_BYTES * case.halo.edges_A + ID_BYTES * case.halo.rows_A
        bytes_A = entries_A + ID_BYTES * np.diff(case.layout.bounds_A)
        return float(bytes_A.sum()), _busiest(case, bytes_A)
    if exchange.kind != "exchange":
        return 0.0, 0.0
    inside = exchange.carried_bytes + exchange.carried_client_bytes * case.clients
    blocks = case.layout.blocks
    head = sum(each) + actors * inside + ID_BYTES * clients + BOUND_BYTES * (blocks + actors)
    part = at_one / actors
    return head, sum(here) + at_one * (inside + BOUND_BYTES) + part * (
        ID_BYTES * clients + BOUND_BYTES * blocks
    )


def _copies(case: Case, exchange: Exchange, size: int, actors: int, nodes: int) -> float:
    return size * (actors if by_mailbox(case, exchange) or size <= INLINE_BYTES else nodes)


def up_bytes(case: Case, exchange: Exchange) -> tuple[float, float]:
    """(3) Bytes to the coordinator: from all, and from the busiest node."""
    if exchange.kind == "fetch":
        whole = float(exchange.rows * exchange.row_bytes)
        return whole, whole
    if exchange.kind == "mix":
        return 0.0, 0.0
    clients_A = np.diff(case.layout.bounds_A)
    number_A = {"sum": case.layout.nodes_A, "rows": clients_A}.get(exchange.reduce, 0 * clients_A)
    bytes_A = number_A * exchange.row_bytes + exchange.report_bytes * clients_A
    return float(bytes_A.sum()), _busiest(case, bytes_A)


def _busiest(case: Case, bytes_A: np.ndarray) -> float:
    """Of the node that has most."""
    return float(np.bincount(case.node_A, weights=bytes_A).max())


def halo_bytes(case: Case, exchange: Exchange) -> tuple[float, float]:
    """Bytes from actor to actor in a mixing: all, and those that the busiest node receives."""
    if exchange.kind != "mix" or case.halo is None:
        return 0.0, 0.0
    bytes_A = case.halo.rows_A * float(exchange.row_bytes)
    return float(bytes_A.sum()), _busiest(case, bytes_A)


def network_s(case: Case, head_bytes: float, node_bytes: float) -> tuple[float, float]:
    """(4) Seconds on the wire, given to whoever is slower: the head or a node. On one machine there is no wire."""
    if case.cluster.head is None:
        return 0.0, 0.0
    head_s, node_s = head_bytes / rate(case.cluster.head), node_bytes / rate(case.cluster.worker)
    return (head_s, 0.0) if head_s >= node_s else (0.0, node_s)


def rate(machine: Machine) -> float:
    """Bytes a second that a machine's network carries, each way."""
    return machine.gbits * 1e9 / 8


def calls_s(case: Case, exchange: Exchange) -> float:
    """(6) Seconds for calling actors and waking up when they answer."""
    calls = case.facts.calls
    number = case.layout.busy
    if exchange.kind == "mix" and case.halo is not None:
        number += case.halo.pairs
    elif exchange.kind == "fetch":
        number = min(number, exchange.rows)
    return calls.call_s + calls.actor_s * number


def cost(case: Case, exchange: Exchange) -> Cost:
    """One exchange, (1) to (6)."""
    down, node_down = down_bytes(case, exchange)
    up, node_up = up_bytes(case, exchange)
    halo, node_halo = halo_bytes(case, exchange)
    there, back = network_s(case, down, node_down), network_s(case, up, node_up)
    across = network_s(case, 0.0, node_halo)[1]
    calls = case.facts.calls
    byte_s = calls.near_byte_s if by_mailbox(case, exchange) else calls.far_byte_s
    return Cost(
        training_s(case, exchange) if exchange.kind != "fetch" else 0.0,
        there[0] + back[0],
        there[1] + back[1] + across,
        byte_s * (handled_bytes(case, exchange, down) + up) + calls.far_byte_s * halo / case.layout.actors,
        calls_s(case, exchange),
        down,
        up,
        halo,
        node_down + node_halo,
        node_up + node_halo,
    )


def handled_bytes(case: Case, exchange: Exchange, down: float) -> float:
    """(5) Bytes that the coordinator copies on their way down: a tensor for the object store once, whoever reads it."""
    stored = [b for b in exchange.sent_bytes if b > INLINE_BYTES and not by_mailbox(case, exchange)]
    nodes = len(np.unique(case.node_A[np.diff(case.layout.bounds_A) > 0]))
    return down - sum(stored) * (nodes - 1)


def moved(case: Case) -> Cost:
    """Kept rows of clients that another actor works on this time, where a rule samples its cohort."""
    row, actors, clients = case.facts.memory.row, case.layout.actors, case.layout.clients
    if clients == case.clients or row == 0 or actors == 1:
        return Cost()
    crossing = row * clients * (1 - 1 / actors)
    nodes = math.ceil(actors / case.per_node)
    calls = case.facts.calls
    pairs = min(clients, actors * (actors - 1))
    return Cost(
        node_network_s=network_s(case, 0.0, crossing / nodes)[1],
        coordinator_s=calls.far_byte_s * crossing / actors,
        calls_s=calls.call_s + calls.actor_s * 2 * pairs,  # one gives, the other takes
        halo_bytes=crossing,
        node_down_bytes=crossing / nodes,
        node_up_bytes=crossing / nodes,
    )


def round_cost(case: Case) -> Cost:
    """(7) A round, averaged over kinds of rounds."""
    facts = case.facts
    total = Cost()
    for pattern in facts.patterns:
        own = Cost(coordinator_s=own_s(case, pattern))
        total += sum((cost(case, e) for e in pattern.exchanges), own) * pattern.share
    return total + moved(case)


def own_s(case: Case, pattern: Pattern) -> float:
    """(7) Seconds of the coordinator's own work."""
    facts = case.facts
    each = facts.client_s + sum(facts.mixed_s * (e.kind == "mix") for e in pattern.exchanges)
    each += sum(facts.gathered_s * gathers(facts, e) for e in pattern.exchanges)
    more = facts.registered_s * (case.clients - facts.clients)
    return max(0.0, pattern.coordinator_s + each * (case.layout.clients - facts.cohort) + more)


def gathers(facts: Calibration, exchange: Exchange) -> bool:
    """Whether the coordinator gets a row as long as the model from every client."""
    return exchange.reduce == "rows" and exchange.row_bytes >= 4 * facts.parameters


def evaluation_cost(case: Case) -> Cost:
    """(8) An evaluation with its probes."""
    found = case.facts.evaluation
    shares = np.array_split(np.arange(found.chunks), case.layout.actors)
    share_A = np.array([len(share) for share in shares]) / found.chunks
    work_s = found.chunks * found.chunk_s * slowdown(case) / case.speed * slowest(case, share_A)
    asked = min(found.chunks, case.layout.actors)
    size, calls = 4 * case.facts.parameters, case.facts.calls
    small = size <= INLINE_BYTES
    down = size * (asked if small else math.ceil(asked / case.per_node))
    head_s, node_s = network_s(case, down, size * (min(asked, case.per_node) if small else 1))
    handling_s = calls.far_byte_s * (down if small else size)
    own = Cost(work_s, head_s, node_s, handling_s, calls.call_s + calls.actor_s * asked, down)
    return sum((cost(case, e) for e in found.exchanges), own)


def data_bytes(case: Case) -> float:
    """Training and test data."""
    return case.facts.memory.data_client * case.clients + case.facts.memory.data


def memory(case: Case) -> Memory:
    """(10) Memory of an actor, of its share of a GPU, of a node and of the coordinator's machine."""
    facts, actors = case.facts, case.layout.actors
    kept, process, data = facts.memory, facts.calls.process_bytes, data_bytes(case)
    rows = (kept.row + kept.mixed) * case.clients / actors
    seen = case.clients / actors
    if kept.row == 0:  # clients that come to an actor only for a round are not forgotten
        seen = min(case.clients, case.rounds * case.layout.clients / actors)
    books = BOOK_BYTES * seen + START_BYTES * case.clients
    largest_up = max((up_bytes(case, e)[0] for p in facts.patterns for e in p.exchanges), default=0.0)
    # The data twice: as they are read and as they are dealt out, then the coordinator's and those in the object store.
    head = 2 * data + process + kept.server + HEAD_CLIENT_BYTES * case.clients + largest_up + RAY_HEAD_BYTES
    scratch = 4.0 * SCRATCH * facts.row_floats * case.block
    gpu, actor = 0.0, process + books + kept.data
    if case.on_gpus:
        gpu = CONTEXT_BYTES + data + rows + scratch
    else:
        actor += rows + (0 if facts.calls.measured else scratch)  # measured actors had trained
    node = case.per_node * actor + (head if case.near else data + RAY_NODE_BYTES)
    return Memory(actor, gpu, node, head)


def predict(case: Case) -> Prediction:
    """(9) Everything about a run."""
    each, looked = round_cost(case), evaluation_cost(case)
    data = data_bytes(case)
    ship_s = sum(network_s(case, case.cluster.nodes * data, data))
    begin_s = case.facts.calls.start_s + ship_s
    total_s = begin_s + case.rounds * each.seconds + case.evaluations * looked.seconds
    return Prediction(
        case.layout.actors,
        case.layout.actors - case.layout.busy,
        case.layout.blocks,
        case.clients,
        case.layout.clients,
        each.seconds,
        looked.seconds,
        total_s,
        each,
        memory(case),
        busy(case, each),
    )


def busy(case: Case, each: Cost) -> dict[str, float]:
    """What share of a round each part is at work, and what share of each memory is full."""
    used, worker = memory(case), case.cluster.worker
    whole = each.seconds or 1.0
    found = {
        "training on the actors": each.training_s / whole,
        "network of the head": each.head_network_s / whole,
        "network of the workers": each.node_network_s / whole,
        "the coordinator's processor": each.coordinator_s / whole,
        "calls to actors": each.calls_s / whole,
        "memory of a node": used.node_bytes / (worker.memory_gb * 1e9),
    }
    if case.on_gpus:
        sharing = math.ceil(case.per_node / worker.gpus)
        found["memory of a GPU"] = sharing * used.gpu_bytes / (worker.gpu_memory_gb * 1e9)
    gathered = [e for p in case.facts.patterns for e in p.exchanges if e.reduce == "rows"]
    if gathered:
        rows_bytes = case.layout.clients * max(e.row_bytes for e in gathered)
        found["memory for rows in one place"] = rows_bytes / ROWS_LIMIT
    if case.cluster.head is not None:
        found["memory of the head"] = used.head_bytes / (case.cluster.head.memory_gb * 1e9)
    return found
