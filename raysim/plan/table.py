"""The predicted table of cluster/README.md: ``python -m raysim.plan.table``.

One experiment, calibrated here, on 1 to 1,000 GPUs with a thousand to ten million clients.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from raysim.plan import model, planning
from raysim.plan.calibration import calibrate
from raysim.plan.case import Prediction
from raysim.plan.facts import Calibration
from raysim.plan.machines import Cluster, instance
from raysim.simulation import Simulation

EXPERIMENT = """
data: Digits
partition: {name: IID, clients: 359}
model: {name: MLP, hidden: [64]}
local: {optimizer: {name: SGD, lr: 0.1}, steps: 10, batch_size: 4}
rule: Averaging
rounds: 100
evaluate_every: 10
"""
"""Every client has four images of 8 x 8, takes ten steps and is in every round; the model has 4,810 parameters."""

CLIENTS = (10**3, 10**4, 10**5, 10**6, 10**7)
GPUS = (1, 10, 100, 1000)
WORKER, HEAD = "g6.xlarge", "m7i.xlarge"  # what cluster/aws.yaml rents: one L4 a node


def table(simulation: Simulation, facts: Calibration, speed: float) -> str:
    """Markdown: a row for each number of clients, a column for each number of GPUs.

    Args:
        simulation: the experiment.
        facts: its calibration.
        speed: how many times faster a GPU is than what was measured.
    """
    worker, head = instance(WORKER), instance(HEAD)
    assert worker is not None
    lines = ["| clients | " + " | ".join(f"{gpus:,} GPU{'s' * (gpus > 1)}" for gpus in GPUS) + " |"]
    lines.append("| ---: |" + " --- |" * len(GPUS))
    for clients in CLIENTS:
        cells = [
            _cell(
                planning.predicted(
                    simulation, facts, Cluster(worker, head, gpus), clients=clients, speed=speed, per_node=1
                )
            )
            for gpus in GPUS
        ]
        lines.append(f"| {clients:,} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(p: Prediction) -> str:
    full = "" if p.fits else "**does not fit**, "
    idle = f", {p.idle:,} idle" if p.idle else ""
    return (
        f"{planning.shown_seconds(p.round_s)}; {planning.shown_bytes(p.memory.gpu_bytes)}; "
        f"{full}{p.first} {p.busy[p.first]:.0%}{idle}"
    )


def described(simulation: Simulation, facts: Calibration, speed: float) -> str:
    """What the table rests on, in words."""
    work_s = sum(e.work_s * p.share for p in facts.patterns for e in p.exchanges)
    calls = "measured there" if facts.calls.measured else "assumed, not measured"
    measured = "" if facts.device == "cuda" else " **No GPU was measured.**"
    return (
        f"**Predicted, not measured** (`python -m raysim.plan.table`). Averaging of an MLP with {facts.parameters:,} "
        "parameters; each client has four images of 8 × 8, takes ten steps of batch size 4 and is in every round. "
        f"Calibrated on {facts.processor} ({facts.device}): {1e6 * work_s / facts.cohort:.0f} µs a client update; "
        f"calls to actors ({calls}) {1e3 * facts.calls.call_s:.2g} ms and {1e3 * facts.calls.actor_s:.2g} ms more for "
        f"each actor, {1e9 * facts.calls.far_byte_s:.2g} ns a byte.{measured} One GPU is taken to be {speed:g} times "
        f"as fast. Each node is one {WORKER} (one L4), the head {HEAD}, networks as in the vendor's data sheet. A cell "
        "holds the time per round, the memory that an actor takes on its GPU, and what is busiest or fullest. "
        f"The model (`raysim/plan/model.py`) lets nothing overlap. {limited(simulation, facts)}"
    )


def limited(simulation: Simulation, facts: Calibration) -> str:
    """Where the head is full, in words: its memory grows in proportion to the clients."""
    worker, head = instance(WORKER), instance(HEAD)
    assert worker is not None
    assert head is not None
    asked = lambda clients: planning.case(
        simulation, facts, Cluster(worker, head, 10), clients=clients, per_node=1
    )
    few, many = (model.memory(asked(clients)).head_bytes for clients in (CLIENTS[0], CLIENTS[-1]))
    each = (many - few) / (CLIENTS[-1] - CLIENTS[0])
    most = (1e9 * head.memory_gb - few) / each + CLIENTS[0]
    stored = planning.STORE_SHARE * 1e9 * head.memory_gb / facts.memory.data_client
    return (
        "The head holds the training set twice (as read and as dealt out, then its own and the object store's), and "
        f"{model.HEAD_CLIENT_BYTES} bytes for each client beside it: {HEAD} is full at {most / 1e6:.1f} million of "
        f"these clients, and ten million take a head of {many / 1e9:.0f} GB. Beyond {stored / 1e6:.1f} million Ray's "
        "object store keeps what it has no room for on the disk."
    )


def main(arguments: list[str] | None = None) -> None:
    """Calibrate (or read a calibration) and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibration", type=Path, help="read it from here if it exists, else write it here")
    parser.add_argument("--no-ray", action="store_true", help="assume what calls to actors cost")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="of a GPU, in units of what is measured here"
    )
    options = parser.parse_args(arguments)
    simulation = Simulation.from_yaml(EXPERIMENT)
    if options.calibration and options.calibration.exists():
        facts = Calibration.read(options.calibration, simulation)
    else:
        facts = calibrate(simulation, ray=not options.no_ray)
        if options.calibration:
            facts.save(options.calibration)
    print(described(simulation, facts, options.speed), table(simulation, facts, options.speed), sep="\n\n")  # noqa: T201


if __name__ == "__main__":
    main()
