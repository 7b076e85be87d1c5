"""MaSS against the paper's two forms, written as loops; its restarts; and its rows in the engine."""

import dataclasses

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core.plugin import ConfigError
from raysim.core.server import Server
from raysim.optimizers import SGD, MaSS
from tests.experiments import digits

STEPS, P = 30, 5
CURVATURE = np.linspace(0.1, 2, P)
FORMS = [(0.05, 2.0), (0.05, 12.0), (0.3, 1.0), (1.0, 3.0), (1.0, 1.0)]


def gradient(x, t):
    """A stretched bowl with ripples, moved about from step to step."""
    return CURVATURE * x + np.sin(x) + np.cos(3.0 * t)


def start(rows=1, seed=0):
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((rows, P))


def naive_wu(x, eta1_t, gamma, eta2_t, decay=0.0):
    """w' = u - η1 g, u' = (1 + γ) w' - γ w + η2 g, begun anew with w = u where η1 falls."""
    w, u, last = x.copy(), x.copy(), np.inf
    for t, (eta1, eta2) in enumerate(zip(eta1_t, eta2_t, strict=True)):
        if eta1 < last:
            w = u.copy()
        g = gradient(u, t) + decay * u
        new_w = u - eta1 * g
        u = (1 + gamma) * new_w - gamma * w + eta2 * g
        w, last = new_w, eta1
    return u


def naive_wvu(x, eta, alpha, kappa):
    """The authors' code: w' = u - η g, v' = (1-α) v + α u - δ g, u' = (α v' + w') / (1 + α), δ = η / (α κ̃)."""
    w, v, u = x.copy(), x.copy(), x.copy()
    delta = eta / (alpha * kappa)
    for t in range(STEPS):
        g = gradient(u, t)
        w = u - eta * g
        v = (1 - alpha) * v + alpha * u - delta * g
        u = alpha / (1 + alpha) * v + 1 / (1 + alpha) * w
    return u


def run(optimizer, x, lr_t=None, dtype=torch.float64):
    """Where the optimiser ends, and its state."""
    x_CP = torch.tensor(x, dtype=dtype)
    state = optimizer.init(x_CP)
    for t, lr in enumerate([optimizer.lr] * STEPS if lr_t is None else lr_t):
        grad_CP = torch.tensor(gradient(x_CP.double().numpy(), t), dtype=dtype)
        optimizer.update(x_CP, grad_CP, state, lr)
    return x_CP, state


@pytest.mark.parametrize(("alpha", "kappa"), FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_both_forms_of_the_paper(alpha, kappa, dtype):
    eta, gamma = 0.3, (1 - alpha) / (1 + alpha)
    eta2 = eta * (1 - 1 / kappa) / (1 + alpha)
    wvu = naive_wvu(start(3), eta, alpha, kappa)
    wu = naive_wu(start(3), [eta] * STEPS, gamma, [eta2] * STEPS)
    np.testing.assert_allclose(wvu, wu, rtol=1e-9, atol=1e-12)
    bounds = {"rtol": 1e-9, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-4}
    for ours in (
        MaSS(lr=eta, alpha=alpha, kappa=kappa),
        MaSS(lr=eta, momentum=gamma, secondary=eta2 / eta),
    ):
        found = run(ours, start(3), dtype=dtype)[0]
        assert found.dtype == dtype
        np.testing.assert_allclose(found.numpy(), wu, **bounds)


def test_compensation_and_momentum_both_matter():
    """The forms above agree on something that neither SGD nor Nesterov's method does."""
    ours = run(MaSS(lr=0.3, alpha=0.05, kappa=2), start())[0]
    for other in (SGD(lr=0.3), SGD(lr=0.3, momentum=0.95 / 1.05, nesterov=True)):
        assert (run(other, start())[0] - ours).abs().max() > 0.01


def test_without_momentum_and_compensation_it_is_sgd():
    ours = run(MaSS(lr=0.3, momentum=0.0, secondary=0.0), start(2))[0]
    torch.testing.assert_close(ours, run(SGD(lr=0.3), start(2))[0])


def test_without_compensation_it_is_torchs_nesterov():
    expected = torch.tensor(start(2), requires_grad=True)
    theirs = torch.optim.SGD([expected], lr=0.3, momentum=0.9, nesterov=True, weight_decay=0.02)
    for t in range(STEPS):
        expected.grad = torch.from_numpy(gradient(expected.detach().numpy(), t))
        theirs.step()
    ours = run(MaSS(lr=0.3, momentum=0.9, secondary=0.0, weight_decay=0.02), start(2))[0]
    torch.testing.assert_close(ours, expected.detach())


def test_weight_decay_is_part_of_the_gradient():
    ours = run(MaSS(lr=0.2, momentum=0.9, secondary=0.4, weight_decay=0.1), start(2))[0]
    expected = naive_wu(start(2), [0.2] * STEPS, 0.9, [0.08] * STEPS, decay=0.1)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_starts_anew_where_the_step_size_is_cut_and_only_there(dtype):
    lr_t = [0.1] * 6 + [0.3] * 8 + [0.03] * 8 + [0.1] * 4 + [0.05] * 4
    ours, state = run(MaSS(lr=0.1, momentum=0.9, secondary=0.4), start(2), lr_t, dtype)
    expected = naive_wu(start(2), lr_t, 0.9, [0.4 * lr for lr in lr_t])
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-9 if dtype == torch.float64 else 1e-4)
    assert state["lr"].tolist() == [[torch.tensor(0.05, dtype=dtype).item()]] * 2
    kept = naive_wu(start(2), lr_t[:22], 0.9, [0.4 * lr for lr in lr_t[:22]])
    never = run(MaSS(lr=0.1, momentum=0.9, secondary=0.4), start(2), lr_t[:6] + [0.3] * 16)[0]
    assert np.abs(kept - never.numpy()).max() > 0.01


def test_the_step_after_a_cut_is_a_first_step():
    optimizer, x = MaSS(lr=0.3, momentum=0.9, secondary=0.4), start()
    before, state = run(optimizer, x)
    after, grad = before.clone(), torch.from_numpy(gradient(before.numpy(), 0))
    optimizer.update(after, grad.clone(), state, 0.1)
    torch.testing.assert_close(after, before - 0.1 * (1 + 0.9 - 0.4) * grad)


def columns(**values):
    """A MaSS whose fields are columns: set past the check, which wants numbers."""
    optimizer = object.__new__(MaSS)
    rest = {f.name: f.default for f in dataclasses.fields(MaSS)[1:]}
    column = lambda v: torch.tensor(v, dtype=torch.float64)[:, None]
    optimizer.__dict__.update(rest | {n: column(v) for n, v in values.items()})
    return optimizer


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": [0.1, 0.3, 0.2], "momentum": [0.0, 0.9, 0.5], "secondary": [0.0, 0.4, 0.7]},
        {"lr": [0.1, 0.3, 0.2], "alpha": [1.0, 0.05, 0.2], "kappa": [1.0, 2.0, 12.0]},
        {
            "lr": [0.1, 0.1, 0.1],
            "alpha": [0.1] * 3,
            "kappa": [3.0, 2.0, 1.0],
            "weight_decay": [0.0, 0.1, 0.2],
        },
    ],
)
def test_fields_may_be_columns(fields):
    together = run(columns(**fields), start(3))[0]
    apart = [
        run(MaSS(**{n: v[c] for n, v in fields.items()}), start(3)[c : c + 1])[0].numpy() for c in range(3)
    ]
    np.testing.assert_allclose(together.numpy(), np.concatenate(apart), rtol=1e-9, atol=1e-12)


def test_every_row_starts_anew_on_its_own():
    """Rows whose step size is cut, kept, raised, and zero for a while."""
    lr_tC = [[0.3, 0.1, 0.1, 0.0]] * 9 + [[0.1, 0.1, 0.3, 0.1]] * 9 + [[0.1, 0.1, 0.1, 0.0]] * 9
    optimizer = MaSS(lr=0.1, momentum=0.9, secondary=0.4)
    together = run(optimizer, start(4), torch.tensor(lr_tC, dtype=torch.float64)[:, :, None])[0]
    for c in range(4):
        lr_t = [lr[c] for lr in lr_tC]
        expected = naive_wu(start(4)[c], lr_t, 0.9, [0.4 * lr for lr in lr_t])
        np.testing.assert_allclose(together[c].numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("cut", [lambda t: t, lambda t: t[:, ::2]], ids=["rows", "columns"])
def test_compiles_as_one_graph_and_writes_into_any_view(cut):
    torch.compiler.reset()
    wide = torch.tensor(np.tile(start(3), 2))
    expected = cut(wide).clone()
    optimizer = MaSS(lr=0.1, alpha=0.2, kappa=3)
    state = {n: cut(s.repeat(1, 2)) if n == "velocity" else s for n, s in optimizer.init(cut(wide)).items()}
    state["velocity"] = state["velocity"][:, : expected.shape[1]]
    same = optimizer.init(expected)
    compiled = torch.compile(optimizer.update, fullgraph=True, backend="aot_eager")
    for lr in (0.1, 0.1, 0.3, 0.05):
        lr_11 = torch.full((1, 1), lr, dtype=torch.float64)
        compiled(cut(wide), cut(wide).sin(), state, lr_11)
        optimizer.update(expected, expected.sin(), same, lr)
    torch.testing.assert_close(cut(wide), expected)
    torch.testing.assert_close(state, same)


def test_all_forms_of_the_engine_agree():
    """Clients of different sizes that keep their velocity, while the step size is cut and few take part."""
    schedule = rs.schedules.Step(lr=0.2, every=2, factor=0.5)
    local = rs.Local(optimizer=MaSS(lr=schedule, alpha=0.2, kappa=3), epochs=1, batch_size=8, keep_state=True)
    loop, *others = [
        digits(local=local, rounds=5, execution=rs.Execution(form=form, block=3)).run(None)
        for form in ("loop", "stacked", "inplace")
    ]
    for other in others:
        torch.testing.assert_close(other.x_P, loop.x_P, rtol=1e-4, atol=1e-5)
    forgetful = digits(local=dataclasses.replace(local, keep_state=False), rounds=5).run(None)
    assert (forgetful.x_P - loop.x_P).abs().max() > 1e-3


def test_a_client_that_keeps_its_state_follows_the_paper_through_the_rounds():
    problem = rs.data.Quadratic(clients=1, dimension=4)
    sim = rs.Simulation(
        data=problem,
        partition=rs.partitions.ByGroup(),
        model=rs.models.Linear(bias=False),
        local=rs.Local(
            optimizer=MaSS(lr=rs.schedules.Step(lr=0.4, every=3, factor=0.5), momentum=0.8, secondary=0.3),
            steps=4,
            keep_state=True,
        ),
        rounds=6,
    )
    data = problem.load()
    x, y = data.x_train.astype(np.float64), data.y_train[:, 0].astype(np.float64)
    u = sim.initial_model()[1].weight.detach().double().numpy()[0]
    w, last = u, np.inf
    for t in range(24):
        eta = 0.4 if t < 12 else 0.2
        w, last = (u if eta < last else w), eta
        g = x.T @ (x @ u - y) / len(x)
        w, u = u - eta * g, 1.8 * (u - eta * g) - 0.8 * w + 0.3 * eta * g
    np.testing.assert_allclose(sim.run(None).x_P.numpy(), u, atol=1e-5)


def test_a_server_steps_with_it():
    optimizer = MaSS(lr=rs.schedules.Step(lr=0.3, every=12), momentum=0.9, secondary=0.4)
    server = Server(torch.tensor(start()[0]))
    for t in range(STEPS):
        grad_P = torch.from_numpy(gradient(server.x_P.numpy(), t))
        server = dataclasses.replace(server.step(optimizer, grad_P), round=t + 1)
    lr_t = [optimizer.lr.value(t) for t in range(STEPS)]
    expected = naive_wu(start()[0], lr_t, 0.9, [0.4 * lr for lr in lr_t])
    np.testing.assert_allclose(server.x_P.numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "MaSS needs either momentum and secondary or alpha and kappa, got none of them. Write alpha"),
        ({"momentum": 0.9}, "got momentum=0.9"),
        ({"momentum": 0.9, "kappa": 2.0}, "got momentum=0.9, kappa=2.0"),
        ({"momentum": 0.9, "secondary": 0.4, "alpha": 0.1, "kappa": 2.0}, "secondary=0.4, alpha=0.1"),
        ({"momentum": 1.0, "secondary": 0.4}, r"MaSS\.momentum must be less than 1"),
        ({"momentum": 0.9, "secondary": -0.1}, r"MaSS\.secondary must be greater than or equal to 0"),
        ({"alpha": 0.0, "kappa": 2.0}, r"MaSS\.alpha must be greater than 0"),
        ({"alpha": 1.1, "kappa": 2.0}, r"MaSS\.alpha must be less than or equal to 1"),
        ({"alpha": 0.1, "kappa": 0.5}, r"MaSS\.kappa must be greater than or equal to 1"),
        ({"alpha": 0.1, "kappa": 2.0, "weight_decay": -1}, r"MaSS\.weight_decay must be"),
    ],
)
def test_wrong_fields_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        MaSS(lr=0.1, **fields)
