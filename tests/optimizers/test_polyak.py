"""Stochastic Polyak steps against a naive loop, on least squares that can be fitted exactly, and in their corners."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import raysim as rs
from raysim.core import execution
from raysim.optimizers import PolyakStep
from tests.experiments import digits

GEN = torch.Generator().manual_seed(0)


class LeastSquares:
    """f_c(x) = ½ mean_b (<a_cb, x> - y_cb)² on a batch for each row, float64; x* fits everything."""

    def __init__(self, a_CBP, best_P):
        self.a_CBP, self.y_CB = a_CBP, a_CBP @ best_P

    def value_and_grad(self, x_CP):
        rest_CB = torch.einsum("cbp,cp->cb", self.a_CBP, x_CP) - self.y_CB
        grad_CP = torch.einsum("cbp,cb->cp", self.a_CBP, rest_CB) / rest_CB.shape[1]
        return 0.5 * rest_CB.square().mean(1), grad_CP


def normal(*shape):
    return torch.randn(*shape, generator=GEN, dtype=torch.float64)


def naive(x, batches, best, cap, c, growth):
    """Row by row and step by step in numpy; returns points and the last step."""
    x, last = x.copy(), None
    for a in batches:
        rest = a @ x - a @ best
        f, g = 0.5 * np.mean(rest**2), a.T @ rest / len(rest)
        bound = cap if growth is None or last is None else growth * last
        last = min(bound, f / (c * np.sum(g**2)))
        x = x - last * g
    return x, last


@pytest.mark.parametrize(("c", "growth", "cap"), [(0.5, None, 1e9), (0.5, None, 0.3), (0.2, 1.1, 0.05)])
def test_equals_a_naive_loop(c, growth, cap):
    best, x_CP, batches = normal(6), normal(3, 6), normal(25, 3, 4, 6)
    optimizer, after = PolyakStep(lr=cap, c=c, growth=growth), x_CP.clone()
    state = optimizer.init(x_CP)
    for a_CBP in batches:
        optimizer.step(LeastSquares(a_CBP, best), after, state, cap)
    for i in range(3):
        expected, last = naive(x_CP[i].numpy(), batches[:, i].numpy(), best.numpy(), cap, c, growth)
        np.testing.assert_allclose(after[i].numpy(), expected, rtol=1e-9, atol=1e-12)
        assert state["step"][i].item() == pytest.approx(last, rel=1e-6)


def test_converges_linearly_where_everything_can_be_fitted():
    """Straight down on a log scale, whatever the curvature, without a step size (c = 1/2, no cap)."""
    best, x_CP = normal(8), normal(5, 8)
    optimizer, logs = PolyakStep(lr=1e30), []
    state = optimizer.init(x_CP)
    for step in range(46):
        if step % 15 == 0:
            logs.append((x_CP - best).square().sum(1).log10())
        optimizer.step(LeastSquares(3.0 * normal(5, 4, 8), best), x_CP, state, 1e30)
    falls_KC = torch.stack(logs)[:-1] - torch.stack(logs)[1:]  # powers of ten in 15 steps
    assert (falls_KC > 1.5).all()
    assert (falls_KC < 6).all()


def test_never_moves_away_from_a_common_minimiser():
    """With c >= 1/2 no step of a convex interpolating loss increases the distance: the theory's key inequality."""
    best, x_CP, optimizer = normal(8), normal(5, 8), PolyakStep(lr=1e30)
    for _ in range(50):
        before_C = (x_CP - best).norm(dim=1)
        optimizer.step(LeastSquares(normal(5, 2, 8), best), x_CP, optimizer.init(x_CP), 1e30)
        assert ((x_CP - best).norm(dim=1) <= before_C * (1 + 1e-12)).all()


class Given:
    """An objective with these numbers."""

    def __init__(self, loss_C, grad_CP):
        self.loss_C, self.grad_CP = loss_C, grad_CP

    def value_and_grad(self, x_CP):
        return self.loss_C, self.grad_CP


def test_rows_with_nothing_to_gain_stay_and_remember_their_step():
    """No gradient; a loss at, or below, what was called the minimum; and an ordinary row between them."""
    loss_C = torch.tensor([1.0, 0.3, 0.1, 2.3])
    grad_CP = torch.tensor([[0.0], [1.0], [1.0], [2.0]])
    x_CP, optimizer = torch.zeros(4, 1), PolyakStep(lr=9.0, minimum=0.3)
    state = {"step": torch.full((4, 1), 0.7)}
    optimizer.step(Given(loss_C, grad_CP), x_CP, state, 9.0)
    torch.testing.assert_close(x_CP[:, 0], torch.tensor([0.0, 0.0, 0.0, -2.0]))  # (2.3 - 0.3) / (0.5 * 4) = 1
    torch.testing.assert_close(state["step"][:, 0], torch.tensor([0.7, 0.7, 0.7, 1.0]))


def some(form, optimizer, **changes):
    fields = {
        "partition": rs.partitions.Dirichlet(clients=6, alpha=0.5),
        "model": rs.models.MLP(hidden=(12,), activation="tanh"),
        "local": rs.Local(optimizer=optimizer, steps=2, batch_size=16, shuffle=False, keep_state=True),
        "cohort": None,
        "rounds": 8,
        "evaluate_every": 1,
        "rule": rs.rules.Averaging(weighting="uniform"),
        "execution": rs.Execution(form=form, block=4),
    }
    return digits(**(fields | changes))


def by_hand(sim, cap, c, growth):
    """Clients one by one in torch: the final model and each round's mean last step."""
    data = sim.data.load()
    shares, model = sim.partition.split(data, sim.seed), sim.initial_model(data)
    x = parameters_to_vector(model.parameters()).detach()
    last, told = [None] * len(shares), []
    for _ in range(sim.rounds):
        moved = []
        for i, share in enumerate(shares):
            y = x.clone()
            for index in (share[:16], share[16:32]):
                vector_to_parameters(y.clone(), model.parameters())
                out = model(torch.from_numpy(data.x_train[index]))
                loss = F.cross_entropy(out, torch.from_numpy(data.y_train[index]))
                g = parameters_to_vector(torch.autograd.grad(loss, list(model.parameters())))
                bound = cap if last[i] is None else growth * last[i]
                last[i] = min(bound, loss.item() / (c * g.dot(g).item()))
                y = y - last[i] * g
            moved.append(y - x)
        x = x + sum(moved) / len(moved)
        told.append(np.average(last, weights=[len(s) for s in shares]))
    return x, told


@pytest.mark.parametrize("form", ["loop", "stacked", "inplace"])
def test_local_training_equals_clients_by_hand(form):
    sim = some(form, PolyakStep(lr=0.1, c=0.7, growth=1.3))
    expected, told = by_hand(sim, 0.1, 0.7, 1.3)
    result = sim.run(None)
    torch.testing.assert_close(result.x_P, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(result.metrics["step"][1:], told, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not execution.has_compiler(), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns about itself
def test_compiled_agrees():
    runs = [some(f, PolyakStep(lr=0.1, growth=1.3), rounds=3).run(None) for f in ("stacked", "compiled")]
    torch.testing.assert_close(runs[0].x_P, runs[1].x_P, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: PolyakStep(lr=0.0), r"PolyakStep\.lr must be greater than 0"),
        (lambda: PolyakStep(lr=1.0, c=0.0), r"PolyakStep\.c must be greater than 0"),
        (lambda: PolyakStep(lr=1.0, growth=0.5), r"PolyakStep\.growth must be greater than or equal to 1"),
        (lambda: PolyakStep(lr=1.0, minimum=float("inf")), r"PolyakStep\.minimum must be"),
    ],
)
def test_wrong_fields_are_refused(build, words):
    with pytest.raises(rs.ConfigError, match=words):
        build()


def test_a_server_has_no_loss_to_step_by():
    rule = rs.rules.Averaging(server=PolyakStep(lr=1.0))
    with pytest.raises(rs.ConfigError, match=r"PolyakStep, which needs the loss.*Use it as Local\.optimizer"):
        some("auto", rs.optimizers.SGD(lr=0.1), rule=rule, rounds=1)
