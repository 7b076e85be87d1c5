"""Forms: the same numbers, chosen the same way every time, with a way out where one is impossible."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import raysim as rs
from raysim.core import execution
from raysim.core.cohorts import plan
from raysim.core.execution import choose_block
from raysim.core.host import Host, Setup
from tests.experiments import arrays, digits, same


@pytest.mark.parametrize(
    "optimizer",
    [rs.optimizers.SGD(lr=0.1), rs.optimizers.SGD(lr=0.05, momentum=0.9), rs.optimizers.Adam(lr=0.01)],
)
def test_forms_agree_on_ragged_clients(optimizer):
    local = rs.Local(optimizer=optimizer, epochs=1, batch_size=8)
    runs = [
        digits(local=local, rounds=2, execution=rs.Execution(form=f, block=3)).run(None)
        for f in ("loop", "stacked", "inplace")
    ]
    for other in runs[1:]:
        torch.testing.assert_close(runs[0].x_P, other.x_P, rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(
            runs[0].metrics["train_loss"][1:], other.metrics["train_loss"][1:], rtol=1e-4
        )


@pytest.mark.slow
@pytest.mark.skipif(not execution.has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_compiled_agrees_on_ragged_clients(kept):
    local = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=64, keep_state=kept
    )
    fields = {
        "local": local,
        "rounds": 2,
        "partition": rs.partitions.Dirichlet(clients=12, alpha=1.0),
        "cohort": 6,
    }
    runs = [
        digits(**fields, execution=rs.Execution(form=f, block=3)).run(None) for f in ("stacked", "compiled")
    ]
    torch.testing.assert_close(runs[0].x_P, runs[1].x_P, rtol=1e-3, atol=1e-4)


def test_without_a_compiler_stacked_runs_and_says_so(monkeypatch):
    monkeypatch.setattr(execution, "has_compiler", lambda: False)
    with pytest.warns(UserWarning, match=r"No C\+\+ compiler"):
        result = digits(execution=rs.Execution(form="compiled", block=3)).run(None)
    assert same(result, digits(execution=rs.Execution(form="stacked", block=3)).run(None))


def form_of(folder):
    import json

    return json.loads((folder / "run.json").read_text())["form"]


def test_auto_is_a_function_of_the_network(tmp_path):
    cases = {
        "inplace": rs.models.MLP(hidden=(8,)),
        "loop": rs.models.CNN(),
        "stacked": rs.models.Custom(
            factory=lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10))
        ),
    }
    for form, model in cases.items():
        digits(model=model, rounds=1, execution=rs.Execution()).run(tmp_path / form)
        assert form_of(tmp_path / form) == form


def test_fastest_is_one_of_the_forms(tmp_path, monkeypatch):
    monkeypatch.setattr(
        Host, "time_form", lambda self, form, plan, x_P: {"loop": 2.0, "stacked": 1.0}.get(form, 3.0)
    )
    digits(rounds=1, execution=rs.Execution(form="fastest")).run(tmp_path / "run")
    assert form_of(tmp_path / "run") == "stacked"


def test_timing_a_form_moves_nothing():
    sim = digits(rounds=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from raysim.runtime.coordinator import Coordinator

        coordinator = Coordinator(sim, None)
        server = coordinator._prepare()
    seconds = {
        f: coordinator.fleet.host.time_form(f, coordinator._plan(0), server.x_P)
        for f in ("loop", "stacked", "inplace")
    }
    assert all(0 < s < 60 for s in seconds.values())
    outcome = coordinator._rounds(server)
    assert torch.equal(outcome.server.x_P, sim.run(None).x_P)


class Refuser(nn.Module):
    """Branches on a value, which vmap cannot."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        out = self.layer(x.flatten(1))
        return out if out.sum() > 0 else 2 * out


def test_a_network_that_vmap_refuses_runs_as_a_loop():
    model = rs.models.Custom(factory=Refuser)
    with pytest.warns(UserWarning, match="cannot train as a stack"):
        stacked = digits(model=model, execution=rs.Execution(form="stacked", block=3)).run(None)
    assert same(stacked, digits(model=model, execution=rs.Execution(form="loop", block=3)).run(None))


def test_inplace_is_refused_for_what_is_no_chain():
    with pytest.raises(rs.ConfigError, match=r"'inplace' needs an nn\.Sequential"):
        digits(model=rs.models.CNN(), execution=rs.Execution(form="inplace")).run(None)


@pytest.mark.parametrize("kept", [False, True])
def test_out_of_memory_means_a_smaller_stack(monkeypatch, kept):
    """Training fails for more than two rows at once: the run goes on in stacks that fit, and says so."""
    from raysim.core.training import Trainer

    real = Trainer.train

    def train(self, x_CP, *rest):
        if len(x_CP) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(self, x_CP, *rest)

    local = rs.Local(
        optimizer=rs.optimizers.SGD(lr=0.05, momentum=0.9), epochs=1, batch_size=8, keep_state=kept
    )
    expected = digits(local=local, execution=rs.Execution(block=6)).run(None)
    monkeypatch.setattr(Trainer, "train", train)
    with pytest.warns(UserWarning, match=r"Out of memory with .* clients at once"):
        result = digits(local=local, execution=rs.Execution(block=6)).run(None)
    torch.testing.assert_close(result.x_P, expected.x_P, rtol=1e-4, atol=1e-5)


def test_blocks_divide_a_cohort_among_up_to_four_actors():
    for cohort in (16, 64, 100, 1000, 10_000):
        for P in (100, 4_810, 50_890, 2_000_000):
            block = choose_block(cohort, P, "cpu")
            assert 1 <= block <= cohort
            assert -(-cohort // block) >= 4
    assert choose_block(3, 100, "cpu") == 3
    assert choose_block(1000, 100, "cuda") == 250


def test_models_with_a_frozen_part_keep_it(tmp_path):
    def factory():
        net = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        net[2].requires_grad_(False)
        return net

    sim = digits(
        data=arrays(),
        partition=rs.partitions.IID(clients=6),
        cohort=3,
        model=rs.models.Custom(factory=factory),
    )
    result = sim.run(None)
    assert torch.equal(result.model()[2].weight, sim.initial_model()[2].weight)
    assert not torch.equal(result.model()[0].weight, sim.initial_model()[0].weight)


@pytest.mark.parametrize("form", ["loop", "inplace"])
@pytest.mark.parametrize(
    "optimizer",
    [
        rs.optimizers.SGD(lr=0.1),
        rs.optimizers.SGD(lr=0.1, weight_decay=0.1),
        rs.optimizers.SGD(lr=0.05, momentum=0.9),
    ],
)
@pytest.mark.parametrize("steps", [{"epochs": 1}, {"steps": 1}, {"steps": 0}])
def test_an_update_is_what_training_changed(form, optimizer, steps):
    sim = digits(
        local=rs.Local(optimizer=optimizer, batch_size=8, **steps), execution=rs.Execution(form=form, block=5)
    )
    dataset, shards = sim.load()
    module = sim.initial_model(dataset)
    host = Host(Setup(dataset, shards, module, sim.local, sim.seed, form))
    start_P = host.task.initial()

    def both(cohort, x_P):
        trained = cohort.train(x_P).clone()
        losses = dict(cohort.reports)
        changed = cohort.update(x_P).clone()
        for name, value in losses.items():
            torch.testing.assert_close(cohort.reports[name], value)
        return trained - x_P, changed

    rows = host.exchange(both, (start_P,), plan(sim.local, shards, np.arange(30), 0, 5), "rows").rows
    assert len(rows) == 6
    for expected, got in rows:
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
