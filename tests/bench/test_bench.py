"""The benchmark measures what it says: its workloads, its counts, its reference."""

import json

import numpy as np
import pytest
import torch

from raysim.bench import machine, one, reference, suite
from raysim.bench.workloads import WORKLOADS, Workload, mlp, simulation

SMALL = Workload(mlp(8), (784,), 12, 6, 3, 4, 2, momentum=0.9)


def test_reference_loop_and_raysim_agree(monkeypatch):
    """The hand-written loop is the same computation: one round from the same start ends in the same model."""
    sim = simulation(SMALL, 0, "auto", None, 0)
    loop = reference.Loop(SMALL)
    flat = lambda module: torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    assert torch.equal(flat(loop.model), flat(sim.initial_model()))
    everyone = sim.replaced(cohort=None, rounds=2, evaluate_every=2)
    loop.round(list(range(12)))
    loop.round(list(range(12)))
    torch.testing.assert_close(flat(loop.model), everyone.run(None).x_P, rtol=1e-4, atol=1e-6)


def test_flops_are_those_of_the_products():
    """Per step: two products forward, two for the weights, one for the hidden layer, 2 flops each multiply-add."""
    by_hand = 2 * 3 * (2 * 784 * 8 + 2 * 8 * 10 + 8 * 10) * 2
    assert machine.flops(SMALL) == by_hand


def test_measuring(monkeypatch):
    monkeypatch.setitem(WORKLOADS, "small", SMALL)
    found = one.measure("small", 0)
    assert found["updates_per_s"] > 0
    assert found["form"] == "inplace"
    assert np.isfinite(found["loss"])


def test_suite_and_table(monkeypatch, capsys):
    rates = iter(range(1, 100))

    def fake(*arguments):
        if arguments[0] == "sgemm":
            return {"gflops": 80.0}
        facts = {"updates_per_s": 1000.0 * next(rates), "flops": 10**7}
        return facts | {
            "actors": 2 if "--actors" in arguments else 0,
            "form": "inplace",
            "block": 4,
            "round_ms": 1.0,
        }

    monkeypatch.setattr(suite, "one", fake)
    told = []
    rows = list(suite.suite(["mlp", "null"], 2, told.append))
    assert len(told) == len(rows) == 8
    table = suite.markdown(rows)
    assert "| mlp | raysim, in process | 2,000 | 25% |" in table  # 80 GFLOP/s over 10 MFLOP: 8,000 a second
    json.dumps(rows)


def test_failures_are_shown():
    with pytest.raises(RuntimeError, match="invalid choice"):
        suite.one("nonsense")
    from raysim import ConfigError

    with pytest.raises(ConfigError, match="no workload 'mpl'"):
        suite.known(["mpl"])


def test_memory_of_a_process_tree_is_seen():
    before = machine.memory_mb()
    block = torch.ones(30_000_000)
    assert 100 < machine.memory_mb() - before < 200
    del block
