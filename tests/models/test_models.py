"""Networks: shapes, numbers of parameters counted by hand, and the laws all of them share."""

import numpy as np
import pytest
import torch
from torch import nn

from raysim.core import streams
from raysim.core.chain import find_chain
from raysim.core.interfaces import Dataset
from raysim.core.losses import CrossEntropy
from raysim.core.plugin import ConfigError
from raysim.models import CNN, MLP, CharGRU, CharLSTM, Custom, DenseNet121, FedCNN, Linear, ResNet

N = 5


@pytest.fixture(autouse=True)
def initialisation():
    """Layers start from the same numbers in every run of a test."""
    with streams.torch_default(streams.key("tests")):
        yield


def images(*shape, outputs=10):
    x = torch.randn(N, *shape, generator=torch.Generator().manual_seed(0)).numpy()
    return Dataset(x, np.arange(N) % outputs, x, np.arange(N) % outputs, CrossEntropy(), outputs)


def text(length=6, vocabulary=11):
    x = (np.arange(N * length).reshape(N, length) * 7 + 3) % vocabulary
    return Dataset(x, np.roll(x, -1, 1), x, x, CrossEntropy(), vocabulary)


SMALL = [
    (Linear(), images(3, 4)),
    (Linear(bias=False), images(12)),
    (MLP(), images(12)),
    (MLP(hidden=(9, 8), activation="tanh"), images(1, 3, 4)),
    (MLP(hidden=(9,), activation="gelu"), images(12)),
    (CNN(channels=(3, 4), hidden=8), images(1, 8, 8)),
    (CNN(channels=(2, 3), hidden=8), images(3, 16, 17)),
    (FedCNN(), images(1, 6, 7)),
    (CharLSTM(embedding=3, hidden=5), text()),
    (CharGRU(embedding=3, hidden=5), text()),
    (Custom(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 10))), images(3, 4)),
]
LARGE = [
    (ResNet(), images(3, 4, 4)),
    (ResNet(depth=34, groups=2), images(1, 2, 2)),
    (DenseNet121(), images(3, 8, 8, outputs=100)),
]


def tensors(data):
    return torch.from_numpy(data.x_train), torch.from_numpy(data.y_train)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("model", "data"), SMALL + LARGE)
def test_trains_and_pads(model, data):
    """Right shape, a gradient for every parameter, examples that do not see each other: padding is free."""
    net = model.build(data).eval()
    x, y = tensors(data)
    x, y = (x, y) if (model, data) in SMALL else (x[:2], y[:2])
    out = net(x)
    assert out.shape == (*y.shape, data.outputs)
    data.loss.per_example(out, y).mean().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name
    with torch.no_grad():
        torch.testing.assert_close(net(x[:1]), out[:1].detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "data"), SMALL + LARGE)
def test_layers_are_fit_for_stacks_of_clients(model, data):
    for layer in model.build(data).modules():
        assert not isinstance(layer, nn.modules.batchnorm._BatchNorm)
        assert not getattr(layer, "inplace", False)
        assert not isinstance(layer, nn.RNNBase) or layer.dropout == 0


@pytest.mark.parametrize(("model", "data"), SMALL)
def test_gradient_is_the_finite_difference(model, data):
    """In float64, along one random direction: (f(p + h d) - f(p - h d)) / 2h = <gradient, d>."""
    net = model.build(data).double().eval()
    x, y = tensors(data)
    x = x.double() if x.is_floating_point() else x
    loss = lambda: data.loss.per_example(net(x), y).mean()
    ps = list(net.parameters())
    grads = torch.autograd.grad(loss(), ps)
    g = torch.Generator().manual_seed(1)
    direction = [torch.randn(p.shape, generator=g, dtype=torch.float64) for p in ps]
    h, values = 1e-6, []
    with torch.no_grad():
        for sign in (1, -2):
            for p, d in zip(ps, direction, strict=True):
                p.add_(d, alpha=sign * h)
            values.append(loss().item())
    slope = sum((gr * d).sum().item() for gr, d in zip(grads, direction, strict=True))
    assert (values[0] - values[1]) / (2 * h) == pytest.approx(slope, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(("model", "data"), [*SMALL, LARGE[0], LARGE[2]])
def test_a_stack_has_the_gradients_of_its_rows(model, data):
    """Parameters under vmap, as in the engine (but for LSTM: torch has no batching rule for it on a CPU)."""
    if isinstance(model, CharLSTM):
        pytest.skip("torch has no batching rule for its CPU LSTM: the engine loops")
    net = model.build(data).eval()
    x, y = tensors(data)
    x, y = x[:2], y[:2]
    loss = lambda params: data.loss.per_example(torch.func.functional_call(net, params, (x,)), y).mean()
    rows = {n: torch.stack([p.detach(), 0.9 * p.detach()]) for n, p in net.named_parameters()}
    stacked = torch.func.vmap(torch.func.grad(loss))(rows)
    for c in range(2):
        alone = {n: p[c].clone().requires_grad_() for n, p in rows.items()}
        grads = torch.autograd.grad(loss(alone), list(alone.values()))
        for name, grad in zip(alone, grads, strict=True):
            torch.testing.assert_close(stacked[name][c], grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "data", "count"),
    [
        (Linear(), images(1, 28, 28), 7_850),
        (Linear(bias=False), images(20), 200),
        (MLP(), images(1, 28, 28), 784 * 64 + 64 + 64 * 10 + 10),
        (MLP(hidden=(200, 200)), images(784), 199_210),
        (MLP(hidden=()), images(20), 210),
        (CNN(), images(1, 28, 28), 16 * 26 + 32 * (16 * 25 + 1) + 64 * 513 + 650),
        (CNN(), images(3, 32, 32), 16 * 76 + 32 * (16 * 25 + 1) + 64 * 801 + 650),
        (CNN(), images(1, 8, 8), 16 * 26 + 32 * (16 * 25 + 1) + 64 * 129 + 650),
        (CNN(channels=(6, 16), hidden=120), images(1, 28, 28), 6 * 26 + 16 * 151 + 120 * 257 + 1_210),
        (FedCNN(), images(3, 32, 32), 1_626_442),
        (FedCNN(), images(1, 28, 28, outputs=62), 320 + 18_496 + 128 * (64 * 144 + 1) + 62 * 129),
        (CharLSTM(), text(vocabulary=80), 80 * 8 + 4 * 256 * (8 + 256 + 2) + 4 * 256 * (512 + 2) + 80 * 257),
        (CharGRU(), text(vocabulary=80), 80 * 8 + 3 * 128 * (8 + 128 + 2) + 80 * 129),
    ],
)
def test_parameters(model, data, count):
    assert parameters(model.build(data)) == count


def residual_count(blocks, channels, classes):
    """Convolutions without bias, two numbers per channel and norm, a shortcut where the width changes."""
    count, width = channels * 64 * 9 + 2 * 64, 64
    for stage, number in enumerate(blocks):
        out = 64 * 2**stage
        for _ in range(number):
            count += 9 * width * out + 9 * out * out + 4 * out
            count += width * out + 2 * out if width != out else 0
            width = out
    return count + (width + 1) * classes


def dense_count(channels, classes, growth=32):
    """Each dense layer: norm, 1 x 1 to 4 growth, norm, 3 x 3 to growth; transitions halve the channels."""
    count, width = channels * 64 * 9 + 2 * 64, 64
    for block, layers in enumerate((6, 12, 24, 16)):
        for _ in range(layers):
            count += 2 * width + width * 4 * growth + 2 * 4 * growth + 4 * growth * growth * 9
            width += growth
        if block < 3:
            count += 2 * width + width * (width // 2)
            width //= 2
    return count + 2 * width + (width + 1) * classes


def test_parameters_of_deep_networks():
    assert residual_count((2, 2, 2, 2), 3, 10) == 11_173_962
    assert parameters(ResNet().build(images(3, 4, 4))) == 11_173_962
    deep = ResNet(depth=34).build(images(1, 4, 4, outputs=62))
    assert parameters(deep) == residual_count((3, 4, 6, 3), 1, 62)
    assert parameters(DenseNet121().build(images(3, 8, 8))) == dense_count(3, 10)


@pytest.mark.parametrize(("model", "stages"), [(ResNet(), [4, 4, 2, 1, 1]), (DenseNet121(), [8, 4, 2, 1])])
def test_the_first_layer_keeps_the_size_of_small_images(model, stages):
    """Heights seen on the way down, each once per stage."""
    heights = []
    net = model.build(images(3, stages[0], stages[0])).eval()
    parts = net if isinstance(model, ResNet) else net[0]
    names = ["conv1", "layer1", "layer2", "layer3", "layer4"] if isinstance(model, ResNet) else None
    names = names or ["conv0", "transition1", "transition2", "transition3"]
    for name in names:
        parts.get_submodule(name).register_forward_hook(lambda m, i, out: heights.append(out.shape[-1]))
    with torch.no_grad():
        net(torch.zeros(1, 3, stages[0], stages[0]))
    assert heights == stages


@pytest.mark.parametrize("groups", [1, 2, 32])
def test_groups_reach_every_norm(groups):
    for model in (ResNet(groups=groups), DenseNet121(groups=groups)):
        norms = [m for m in model.build(images(3, 8, 8)).modules() if isinstance(m, nn.GroupNorm)]
        assert len(norms) == (20 if isinstance(model, ResNet) else 121)
        assert {m.num_groups for m in norms} == {groups}


def test_fedcnn_starts_from_glorot():
    net = FedCNN().build(images(3, 32, 32))
    for layer in net:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            area = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
            bound = (6 / ((layer.weight.shape[0] + layer.weight.shape[1]) * area)) ** 0.5
            assert 0.9 * bound < layer.weight.abs().max() <= bound
            assert not layer.bias.any()


def test_linear_networks_are_chains_for_the_fast_path():
    for model in (Linear(), Linear(bias=False), MLP(hidden=(5, 4)), MLP(activation="tanh")):
        data = images(3, 4)
        assert find_chain(model.build(data), data.loss) is not None


def test_custom_builds_a_new_network_each_time():
    model = Custom(lambda: nn.Linear(3, 2))
    assert model.build(images(3)) is not model.build(images(3))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (
            lambda: CNN().build(images(784)),
            r"CNN needs images of shape \(channels, height, width\), got .*\(784,\)",
        ),
        (lambda: CNN().build(images(1, 3, 9)), r"CNN needs images of at least 4 x 4 pixels, got 3 x 9"),
        (lambda: FedCNN().build(images(1, 5, 9)), r"FedCNN needs images of at least 6 x 6 pixels, got 5 x 9"),
        (lambda: ResNet().build(images(32, 32)), r"ResNet needs images of shape"),
        (lambda: DenseNet121().build(images(3, 4, 4)), r"DenseNet121 needs images of at least 8 x 8"),
        (lambda: MLP().build(text()), r"MLP needs inputs of real numbers, got int64"),
        (lambda: CharLSTM().build(images(6)), r"CharLSTM needs sequences of tokens"),
        (
            lambda: Custom(lambda: None).build(images(3)),
            r"Custom\.factory must return an nn\.Module, got None",
        ),
        (lambda: Custom(nn.Linear(3, 2)), r"Custom\.factory must be a function.*Custom\(lambda: Linear"),
        (lambda: Custom("mlp"), r"Custom\.factory must be callable"),
        (lambda: ResNet(depth=50), r"ResNet\.depth must be 18 or 34, got 50"),
        (lambda: ResNet(norm="batch"), r"ResNet\.norm cannot be 'batch'.*Write norm='group'"),
        (lambda: DenseNet121(norm="layer"), r"DenseNet121\.norm must be 'group', got 'layer'"),
        (lambda: ResNet(groups=24), r"ResNet\.groups must divide 64, got 24\. Write groups=8"),
        (lambda: MLP(hidden=(0,)), r"MLP\.hidden must be greater than or equal to 1"),
        (lambda: MLP(activation="swish"), r"MLP\.activation must be 'relu', 'tanh' or 'gelu'"),
        (lambda: CNN(channels=(16,)), r"CNN\.channels must be"),
    ],
)
def test_what_does_not_fit_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()
