"""One measurement in a process of its own: ``python -m raysim.bench.one mlp --actors 2`` prints a JSON line."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import Any

import torch

from raysim.bench import machine, reference
from raysim.bench.workloads import WORKLOADS, simulation
from raysim.runtime import placing
from raysim.runtime.coordinator import Coordinator

WARM = 3


def measure(
    name: str, actors: int, form: str = "auto", block: int | None = None, rounds: int | None = None
) -> dict[str, Any]:
    """Client updates per second of a workload, and what they took."""
    w = WORKLOADS[name]
    w = replace(w, rounds=rounds or w.rounds)
    began = time.perf_counter()
    marks: list[tuple[int, float]] = []
    memory = [0.0]

    def watch(
        event: dict[str, Any],
    ) -> None:  # between rounds, whose seconds the coordinator counts without it
        if event["kind"] == "round":
            marks.append((event["client_updates"], event["seconds"]))
            if len(marks) in (WARM, WARM + w.rounds):
                memory.append(machine.memory_mb())

    sim = simulation(w, actors, form, block, WARM)
    if actors:
        placing.connect(sim.placement)
    outcome = Coordinator(sim, None, watch=watch).run()
    total = time.perf_counter() - began
    (u0, s0), (u1, s1) = marks[WARM - 1], marks[-1]
    return {
        "workload": name, "actors": actors, "form": outcome.form, "block": outcome.block,
        "updates_per_s": (u1 - u0) / (s1 - s0), "round_ms": 1000 * (s1 - s0) / w.rounds,
        "peak_mb": max(memory), "startup_s": total - s1, "loss": outcome.rows[-1]["loss"],
    }  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload", choices=[*WORKLOADS, "reference", "sgemm"])
    parser.add_argument("--of", default="mlp", help="workload of the reference loop")
    parser.add_argument("--actors", type=int, default=0)
    parser.add_argument("--form", default="auto")
    parser.add_argument("--block", type=int)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.workload == "sgemm":
        print(json.dumps({"gflops": machine.sgemm(args.threads)}))  # noqa: T201
    elif args.workload == "reference":
        w = WORKLOADS[args.of]
        rate = reference.rate(w, args.rounds or max(2, w.rounds // 5))
        print(json.dumps({"updates_per_s": rate, "flops": machine.flops(w)}))  # noqa: T201
    else:
        print(json.dumps(measure(args.workload, args.actors, args.form, args.block, args.rounds)))  # noqa: T201


if __name__ == "__main__":
    main()
