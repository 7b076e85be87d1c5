"""Every optimiser against its torch namesake or a naive numpy version, and the laws all of them share."""

import numpy as np
import pytest
import torch

from raysim.core.plugin import ConfigError
from raysim.optimizers import SGD, Adagrad, Adam, AdamW, MaSS, Yogi

STEPS, P = 10, 7
TAU = 1e-3

EVERY = [
    SGD(lr=0.1),
    SGD(lr=0.1, weight_decay=0.02),
    SGD(lr=0.1, momentum=0.9),
    SGD(lr=0.1, momentum=0.9, weight_decay=0.02),
    SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
    Adam(lr=0.1),
    Adam(lr=0.1, beta1=0.0, weight_decay=0.02),
    Adam(lr=0.1, bias_correction=False, initial=TAU**2, eps=TAU),
    AdamW(lr=0.1, weight_decay=0.2),
    Adagrad(lr=0.1, initial=0.3),
    Yogi(lr=0.1),
    MaSS(lr=0.1, alpha=0.05, kappa=2.0),
    MaSS(lr=0.1, momentum=0.9, secondary=0.4, weight_decay=0.02),
]

NAMESAKES = [
    (SGD(lr=0.1), torch.optim.SGD, {}),
    (SGD(lr=0.1, momentum=0.9), torch.optim.SGD, {"momentum": 0.9}),
    (SGD(lr=0.1, momentum=0.9, nesterov=True), torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    (SGD(lr=0.1, weight_decay=0.02), torch.optim.SGD, {"weight_decay": 0.02}),
    (
        SGD(lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.02),
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.02},
    ),
    (Adam(lr=0.1), torch.optim.Adam, {}),
    (
        Adam(lr=0.1, beta1=0.8, beta2=0.95, eps=1e-4, weight_decay=0.02),
        torch.optim.Adam,
        {"betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.02},
    ),
    (AdamW(lr=0.1), torch.optim.AdamW, {}),
    (
        AdamW(lr=0.1, beta2=0.95, weight_decay=0.1),
        torch.optim.AdamW,
        {"betas": (0.9, 0.95), "weight_decay": 0.1},
    ),
    (Adagrad(lr=0.1), torch.optim.Adagrad, {}),
    (
        Adagrad(lr=0.1, eps=1e-3, initial=0.3),
        torch.optim.Adagrad,
        {"eps": 1e-3, "initial_accumulator_value": 0.3},
    ),
]


def numbers(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(x_CP, t):
    """A stretched quadratic, moved about from step to step."""
    return x_CP * torch.linspace(0.1, 2, x_CP.shape[-1], dtype=x_CP.dtype) + np.cos(3.0 * t)


def run(optimizer, x_CP, lr=None, steps=STEPS, update=None):
    x_CP, update = x_CP.clone(), update or optimizer.update
    state = optimizer.init(x_CP)
    for t in range(steps):
        update(x_CP, gradient(x_CP, t), state, optimizer.lr if lr is None else lr)
    return x_CP, state


@pytest.mark.parametrize(("ours", "theirs", "fields"), NAMESAKES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equals_the_torch_namesake(ours, theirs, fields, dtype):
    x_CP = numbers(3, P, dtype=dtype)
    expected = x_CP.clone().requires_grad_()
    optimizer = theirs([expected], lr=0.1, **fields)
    for t in range(STEPS):
        expected.grad = gradient(expected.detach(), t)
        optimizer.step()
    torch.testing.assert_close(run(ours, x_CP)[0], expected.detach())


def test_adam_in_float32_keeps_the_digits_of_its_bias_correction():
    """1 - 0.999 has three digits less than float32: the first step must still be lr, to six digits."""
    x_CP = torch.zeros(1, 1)
    optimizer = Adam(lr=1.0)
    optimizer.update(x_CP, torch.ones(1, 1), optimizer.init(x_CP), 1.0)
    assert x_CP.item() == pytest.approx(-1.0, abs=5e-7)


def naive_fedopt(kind, x, lr, beta1, beta2, tau, v_0):
    """Reddi et al.'s server step, coordinate by coordinate; delta is minus the gradient."""
    x = x.astype(np.float64).copy()
    m, v = np.zeros_like(x), np.full_like(x, v_0)
    for t in range(STEPS):
        delta = -gradient(torch.from_numpy(x)[None], t)[0].numpy()
        for i in range(len(x)):
            d = delta[i]
            m[i] = beta1 * m[i] + (1 - beta1) * d
            if kind == "adagrad":
                v[i] = v[i] + d * d
            elif kind == "adam":
                v[i] = beta2 * v[i] + (1 - beta2) * d * d
            else:
                v[i] = v[i] - (1 - beta2) * d * d * np.sign(v[i] - d * d)
            x[i] += lr * m[i] / (np.sqrt(v[i]) + tau)
    return x


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            Adam(lr=0.1, beta2=0.99, eps=TAU, initial=TAU**2, bias_correction=False),
            ("adam", 0.1, 0.9, 0.99, TAU, TAU**2),
        ),
        (Yogi(lr=0.1, beta2=0.99, eps=TAU, initial=TAU**2), ("yogi", 0.1, 0.9, 0.99, TAU, TAU**2)),
        (Adagrad(lr=0.1, eps=TAU, initial=TAU**2), ("adagrad", 0.1, 0.0, 0.0, TAU, TAU**2)),
        (Yogi(lr=0.01), ("yogi", 0.01, 0.9, 0.999, 1e-3, 1e-6)),
        (Yogi(lr=0.2, beta1=0.5, beta2=0.6, initial=2.0), ("yogi", 0.2, 0.5, 0.6, 1e-3, 2.0)),
    ],
)
def test_equals_the_papers_server_methods(ours, theirs):
    x_CP = numbers(1, P)
    kind, *rest = theirs
    torch.testing.assert_close(
        run(ours, x_CP)[0][0], torch.from_numpy(naive_fedopt(kind, x_CP[0].numpy(), *rest))
    )


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_stack_is_a_loop(optimizer):
    x_CP = numbers(5, P)
    stack, state = run(optimizer, x_CP)
    for c in range(5):
        row, row_state = run(optimizer, x_CP[c : c + 1])
        torch.testing.assert_close(stack[c : c + 1], row)
        assert state.keys() == row_state.keys()
        for name, rows in state.items():
            assert rows.shape[0] == 5
            torch.testing.assert_close(rows[c : c + 1], row_state[name])


@pytest.mark.parametrize("optimizer", EVERY)
def test_rows_with_different_pasts_step_together(optimizer):
    """Clients return after different numbers of steps: counters belong to rows."""
    fresh, used = numbers(1, P, seed=1), numbers(1, P, seed=2)
    used, used_state = run(optimizer, used, steps=3)
    x_CP = torch.cat([fresh, used])
    state = {n: torch.cat([rows, used_state[n]]) for n, rows in optimizer.init(fresh).items()}
    optimizer.update(x_CP, gradient(x_CP, 3), state, optimizer.lr)
    for row, row_state in ((fresh, optimizer.init(fresh)), (used, used_state)):
        optimizer.update(row, gradient(row, 3), row_state, optimizer.lr)
    torch.testing.assert_close(x_CP, torch.cat([fresh, used]))


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_column_of_step_sizes_is_separate_runs(optimizer):
    x_CP, lr_C1 = numbers(3, P), torch.tensor([[0.0], [0.1], [0.3]], dtype=torch.float64)
    together = run(optimizer, x_CP, lr=lr_C1)[0]
    apart = [run(optimizer, x_CP[c : c + 1], lr=lr_C1[c].item())[0] for c in range(3)]
    torch.testing.assert_close(together, torch.cat(apart))
    torch.testing.assert_close(together[0], x_CP[0])


COLUMNS = [
    (
        SGD(lr=0.1, momentum=0.5, nesterov=True, weight_decay=0.1),
        {"momentum": [0.0, 0.9], "weight_decay": [0.0, 0.1]},
    ),
    (SGD(lr=0.1, momentum=0.5), {"momentum": [0.0, 0.9]}),
    (Adam(lr=0.1, weight_decay=0.1), {"beta1": [0.0, 0.9], "beta2": [0.0, 0.99], "eps": [1e-8, 1e-3]}),
    (Adam(lr=0.1), {"weight_decay": [0.0, 0.1], "initial": [0.0, 0.5]}),
    (AdamW(lr=0.1), {"weight_decay": [0.0, 0.1], "beta2": [0.9, 0.99]}),
    (Adagrad(lr=0.1), {"eps": [1e-8, 1e-3], "initial": [0.0, 0.5]}),
    (Yogi(lr=0.1), {"beta1": [0.0, 0.9], "beta2": [0.9, 0.99], "initial": [0.0, 0.5], "eps": [1e-3, 1e-2]}),
]


@pytest.mark.parametrize(("optimizer", "fields"), COLUMNS)
def test_fields_may_be_columns(optimizer, fields):
    """A sweep trains as one stack, so every formula broadcasts (set past the check, which wants numbers)."""
    x_CP, apart = numbers(2, P), []
    for c in range(2):
        one = object.__new__(type(optimizer))
        one.__dict__.update(optimizer.__dict__ | {name: values[c] for name, values in fields.items()})
        apart.append(run(one, x_CP[c : c + 1])[0])
    column = lambda values: torch.tensor(values, dtype=torch.float64)[:, None]
    stack = object.__new__(type(optimizer))
    stack.__dict__.update(optimizer.__dict__ | {name: column(values) for name, values in fields.items()})
    torch.testing.assert_close(run(stack, x_CP)[0], torch.cat(apart))


@pytest.mark.parametrize("optimizer", EVERY)
def test_writes_in_place_into_any_view(optimizer):
    x_CP = numbers(3, P)
    expected = run(optimizer, x_CP)[0]
    wide = torch.zeros(6, 2 * P, dtype=torch.float64)
    rows = wide[1:4, ::2]
    rows.copy_(x_CP)
    strided = {
        n: torch.zeros(3, 2 * s.shape[1], dtype=s.dtype)[:, ::2] for n, s in optimizer.init(x_CP).items()
    }
    for name, value in optimizer.init(x_CP).items():
        strided[name].copy_(value)
    for t in range(STEPS):
        grad = torch.zeros(3, 2 * P, dtype=torch.float64)[:, ::2]
        grad.copy_(gradient(rows, t))
        optimizer.update(rows, grad, strided, optimizer.lr)
    torch.testing.assert_close(wide[1:4, ::2], expected)
    assert not wide[1:4, 1::2].any()
    assert not wide[[0, 4, 5]].any()


@pytest.mark.parametrize("optimizer", EVERY)
@pytest.mark.parametrize("view", ["rows", "columns"])
def test_compiles_as_one_graph(optimizer, view):
    torch.compiler.reset()
    cut = (lambda t: t[:2]) if view == "rows" else (lambda t: t[:2, ::2])
    x_CP = numbers(3, P)
    expected = cut(x_CP).clone()
    state, expected_state = optimizer.init(cut(x_CP)), optimizer.init(expected)
    compiled = torch.compile(optimizer.update, fullgraph=True, backend="aot_eager")
    for t in range(3):
        compiled(cut(x_CP), gradient(cut(x_CP), t), state, 0.1)
        optimizer.update(expected, gradient(expected, t), expected_state, 0.1)
    torch.testing.assert_close(cut(x_CP), expected)


@pytest.mark.parametrize("optimizer", EVERY)
def test_a_gradient_of_zero_gives_no_nan(optimizer):
    x_CP = torch.zeros(2, P)
    state = optimizer.init(x_CP)
    for _ in range(3):
        optimizer.update(x_CP, torch.zeros(2, P), state, 0.1)
    assert not x_CP.any()


@pytest.mark.parametrize("optimizer", [o for o in EVERY if isinstance(o, SGD)])
def test_accumulating_into_the_target_is_the_same_step(optimizer):
    x_CP = numbers(3, P)
    expected = run(optimizer, x_CP)[0]

    def accumulate(x_CP, grad_CP, state, lr):
        found = optimizer.accumulates(x_CP, state, lr)
        if found is None:
            return optimizer.update(x_CP, grad_CP, state, lr)
        target, beta, alpha = found
        target.mul_(beta).add_(grad_CP, alpha=alpha)
        return optimizer.settle(x_CP, state, lr)

    torch.testing.assert_close(run(optimizer, x_CP, update=accumulate)[0], expected)


def test_what_accumulates_where():
    x_CP = numbers(2, P)
    target, *coefficients = SGD(lr=0.5, weight_decay=0.1).accumulates(x_CP, {}, 0.5)
    assert target is x_CP
    assert coefficients == [0.95, -0.5]
    heavy = SGD(lr=0.5, momentum=0.9)
    state = heavy.init(x_CP)
    target, *coefficients = heavy.accumulates(x_CP, state, 0.5)
    assert target is state["velocity"]
    assert coefficients == [0.9, 1.0]
    assert heavy.accumulates(x_CP, state, torch.ones(2, 1)) is None
    assert SGD(lr=0.5, momentum=0.9, nesterov=True).accumulates(x_CP, state, 0.5) is None
    assert SGD(lr=0.5, momentum=0.9, weight_decay=0.1).accumulates(x_CP, state, 0.5) is None
    assert Adam(lr=0.5).accumulates(x_CP, {}, 0.5) is None


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: SGD(lr=-0.1), r"SGD\.lr must be greater than 0.*got -0\.1"),
        (lambda: SGD(lr=0), r"SGD\.lr must be greater than 0"),
        (lambda: SGD(lr="0.1"), r"SGD\.lr must be number or Schedule"),
        (lambda: SGD(lr=0.1, momentum=1.0), r"SGD\.momentum must be less than 1"),
        (lambda: SGD(lr=0.1, nesterov=True), r"SGD\.nesterov needs momentum.*Write momentum=0\.9"),
        (lambda: SGD(lr=0.1, weight_decay=-1), r"SGD\.weight_decay must be greater than or equal to 0"),
        (lambda: Adam(lr=0.1, beta2=1.0), r"Adam\.beta2 must be less than 1"),
        (lambda: Adam(lr=0.1, eps=0), r"Adam\.eps must be greater than 0"),
        (lambda: AdamW(lr=float("nan")), r"AdamW\.lr must be"),
        (lambda: Adagrad(lr=0.1, initial=-1), r"Adagrad\.initial must be greater than or equal to 0"),
        (lambda: Yogi(lr=0.1, beta1=-0.1), r"Yogi\.beta1 must be greater than or equal to 0"),
    ],
)
def test_wrong_fields_are_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
