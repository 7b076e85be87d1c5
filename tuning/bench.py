"""What sweeps cost: ``python -m tuning.bench`` measures stacks against separate runs, and trials through Ray Tune.

Stacks and separate runs take turns in one process; of each the fastest turn counts. Their seconds are those of the
rounds, as the metrics have them: loading data and building networks is not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import numpy as np

import raysim as rs
from raysim.bench.workloads import WORKLOADS, simulation
from raysim.optimizers import SGD
from raysim.simulation import Simulation
from tuning.population import Population
from tuning.sweep import Sweep, sweep

TURNS = 3


def digits(lr: float) -> Simulation:
    """Small: 8 clients take 5 steps a round on the embedded digits with 2,410 parameters; calls cost more than sums."""
    return Simulation(
        data=rs.data.Digits(),
        partition=rs.partitions.IID(8),
        model=rs.models.MLP(hidden=(32,)),
        local=rs.Local(SGD(lr=lr), steps=5, batch_size=16),
        rounds=50,
        evaluate_every=50,
    )


def mlp() -> list[Simulation]:
    """The workload ``mlp`` of ``raysim bench`` with four step sizes: arithmetic is most of what it costs."""
    one = simulation(WORKLOADS["mlp"], actors=0, form="inplace", block=None, warm=0)
    optimizer = one.local.optimizer
    return [one.replaced(local=replace(one.local, optimizer=replace(optimizer, lr=lr)))  # type: ignore[type-var]
            for lr in (0.01, 0.02, 0.05, 0.1)]  # fmt: skip


def stacked(name: str, simulations: list[Simulation]) -> str:
    """How the time of separate runs compares with that of a stack."""
    separate = lambda: sum(s.run(None).seconds for s in simulations)
    together = lambda: sum(r.seconds for r in Population(simulations).run())
    turns = [(separate(), together()) for _ in range(TURNS)]
    alone, stack = (min(column) for column in zip(*turns, strict=True))
    return (
        f"{name}: {len(simulations)} runs one by one {alone:.2f} s, as one stack {stack:.2f} s: "
        f"{stack / alone:.2f} times the time"
    )


def trivial(**options: object) -> Callable[[str], Sweep]:
    """A sweep of 100 experiments of two rounds each, in a folder."""
    rates = np.geomspace(0.01, 0.5, 100).tolist()
    one = replace(digits(0.1), rounds=2, evaluate_every=2)
    over: dict[str, object] = {"local.optimizer.lr": rates}
    return lambda folder: sweep(one, over, folder=folder, progress=False, **options)  # type: ignore[arg-type]


def timed(name: str, run: Callable[[str], Sweep]) -> str:
    """Seconds of a sweep from its call to its end, Ray's start included where it takes one."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = run(f"{folder}/sweep")
        seconds = time.perf_counter() - began
    return f"{name}: {len(found.runs)} trials in {seconds:.1f} s"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["digits", "mlp", "trials", "tune"])
    say = lambda line: print(line, flush=True)  # noqa: T201
    warnings.simplefilter("ignore")
    measures: dict[str, Callable[[], str]] = {
        "digits": lambda: stacked("digits", [digits(lr) for lr in np.geomspace(0.001, 1, 32).tolist()]),
        "mlp": lambda: stacked("mlp", mlp()),
        "trials": lambda: timed("trials, as stacks", trivial(how="population")),
        "tune": lambda: timed("trials, through Ray Tune", trivial(how="tune")),
    }
    for what in parser.parse_args().what:
        say(measures[what]())


if __name__ == "__main__":
    main()
