"""Compressed SGD whose steps a search finds, and when it diverges; and how the engine runs steps that search."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import raysim as rs
from raysim.core import execution
from raysim.core.batches import Batch
from raysim.core.clients import Clients
from raysim.core.losses import CrossEntropy
from raysim.core.task import Task
from raysim.core.terms import Term
from raysim.core.training import BatchObjective, Trainer
from raysim.optimizers import Armijo, PolyakStep
from raysim.runtime.coordinator import Coordinator
from tests.experiments import arrays, digits

GEN = torch.Generator().manual_seed(0)


# ---- CSGD-ASSS -----------------------------------------------------------------------------------------------


class Quadratic:
    """f(x) = ½ xᵀAx with a random basis and eigenvalues log-spaced in [1, 10], a single row.

    It starts so far out that gradients do not get too small to search along.
    """

    def __init__(self, d):
        rng = np.random.Generator(np.random.PCG64(0))
        q, _ = np.linalg.qr(rng.standard_normal((d, d)))
        self.a = torch.from_numpy(q @ np.diag(np.logspace(0, 1, d)) @ q.T)
        self.start = torch.from_numpy(1e40 * rng.standard_normal((1, d)))

    def value(self, x_1P):
        return 0.5 * ((x_1P @ self.a) * x_1P).sum(1)

    def value_and_grad(self, x_1P):
        return self.value(x_1P), x_1P @ self.a

    def picked(self, index_A):
        return self


def compressed(d, k, scale, steps=2000):
    """log10 f(x_T) / f(x_0) of top-k with memory on our search's steps: x - y is what the search would change."""
    objective, optimizer = Quadratic(d), Armijo(lr=0.1, scale=scale)
    x, memory = objective.start.clone(), torch.zeros(1, d, dtype=torch.float64)
    state, first = optimizer.init(x), objective.value(x)
    for _ in range(steps):
        y = x.clone()
        optimizer.step(objective, y, state, 0.1)
        memory += x - y
        sent = torch.zeros_like(memory)
        for p in memory[0].abs().argsort(descending=True)[:k]:
            sent[0, p] = memory[0, p]
        x, memory = x - sent, memory - sent
        if not objective.value(x) < 1e100 * first:
            return np.inf
    return (objective.value(x) / first).log10().item()


@pytest.mark.parametrize(
    ("d", "k", "scale"), [(5, 1, 0.5), (5, 1, 0.3), (5, 1, 0.1), (20, 1, 0.1), (100, 10, 0.2)]
)
def test_scaled_steps_converge_through_top_k_with_memory(d, k, scale):
    assert compressed(d, k, scale) < -30


@pytest.mark.parametrize(("d", "k"), [(5, 1), (20, 1), (100, 10)])
def test_unscaled_steps_do_not(d, k):
    """The memory delays what is sent by about d/k steps, for which Armijo's steps are too long."""
    assert compressed(d, k, 1.0) > 3


def test_nothing_is_lost_without_compression():
    assert compressed(20, 20, 1.0, steps=200) < -30


def worker_gradient(model, x, images, labels):
    vector_to_parameters(x.clone(), model.parameters())
    loss = F.cross_entropy(model(images), labels)
    return loss.item(), parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))


def by_hand(sim, lr, scale, k):
    """Every worker searches on its batch, adds its memory, sends its k largest; in torch, one after the other."""
    data = sim.data.load()
    shares, model = sim.partition.split(data, sim.seed), sim.initial_model(data)
    x = parameters_to_vector(model.parameters()).detach()
    memory, alphas = [torch.zeros_like(x) for _ in shares], [lr / 1.2 for _ in shares]
    for _ in range(sim.rounds):
        total = torch.zeros_like(x)
        for j, share in enumerate(shares):
            batch = torch.from_numpy(data.x_train[share[:8]]), torch.from_numpy(data.y_train[share[:8]])
            f, g = worker_gradient(model, x, *batch)
            alphas[j] *= 1.2
            while worker_gradient(model, x - alphas[j] * g, *batch)[0] > f - 0.1 * alphas[j] * g.dot(g):
                alphas[j] *= 0.8
            memory[j] += scale * alphas[j] * g
            sent = torch.zeros_like(x)
            largest = memory[j].abs().topk(k).indices
            sent[largest] = memory[j][largest]
            memory[j] -= sent
            total += sent
        x = x - total / len(shares)
    return x


def test_distributed_with_feedback_on_the_uplink_equals_workers_by_hand():
    top, optimizer = rs.compressors.TopK(fraction=0.1), Armijo(lr=1.0, scale=0.3)
    sim = digits(
        data=arrays(),  # no two inputs alike, whose gradients would be candidates of one size
        partition=rs.partitions.IID(clients=5),
        model=rs.models.MLP(hidden=(12,), activation="tanh"),
        local=rs.Local(optimizer=optimizer, steps=1, batch_size=8, shuffle=False, keep_state=True),
        rule=rs.rules.Averaging(weighting="uniform"),
        cohort=None,
        rounds=20,
        uplink=(rs.compressors.Feedback(top),),
    )
    result = sim.run(None)
    expected = by_hand(sim, 1.0, 0.3, round(0.1 * len(result.x_P)))
    torch.testing.assert_close(result.x_P, expected, rtol=1e-3, atol=1e-4)
    assert result.metrics["evaluations"].max() > 1


# ---- the engine ----------------------------------------------------------------------------------------------


def case(kind):
    """A trainer in every form, rows, and a batch: plain, padded, or with dropout."""
    middle = [nn.Dropout(0.5)] if kind == "dropout" else []
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), *middle, nn.Linear(5, 3))
    task = Task(module, CrossEntropy())
    weight = torch.rand(4, 7, generator=GEN) if kind == "padded" else None
    key_C = torch.arange(4) if kind == "dropout" else None
    labels = torch.randint(0, 3, (4, 7), generator=GEN)
    batch = Batch(torch.randn(4, 7, 6, generator=GEN), labels, weight, key_C)
    forms = ["loop", "stacked", "compiled"] + ["inplace"] * (task.chain is not None)
    x_CP = task.initial() + 0.1 * torch.randn(4, task.P, generator=GEN)
    return {form: Trainer(task, form) for form in forms}, x_CP, batch


@pytest.mark.parametrize("kind", ["plain", "padded", "dropout"])
def test_a_loss_alone_is_the_loss_beside_the_gradient_in_every_form(kind):
    """To the bit, or a search could never accept a short step; and dropout is the same at every trial."""
    trainers, x_CP, batch = case(kind)
    for trainer in trainers.values():
        value_C = trainer.value(x_CP, batch)
        assert torch.equal(value_C, trainer.gradient(x_CP, batch)[0])
        torch.testing.assert_close(value_C, trainers["loop"].value(x_CP, batch))


@pytest.mark.parametrize("kind", ["plain", "padded", "dropout"])
@pytest.mark.parametrize("shared", [False, True])
def test_picked_clients_have_their_own_examples_keys_and_terms(kind, shared):
    trainers, x_CP, batch = case(kind)
    linear = torch.randn(x_CP.shape[1] if shared else x_CP.shape, generator=GEN)
    term = Term(0.7 if shared else torch.rand(4, 1, generator=GEN), linear)
    index_A = torch.tensor([1, 3])
    for trainer in trainers.values():
        objective = BatchObjective(trainer.gradient, trainer.value, batch, term)
        value_A = objective.picked(index_A).value(x_CP[index_A])
        torch.testing.assert_close(value_A, objective.value(x_CP)[index_A])


def some(optimizer, block=3, form="auto", keep=True, **changes):
    local = rs.Local(optimizer=optimizer, epochs=1, batch_size=8, keep_state=keep)
    fields = {"local": local, "rounds": 3, "evaluate_every": 1}
    return digits(**(fields | {"execution": rs.Execution(form=form, block=block)} | changes))


@pytest.mark.parametrize("optimizer", [Armijo(lr=1.0), PolyakStep(lr=1.0, growth=1.5)])
@pytest.mark.parametrize("form", ["stacked", "inplace", "compiled"])
def test_forms_agree_on_ragged_clients(optimizer, form):
    """A search is never compiled: in that form it runs stacked, at once."""
    if form == "compiled" and (not optimizer.searches or not execution.has_compiler()):
        pytest.skip("needs a C++ compiler, and minutes")
    one, other = (some(optimizer, form=f, rounds=2).run(None) for f in ("loop", form))
    torch.testing.assert_close(one.x_P, other.x_P, rtol=1e-3, atol=1e-4)
    for name in optimizer.reported:
        np.testing.assert_allclose(one.metrics[name][1:], other.metrics[name][1:], rtol=1e-3)


def aligned():
    """A network whose layers all begin at a cache line, so that products round alike wherever a row lies."""
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 16, bias=False), nn.Tanh(), nn.Linear(16, 10, bias=False)
    )


def played(sim, rounds=4, look=False):
    """What every client's training changes in each round, [rounds, C, P], and the coordinator's reports."""
    coordinator = Coordinator(sim, None)
    server, rows, told = coordinator._prepare(), [], []
    for r in range(rounds):
        clients = Clients(coordinator.fleet, coordinator._plan(r), coordinator.P)
        if look:
            clients.rows(changed, server.x_P, measure=True)
        delta_CP = clients.rows(changed, server.x_P)[torch.from_numpy(clients.ids).argsort()]
        rows.append(delta_CP)
        told.append({k: v[clients.ids.argsort()] for k, v in clients.reports.items()})
        server = server.at(server.x_P + delta_CP.mean(0))
    return torch.stack(rows), told


def changed(cohort, x_P):
    return cohort.update(x_P).clone()


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_a_search_finds_the_same_bits_in_any_block(form):
    fields = {"partition": rs.partitions.IID(clients=8), "cohort": None}
    fields |= {"model": rs.models.Custom(factory=aligned)}
    fields |= {"local": rs.Local(optimizer=Armijo(lr=4.0), steps=3, batch_size=8, keep_state=True)}
    runs = [played(some(Armijo(lr=4.0), block, form, **fields)) for block in (1, 3, 8)]
    assert len(np.unique(runs[0][1][0]["evaluations"])) > 1  # some searched longer than others
    for rows_RCP, told in runs[1:]:
        assert torch.equal(rows_RCP, runs[0][0])
        for one, other in zip(told, runs[0][1], strict=True):
            assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("keep", [False, True])
def test_measuring_leaves_steps_and_counters_alone(keep):
    sim = some(Armijo(lr=1.0), keep=keep, cohort=None)
    (rows_RCP, told), (looked_RCP, looked) = played(sim), played(sim, look=True)
    assert torch.equal(rows_RCP, looked_RCP)
    for one, other in zip(told, looked, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("keep", [False, True])
def test_the_step_size_is_a_start_and_counters_begin_anew_each_round(keep):
    """So short a step is always accepted: one evaluation a step, and α grows from where the search began."""
    lr = rs.schedules.Step(lr=1e-3, every=1, factor=0.1)
    local = rs.Local(optimizer=Armijo(lr=lr, growth=1.5), steps=2, batch_size=8, keep_state=keep)
    metrics = some(Armijo(lr=lr), local=local, cohort=None).run(None).metrics
    begins = [1e-3, 1e-3 * 1.5**2, 1e-3 * 1.5**4] if keep else [1e-3, 1e-4, 1e-5]
    np.testing.assert_allclose(metrics["step"][1:], np.array(begins) * 1.5, rtol=1e-5)
    assert metrics["evaluations"][1:].tolist() == pytest.approx([2, 2, 2])


@pytest.mark.parametrize("keep", [False, True])
def test_reports_come_from_every_piece_of_a_block_that_ran_out_of_memory(monkeypatch, keep):
    sim, real = some(Armijo(lr=1.0), 6, "loop", keep), Trainer.train
    expected = sim.run(None).metrics

    def train(self, x_CP, *rest):
        if len(x_CP) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return real(self, x_CP, *rest)

    monkeypatch.setattr(Trainer, "train", train)
    with pytest.warns(UserWarning, match=r"Out of memory with .* clients at once"):
        metrics = sim.run(None).metrics
    for name in ("step", "evaluations"):
        np.testing.assert_allclose(metrics[name][1:], expected[name][1:], rtol=1e-3)
