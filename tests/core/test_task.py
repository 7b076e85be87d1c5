"""Task and chain: three ways to the same gradient, dropout that knows no stack, networks that are refused."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import raysim as rs
from raysim.core import streams
from raysim.core.batches import Batch
from raysim.core.losses import CrossEntropy, SquaredError
from raysim.core.task import Task

GEN = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=GEN)


def network(kind):
    return {
        "relu": lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
        "tanh, no bias": lambda: nn.Sequential(
            nn.Linear(6, 4, bias=False), nn.Tanh(), nn.Linear(4, 3, bias=False)
        ),
        "deep sigmoid": lambda: nn.Sequential(
            nn.Linear(6, 4), nn.Sigmoid(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)
        ),
        "linear": lambda: nn.Sequential(nn.Linear(6, 3)),
    }[kind]()


@pytest.mark.parametrize("kind", ["relu", "tanh, no bias", "deep sigmoid", "linear"])
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()])
@pytest.mark.parametrize("padded", [False, True])
def test_forms_agree_with_autograd(kind, loss, padded):
    module = network(kind)
    task = Task(module, loss)
    x_CP = task.initial() + 0.1 * randn(4, task.P)
    y = torch.randint(0, 3, (4, 7), generator=GEN) if isinstance(loss, CrossEntropy) else randn(4, 7, 3)
    weight = torch.rand(4, 7, generator=GEN) if padded else None
    batch = Batch(randn(4, 7, 6), y, weight)
    loss_C, grad_CP = [], []
    for c in range(4):
        torch.nn.utils.vector_to_parameters(x_CP[c], module.parameters())
        out = module(batch.x_CB[c])
        each = (
            F.cross_entropy(out, y[c], reduction="none")
            if y.dim() == 2
            else 0.5 * (out - y[c]).pow(2).sum(-1)
        )
        value = each.mean() if weight is None else (each * weight[c]).sum()
        grad_CP.append(
            torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, list(module.parameters()))])
        )
        loss_C.append(value.detach())
    expected = torch.stack(loss_C), torch.stack(grad_CP)
    for got in (
        task.stacked(x_CP, batch),
        task.looped(x_CP, batch, torch.empty_like(x_CP)),
        task.chained(x_CP, batch, torch.full_like(x_CP, torch.nan)),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(task.value(x_CP, batch), expected[0], rtol=1e-5, atol=1e-6)


def test_accumulation_scales_both_ways():
    task = Task(network("relu"), CrossEntropy())
    x_CP, target = task.initial().repeat(2, 1), randn(2, task.P)
    batch = Batch(randn(2, 5, 6), torch.zeros(2, 5, dtype=torch.int64))
    before = target.clone()
    task.chain.accumulate(task.chain.views(x_CP), task.chain.views(target), 0.9, -0.3, batch)
    _, grad_CP = task.stacked(x_CP, batch)
    torch.testing.assert_close(target, 0.9 * before - 0.3 * grad_CP, rtol=1e-5, atol=1e-6)


def test_cross_entropy_spelled_out_survives_large_outputs():
    out_COB = torch.tensor([[[1e4], [0.0], [-1e4]]])
    for y in range(3):
        loss, grad = CrossEntropy().with_gradient(out_COB, torch.tensor([[y]]))
        assert loss.item() == F.cross_entropy(out_COB[:, :, 0], torch.tensor([y])).item()
        assert grad.isfinite().all()


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Linear(6, 3), nn.ReLU()),
        nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)),
        nn.Sequential(nn.Linear(6, 6), nn.GELU(), nn.Linear(6, 3)),
        nn.ModuleList([nn.Linear(6, 3)]),
    ],
)
def test_what_is_no_chain_is_not_taken_for_one(module):
    assert Task(module, CrossEntropy()).chain is None


@pytest.mark.parametrize("layer", [1, 3])
def test_frozen_layers_only_pass_the_gradient_on(layer):
    module = network("relu")
    module[layer].requires_grad_(False)
    task = Task(module, CrossEntropy())
    assert sum(task.sizes) == (6 * 5 + 5 if layer == 3 else 5 * 3 + 3)
    x_CP = task.initial() + 0.1 * randn(4, task.P)
    batch = Batch(randn(4, 7, 6), torch.randint(0, 3, (4, 7), generator=GEN))
    into = torch.full_like(x_CP, torch.nan)
    torch.testing.assert_close(task.chained(x_CP, batch, into), task.stacked(x_CP, batch))


def test_half_frozen_layers_are_no_chain():
    module = network("relu")
    module[3].bias.requires_grad_(False)
    assert Task(module, CrossEntropy()).chain is None


@pytest.mark.parametrize("kind", ["relu", "tanh, no bias", "deep sigmoid", "linear"])
@pytest.mark.parametrize("loss", [CrossEntropy(), SquaredError()])
def test_input_gradients_agree_with_autograd(kind, loss):
    task = Task(network(kind), loss)
    x_CP = task.initial() + 0.1 * randn(3, task.P)
    y = torch.randint(0, 3, (3, 4), generator=GEN) if isinstance(loss, CrossEntropy) else randn(3, 4, 3)
    batch = Batch(randn(3, 4, 6), y, torch.rand(3, 4, generator=GEN))
    expected = torch.empty(3, 4, 6)
    for c in range(3):
        torch.nn.utils.vector_to_parameters(x_CP[c], task.module.parameters())
        for b in range(4):
            x = batch.x_CB[c, b : b + 1].clone().requires_grad_()
            value = loss.per_example(task.module(x), y[c, b : b + 1])
            expected[c, b] = torch.autograd.grad(value.sum(), x)[0][0]
    chain = task.chain
    for got in (
        task.input_gradient(x_CP, batch),
        task.input_gradient_looped(x_CP, batch),
        chain.input_gradient(chain.views(x_CP), batch),
    ):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


def test_input_gradients_see_the_dropout_of_the_step():
    task = dropout_task()
    x_CP, keys = task.initial().repeat(3, 1), streams.key(0, torch.arange(3))
    batch = Batch(randn(3, 4, 6), torch.zeros(3, 4, dtype=torch.int64), None, keys)
    stacked = task.input_gradient(x_CP, batch)
    torch.testing.assert_close(stacked, task.input_gradient_looped(x_CP, batch))
    batch.key_C = None
    assert not torch.allclose(stacked, task.input_gradient(x_CP, batch))


def dropout_task():
    return Task(nn.Sequential(nn.Linear(6, 50), nn.Dropout(0.4), nn.Linear(50, 3)), CrossEntropy())


def test_dropout_is_the_same_in_any_stack_and_form():
    task = dropout_task()
    x_CP, keys = task.initial().repeat(3, 1), streams.key(0, torch.arange(3))
    batch = Batch(randn(3, 4, 6), torch.zeros(3, 4, dtype=torch.int64), None, keys)
    stacked, looped = task.stacked(x_CP, batch), task.looped(x_CP, batch, torch.empty_like(x_CP))
    torch.testing.assert_close(stacked, looped)
    torch.testing.assert_close(task.stacked(x_CP[1:2], batch.rows(1, 2))[1], stacked[1][1:2])
    assert not torch.allclose(stacked[1][0], stacked[1][1])


def test_dropout_keeps_the_mean_and_stops_in_evaluation():
    task = dropout_task()
    layer = task.module[1]
    layer.train()
    outs = []
    for k in range(200):
        layer.key = streams.key(k)
        outs.append(layer(torch.ones(10, 50)))
    share = torch.stack(outs)
    assert abs((share == 0).float().mean() - 0.4) < 0.01
    assert abs(share.mean() - 1) < 0.02
    layer.eval()
    assert torch.equal(layer(torch.ones(3)), torch.ones(3))


def test_batch_norm_is_refused_with_advice():
    with pytest.raises(rs.ConfigError, match=r"batch normalisation.*nn.GroupNorm\(8, 8\)"):
        Task(nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)), CrossEntropy())


def test_dropout_by_the_global_generator_is_refused():
    with pytest.raises(rs.ConfigError, match="torch's global generator"):
        Task(nn.Sequential(nn.Conv2d(1, 8, 3), nn.Dropout2d(0.1)), CrossEntropy())


def test_no_parameters_is_refused():
    with pytest.raises(rs.ConfigError, match="no trainable parameters"):
        Task(nn.Sequential(nn.Flatten()), CrossEntropy())


def test_gradient_is_that_of_finite_differences_in_float64():
    task = Task(network("tanh, no bias").double(), SquaredError())
    x_CP = task.initial().unsqueeze(0)
    batch = Batch(randn(1, 4, 6).double(), randn(1, 4, 3).double())
    grad = task.stacked(x_CP, batch)[1][0]
    for i in range(0, task.P, 5):
        e = torch.zeros_like(x_CP)
        e[0, i] = 1e-6
        slope = (task.value(x_CP + e, batch) - task.value(x_CP - e, batch)) / 2e-6
        torch.testing.assert_close(slope[0], grad[i], rtol=1e-6, atol=1e-9)


def test_padding_changes_nothing():
    task = Task(network("relu"), CrossEntropy())
    x_CP, x, y = task.initial().repeat(2, 1), randn(2, 5, 6), torch.randint(0, 3, (2, 5), generator=GEN)
    padded = Batch(
        torch.cat([x, randn(2, 3, 6)], 1),
        torch.cat([y, y[:, :3]], 1),
        torch.tensor([0.2] * 5 + [0.0] * 3).repeat(2, 1),
    )
    into = lambda form: lambda *a: form(*a, torch.empty_like(x_CP))
    for form in (task.stacked, into(task.looped), into(task.chained)):
        torch.testing.assert_close(form(x_CP, padded), form(x_CP, Batch(x, y)), rtol=1e-5, atol=1e-7)


def test_evaluation_sums_over_examples():
    task = Task(network("linear"), CrossEntropy())
    x, y = randn(11, 6), torch.randint(0, 3, (11,), generator=GEN)
    loss, hits, number = task.evaluate(task.initial(), x, y)
    out = task.module(x)
    np.testing.assert_allclose(loss / number, F.cross_entropy(out, y).item(), rtol=1e-6)
    assert hits == (out.argmax(1) == y).sum()
