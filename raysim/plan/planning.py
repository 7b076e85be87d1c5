"""From an experiment, a calibration and a cluster to a prediction, and that to words."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from raysim.core.execution import choose_block
from raysim.core.interfaces import Topology
from raysim.core.plugin import ConfigError
from raysim.plan import layout, model
from raysim.plan.case import Case, Prediction
from raysim.plan.facts import Calibration
from raysim.plan.machines import Cluster, here

STORE_SHARE = 0.3  # of a machine's memory is Ray's object store, unless Ray is told otherwise

if TYPE_CHECKING:
    from raysim.simulation import Simulation


def on_this_machine() -> Cluster:
    """This machine, with the coordinator beside the actors."""
    return Cluster(here(), None, 1, None)


def case(
    simulation: Simulation,
    facts: Calibration,
    cluster: Cluster,
    *,
    per_node: int | None = None,
    clients: int | None = None,
    speed: float = 1.0,
) -> Case:
    """What the model needs to know.

    Args:
        simulation: the experiment.
        facts: its calibration.
        cluster: where it is to run.
        per_node: actors on each node; one per GPU, or as many as the CPUs allow, if not given.
        clients: of the experiment; as many as it has if not given. Each has as much data as the measured ones.
        speed: how many times faster a core or GPU there is than one here.

    Raises:
        ConfigError: a rule that cannot have so many clients, or workers too small for an actor.
    """
    clients = facts.clients if clients is None else clients
    cohort = _cohort(simulation, clients)
    per_node = actors_per_node(simulation, cluster) if per_node is None else per_node
    device = "cuda" if cluster.worker.gpus else "cpu"
    block = simulation.execution.block or choose_block(cohort, facts.row_floats, device, facts.steps)
    actors = per_node * cluster.nodes
    laid = layout.layout(
        simulation.local, facts.sizes, cohort, block, actors, neighbours=simulation.rule.own_models
    )
    mixes = any(e.kind == "mix" for p in facts.patterns for e in p.exchanges)
    topology = next((v for v in vars(simulation.rule).values() if isinstance(v, Topology)), None)
    halo = layout.halo(topology, clients, laid.bounds_A, facts.clients) if mixes and topology else None
    evaluations = 1 + math.ceil(simulation.rounds / simulation.evaluate_every)
    return Case(facts, laid, clients, block, simulation.rounds, evaluations, cluster, per_node, speed, halo)


def _cohort(simulation: Simulation, clients: int) -> int:
    if clients < 1:
        raise ConfigError(f"There must be at least one client, got --clients {clients}.")
    size = simulation.cohort_size(clients)
    simulation.rule.fit(clients, size, simulation.local)
    return size


def actors_per_node(simulation: Simulation, cluster: Cluster, per_gpu: int = 1) -> int:
    """How many actors a node holds.

    Raises:
        ConfigError: not even one.
    """
    worker = cluster.worker
    if worker.gpus:
        return worker.gpus * per_gpu
    each = simulation.placement.cpus_per_actor
    number = int(worker.cpus / each + 1e-9)
    if number < 1:
        raise ConfigError(
            f"A client actor takes placement.cpus_per_actor={each:g}, but the worker {worker.name} has {worker.cpus:g} "
            "CPUs. Choose another --worker-type or a smaller cpus_per_actor."
        )
    return number


def predicted(simulation: Simulation, facts: Calibration, cluster: Cluster, **options: Any) -> Prediction:
    """The prediction with all that has to be said about it; arguments as for ``case``."""
    found = case(simulation, facts, cluster, **options)
    prediction = model.predict(found)
    twice = replace(cluster, nodes=2 * cluster.nodes)
    per_node = found.per_node
    then = model.predict(case(simulation, facts, twice, **(options | {"per_node": per_node})))
    prediction.notes.extend(notes(found, prediction, then))
    return prediction


def notes(case: Case, prediction: Prediction, twice: Prediction) -> list[str]:
    """What a reader must know before believing the numbers."""
    facts, cluster = case.facts, case.cluster
    said = []
    if case.on_gpus and facts.device == "cpu":
        said.append(
            f"No GPU was measured: one GPU is taken to be {case.speed:g} times as fast as one core of "
            f"{facts.processor}. Calibrate on a machine with such a GPU, or say --speed."
        )
    elif case.speed == 1.0 and not case.near:
        said.append(f"The workers are taken to be as fast as {facts.processor}; say --speed if they are not.")
    if not facts.calls.measured:
        said.append("Calls to actors were not measured (no Ray): their cost is assumed.")
    if cluster.most is not None and cluster.nodes > cluster.most:
        said.append(
            f"The file allows {cluster.most} workers of this type: raise max_workers for {cluster.nodes}."
        )
    if cluster.head is not None:
        said.append(
            f"Network {cluster.worker.gbits:g} Gbit/s of the workers ({cluster.worker.source}), "
            f"{cluster.head.gbits:g} Gbit/s of the head ({cluster.head.source})."
        )
    if prediction.idle:
        said.append(
            f"{prediction.idle} of {prediction.actors} actors have no work: a round has only {prediction.blocks} "
            f"blocks of {case.block} clients. Use fewer nodes, or a smaller execution.block."
        )
    said += _store(case) + _scaled(case)
    gain = prediction.round_s / max(twice.round_s, 1e-12)
    said.append(f"Twice the nodes: {shown_seconds(twice.round_s)} a round, {gain:.2f} times as fast.")
    said += [f"It does not fit: {name} would be {share:.0%} full." for name, share in _full(prediction)]
    return said


def _store(case: Case) -> list[str]:
    machines = [case.cluster.worker] + ([] if case.cluster.head is None else [case.cluster.head])
    data, room = model.data_bytes(case), STORE_SHARE * min(m.memory_gb for m in machines) * 1e9
    if data <= room:
        return []
    return [
        f"The data set ({shown_bytes(data)}) is larger than Ray's object store ({shown_bytes(room)}, "
        f"{STORE_SHARE:.0%} of a machine's memory): Ray keeps it on the disk there, which takes as much room and reads "
        "slowly. Give the machines more memory, or Ray a larger object_store_memory."
    ]


def _scaled(case: Case) -> list[str]:
    facts = case.facts
    each = any(e.kind == "mix" or model.gathers(facts, e) for p in facts.patterns for e in p.exchanges)
    if not each or case.layout.clients <= facts.cohort:
        return []
    return [
        "The coordinator works on a row or on edges of every client, for which it is taken to need as long as here for "
        "each: too little for rules whose work grows faster (Krum, complete graphs: with the square of the clients)."
    ]


def _full(prediction: Prediction) -> list[tuple[str, float]]:
    return [(name, share) for name, share in prediction.busy.items() if share > 1 and "memory" in name]


def refuse(prediction: Prediction) -> None:
    """Say so where memory does not suffice.

    Raises:
        ConfigError: naming what is too small.
    """
    for name, share in _full(prediction):
        raise ConfigError(
            f"{prediction.clients:,} clients do not fit: {name} would be {share:.0%} full. Use fewer --clients, a "
            "smaller cohort, more nodes where clients keep rows, or machines with more memory."
        )


def as_json(prediction: Prediction) -> dict[str, Any]:
    """The prediction for programs; units are in the names."""
    return asdict(prediction) | {"first": prediction.first, "fits": prediction.fits}


def rows(prediction: Prediction) -> list[tuple[str, str]]:
    """The prediction for people, line by line."""
    p, each, used = prediction, prediction.round, prediction.memory
    parts = [
        ("training", each.training_s),
        ("network", each.head_network_s + each.node_network_s),
        ("coordinator", each.coordinator_s),
        ("calls", each.calls_s),
    ]
    memory = f"{shown_bytes(used.actor_bytes)}" + (
        f", {shown_bytes(used.gpu_bytes)} on its GPU" if used.gpu_bytes else ""
    )
    return [
        ("actors", f"{p.actors:,}" + (f", {p.idle:,} without work" if p.idle else "")),
        ("clients", f"{p.clients:,}, {p.cohort:,} a round in {p.blocks:,} blocks"),
        (
            "a round",
            f"{shown_seconds(p.round_s)}: " + ", ".join(f"{name} {shown_seconds(s)}" for name, s in parts),
        ),
        ("an evaluation", shown_seconds(p.evaluation_s)),
        ("in all", shown_seconds(p.total_s)),
        ("memory per actor", memory),
        (
            "memory per node",
            f"{shown_bytes(used.node_bytes)}; coordinator's machine {shown_bytes(used.head_bytes)}",
        ),
        (
            "traffic of the head",
            f"{shown_bytes(each.down_bytes)} out, {shown_bytes(each.up_bytes)} in a round",
        ),
        (
            "traffic of a node",
            f"{shown_bytes(each.node_down_bytes)} in, {shown_bytes(each.node_up_bytes)} out a round at most",
        ),
        ("saturates first", f"{p.first} ({p.busy[p.first]:.0%})"),
    ]


def shown_seconds(value: float) -> str:
    """Seconds for people."""
    if value < 1:
        return f"{1000 * value:.3g} ms"
    if value < 300:
        return f"{value:.3g} s"
    return f"{value / 3600:.1f} h" if value >= 7200 else f"{value / 60:.0f} min"


def shown_bytes(value: float) -> str:
    """Bytes for people."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.0f} B"
