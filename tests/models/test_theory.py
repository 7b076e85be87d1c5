"""Networks of convergence theory: drawn as written, frozen where they should be, and linear in convergence."""

import numpy as np
import pytest
import torch

import raysim as rs
from raysim.core import streams
from raysim.core.batches import Batch
from raysim.core.losses import SquaredError
from raysim.core.task import Task
from raysim.models import DeepReLU, TwoLayer
from tests.experiments import arrays, digits


def dataset(features=20, outputs=3):
    x = np.zeros((4, features), np.float32)
    y = np.zeros((4, outputs), np.float32)
    return rs.data.Arrays(x_train=x, y_train=y, x_test=x, y_test=y).load()


def built(model, **shape):
    with streams.torch_default(streams.key("tests")):
        return model.build(dataset(**shape))


def linears(net):
    return [m for m in net if isinstance(m, torch.nn.Linear)]


def moments_are(weight, variance):
    """Mean and variance within five standard errors of N(0, variance)."""
    n = weight.numel()
    assert abs(weight.mean()) < 5 * (variance / n) ** 0.5
    assert abs(weight.var() / variance - 1) < 5 * (2 / n) ** 0.5


def test_deep_relu_is_drawn_as_written():
    *hidden, v = linears(built(DeepReLU(width=300, depth=3), features=50, outputs=20))
    assert [tuple(m.weight.shape) for m in hidden] == [(300, 50), (300, 300), (300, 300)]
    for layer in hidden:
        moments_are(layer.weight.detach(), 2 / 300)
        assert layer.weight.requires_grad
    moments_are(v.weight.detach(), 1 / 20)
    assert not v.weight.requires_grad
    assert all(m.bias is None for m in [*hidden, v])


@pytest.mark.parametrize("scale", ["1/sqrt(m)", "1/m"])
@pytest.mark.parametrize("signs", ["random", "balanced", "positive"])
def test_two_layer_is_drawn_as_written(scale, signs):
    w, a = linears(built(TwoLayer(width=400, scale=scale, signs=signs), features=50, outputs=4))
    moments_are(w.weight.detach(), 1.0)
    factor = {"1/sqrt(m)": 400**-0.5, "1/m": 1 / 400}[scale]
    sign = (a.weight / factor).round(decimals=5)
    assert set(sign.unique().tolist()) == ({1.0} if signs == "positive" else {-1.0, 1.0})
    share = (sign > 0).float().mean(1)
    assert ((share - 0.5).abs() < {"random": 0.15, "balanced": 1e-6, "positive": 0.6}[signs]).all()
    if signs != "positive":
        assert not torch.equal(sign[0], sign[1])
    assert (w.weight.requires_grad, a.weight.requires_grad) == (True, False)


def test_forward_is_the_formula():
    x = np.random.Generator(np.random.PCG64(1)).standard_normal((5, 20)).astype(np.float32)
    relu = lambda z: np.maximum(z, 0)
    deep = built(DeepReLU(width=30, depth=2))
    w1, w2, v = (m.weight.detach().numpy() for m in linears(deep))
    expected = np.stack([v @ relu(w2 @ relu(w1 @ row)) for row in x])
    np.testing.assert_allclose(deep(torch.from_numpy(x)).detach(), expected, rtol=1e-5, atol=1e-5)
    two = built(TwoLayer(width=30), outputs=1)
    w, a = (m.weight.detach().numpy() for m in linears(two))
    expected = [sum(np.sign(a[0, j]) * max(0, w[j] @ row) for j in range(30)) / 30**0.5 for row in x]
    np.testing.assert_allclose(two(torch.from_numpy(x)).detach()[:, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", [DeepReLU(width=6, depth=2), TwoLayer(width=8)])
def test_gradient_is_that_of_finite_differences_and_skips_what_is_frozen(model):
    net = built(model).double()
    task = Task(net, SquaredError())
    assert task.sizes == [m.weight.numel() for m in linears(net)[:-1]]
    gen = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=gen, dtype=torch.float64)
    batch = Batch(draw(1, 4, 20), draw(1, 4, 3))
    x_CP = task.initial()[None]
    grad_P = task.chained(x_CP, batch, torch.empty_like(x_CP))[1][0]
    for i in range(0, task.P, 7):
        e = torch.zeros_like(x_CP)
        e[0, i] = 1e-6
        slope = (task.value(x_CP + e, batch) - task.value(x_CP - e, batch)) / 2e-6
        torch.testing.assert_close(slope[0], grad_P[i], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("model", [DeepReLU(width=32, depth=2), TwoLayer(width=64)])
def test_forms_agree_and_frozen_parts_stay(model):
    fields = {"data": rs.data.UnitSphere(rs.data.Digits()), "model": model, "rounds": 2}
    local = rs.Local(optimizer=rs.optimizers.SGD(lr=0.2, momentum=0.5), epochs=1, batch_size=8)
    runs = [
        digits(**fields, local=local, execution=rs.Execution(form=f, block=3)).run(None)
        for f in ("auto", "inplace", "stacked", "loop")
    ]
    assert torch.equal(
        runs[0].x_P, runs[1].x_P
    )  # a frozen last layer does not keep a chain from running in place
    for other in runs[2:]:
        torch.testing.assert_close(runs[0].x_P, other.x_P, rtol=1e-4, atol=1e-5)
    start, end = digits(**fields).initial_model(), runs[0].model()
    assert torch.equal(end[-1].weight, start[-1].weight)
    assert not torch.equal(end[1].weight, start[1].weight)


@pytest.mark.parametrize(("model", "lr"), [(DeepReLU(width=512, depth=2), 0.02), (TwoLayer(width=1024), 1.0)])
def test_local_gd_on_a_wide_network_is_linear_in_rounds(model, lr):
    """Random labels on 40 points of the sphere: the loss shrinks by about the same factor every few rounds."""
    sim = digits(
        data=rs.data.UnitSphere(arrays(n=40, features=30)),
        partition=rs.partitions.LabelShards(clients=4),
        model=model,
        local=rs.Local(optimizer=rs.optimizers.SGD(lr=lr), steps=5),
        cohort=None,
        rounds=60,
    )
    loss = sim.run(None).metrics["train_loss"].to_numpy()[1:]
    assert loss[-1] < 0.02 * loss[0]
    assert (np.diff(loss) < 0).all()
    first, last = (np.log(loss[a] / loss[a + 15]) for a in (15, 44))
    assert last > 0.25 * first > 0  # no plateau: the rate falls only as the slowest directions remain


def test_needs_real_numbers():
    tokens = np.zeros((4, 5), np.int64)
    data = rs.data.Arrays(x_train=tokens, y_train=tokens, x_test=tokens, y_test=tokens).load()
    for model in (DeepReLU(), TwoLayer()):
        with pytest.raises(rs.ConfigError, match="inputs of real numbers"):
            model.build(data)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DeepReLU(width=0),
        lambda: DeepReLU(depth=0),
        lambda: TwoLayer(scale="1"),
        lambda: TwoLayer(signs="half"),
    ],
)
def test_bad_fields(make):
    with pytest.raises(rs.ConfigError):
        make()
