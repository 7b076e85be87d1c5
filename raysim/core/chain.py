"""Chains of linear layers, trained in place: the backward pass writes where the optimiser wants the gradient.

For z_l = h_{l-1} W_l^T + b_l, h_l = phi(z_l) the gradient of W_l is (dL/dz_l)^T h_{l-1}: one batched product per layer
for a whole stack of clients, which ``baddbmm`` can scale and add straight into the weights or the momentum. No gradient
is ever stored, no graph is built. On a CPU that is the fastest form for such networks. Frozen layers only pass the
gradient on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raysim.core.batches import Batch
from raysim.core.columns import Coefficient
from raysim.core.interfaces import Loss
from raysim.core.losses import CrossEntropy, SquaredError

ACTIVATIONS = {
    nn.ReLU: (torch.relu_, lambda grad, output: torch.ops.aten.threshold_backward(grad, output, 0)),
    nn.Tanh: (torch.tanh_, torch.ops.aten.tanh_backward),
    nn.Sigmoid: (torch.sigmoid_, torch.ops.aten.sigmoid_backward),
}
"""In place, and the gradient before it from (gradient behind it, its output)."""
SMALL = 4096
"""Weights of a layer whose gradients are quicker to add than to accumulate in place, by measurement."""


@dataclass(frozen=True)
class Layer:
    """One linear layer and the activation behind it.

    Args:
        inputs: width before.
        outputs: width after.
        bias: whether a bias follows the weight.
        activation: class of the activation, None for none.
        offset: where its weight begins in the flat vector.
        frozen: its parameters where they are not trained: they are no part of the flat vector.
    """

    inputs: int
    outputs: int
    bias: bool
    activation: type[nn.Module] | None
    offset: int
    frozen: tuple[Tensor, ...] = ()

    def views(self, rows_CP: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight [C, out, in] and bias [C, out] of every row, as views."""
        if self.frozen:
            weight, *bias = (p.expand(len(rows_CP), *p.shape) for p in self.frozen)
            return weight, bias[0] if bias else None
        size = self.inputs * self.outputs
        weight = rows_CP[:, self.offset : self.offset + size].view(len(rows_CP), self.outputs, self.inputs)
        start = self.offset + size
        return weight, rows_CP[:, start : start + self.outputs] if self.bias else None


class Chain:
    """Forward and backward of a chain of linear layers, for all rows at once, by hand.

    Args:
        layers: from input to output.
        loss: cross-entropy or squared error (whose gradients are closed forms).
    """

    def __init__(self, layers: list[Layer], loss: Loss) -> None:
        self.layers, self.loss = layers, loss

    def views(self, rows_CP: Tensor) -> list[tuple[Tensor, Tensor | None]]:
        """Weights and biases of every layer."""
        return [layer.views(rows_CP) for layer in self.layers]

    def cycled(self, rows_TP: Tensor, number: int) -> list[tuple[Tensor, Tensor | None]]:
        """The same for a stack of ``number`` rows that are these T ones, over and over.

        Of the first layer there are only T, which is where most weights of most networks are.
        """
        again = lambda t: None if t is None else t.repeat(number // len(rows_TP), *[1] * (t.dim() - 1))
        first, *rest = self.views(rows_TP)
        return [first, *((weight.repeat(number // len(rows_TP), 1, 1), again(bias)) for weight, bias in rest)]

    def accumulate(
        self,
        weights: list[tuple[Tensor, Tensor | None]],
        targets: list[tuple[Tensor, Tensor | None]],
        beta: Coefficient,
        alpha: Coefficient,
        batch: Batch,
    ) -> Tensor:
        """Target <- beta target + alpha gradient for every layer; returns the loss [C] at the weights before.

        Both coefficients are a number or a column [C, 1].
        """
        inputs, out_COB = self._forward(weights, batch.x_CB)
        loss_CB, z_COB = self.loss.with_gradient(out_COB, batch.y_CB)
        if batch.weight_CB is None:
            alpha = alpha / loss_CB.shape[1]  # the gradient is linear in z
        else:
            z_COB.mul_(batch.weight_CB.unsqueeze(1))
        if isinstance(alpha, Tensor):
            z_COB.mul_(alpha.view(-1, 1, 1))
        factor = None if isinstance(alpha, Tensor) else alpha
        for l in range(len(self.layers) - 1, -1, -1):
            weight, target = weights[l][0], targets[l]
            below_CBI = torch.bmm(z_COB.mT, weight) if l else None  # before the weight may change
            if not self.layers[l].frozen:
                _accumulate(target, z_COB, inputs[l], beta, factor)
            if below_CBI is not None:
                z_COB = _through(self.layers[l - 1].activation, below_CBI, inputs[l]).mT
        return _mean(loss_CB, batch)

    def outputs(self, weights: list[tuple[Tensor, Tensor | None]], x_CB: Tensor) -> Tensor:
        """Outputs [C, out, B] on inputs [C, B, ...]."""
        return self._forward(weights, x_CB)[1]

    def value(self, weights: list[tuple[Tensor, Tensor | None]], batch: Batch) -> Tensor:
        """Loss [C] at the weights, to the bit what ``accumulate`` returns there."""
        out_COB = self._forward(weights, batch.x_CB)[1]
        return _mean(self.loss.with_gradient(out_COB, batch.y_CB)[0], batch)

    def input_gradient(self, weights: list[tuple[Tensor, Tensor | None]], batch: Batch) -> Tensor:
        """Gradient of each example's loss by its input, [C, B, ...]."""
        inputs, out_COB = self._forward(weights, batch.x_CB)
        z_COB = self.loss.with_gradient(out_COB, batch.y_CB)[1]
        for l in range(len(self.layers) - 1, 0, -1):
            below_CBI = torch.bmm(z_COB.mT, weights[l][0])
            z_COB = _through(self.layers[l - 1].activation, below_CBI, inputs[l]).mT
        return torch.bmm(z_COB.mT, weights[0][0]).view_as(batch.x_CB)

    def _forward(
        self, weights: list[tuple[Tensor, Tensor | None]], x_CB: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """Inputs of every layer [C, B, in] and the last output, [C, out, B]."""
        h, inputs = x_CB.flatten(2), []
        for layer, (weight, bias) in zip(self.layers[:-1], weights[:-1], strict=True):
            inputs.append(h)
            if weight.stride(0) == 0:  # one weight for all clients: one product
                h = F.linear(h, weight[0], None if bias is None else bias[0])
            elif len(weight) < len(h):
                h = _by_trial(h, weight, bias)
            elif bias is None:
                h = torch.bmm(h, weight.mT)
            else:
                h = torch.baddbmm(bias.unsqueeze(1), h, weight.mT)
            if layer.activation is not None:
                ACTIVATIONS[layer.activation][0](h)
        weight, bias = weights[-1]
        if len(weight) < len(h):
            return [*inputs, h], _by_trial(h, weight, bias).mT
        out_COB = torch.bmm(weight, h.mT) if bias is None else torch.baddbmm(bias.unsqueeze(2), weight, h.mT)
        return [*inputs, h], out_COB


def _by_trial(x_CBI: Tensor, weight_TOI: Tensor, bias_TO: Tensor | None) -> Tensor:
    """Outputs [C, B, O] of a layer whose weights are these T, over and over, on inputs that T rows have in common."""
    T, (C, B, I) = len(weight_TOI), x_CBI.shape
    once = x_CBI.view(C // T, T, B, I)[:, 0].reshape(1, -1, I).expand(T, -1, -1)
    out = torch.bmm(once, weight_TOI.mT)
    if bias_TO is not None:
        out.add_(bias_TO.unsqueeze(1))
    return out.view(T, C // T, B, -1).transpose(0, 1).reshape(C, B, -1)


def _mean(loss_CB: Tensor, batch: Batch) -> Tensor:
    """Loss of each client on its batch, [C]."""
    return loss_CB.mean(1) if batch.weight_CB is None else (loss_CB * batch.weight_CB).sum(1)


def _accumulate(
    target: tuple[Tensor, Tensor | None],
    z_COB: Tensor,
    h_CBI: Tensor,
    beta: Coefficient,
    alpha: float | None,
) -> None:
    """Target <- beta target + alpha gradient for the weight and bias of one layer with z = W h + b.

    An alpha of None says that z holds each row's own. Such stacks may be of hundreds of rows: then a small layer's
    gradients are added from memory of their own, for rows that lie apart cost ``baddbmm_`` a call each.
    """
    if isinstance(beta, Tensor):
        target[0].mul_(beta.view(-1, 1, 1))
        if target[1] is not None:
            target[1].mul_(beta)
        beta = 1.0
    small = alpha is None and beta == 1 and target[0][0].numel() <= SMALL
    alpha = 1.0 if alpha is None else alpha
    if small:
        target[0].add_(torch.bmm(z_COB, h_CBI))
    else:
        target[0].baddbmm_(z_COB, h_CBI, beta=beta, alpha=alpha)
    if target[1] is not None:
        _add_scaled(target[1], z_COB.sum(2), beta, alpha)


def _add_scaled(target: Tensor, value: Tensor, beta: float, alpha: float) -> None:
    """Target <- beta target + alpha value; with beta = 0 whatever stood in the target is ignored, as in baddbmm."""
    if beta == 0:
        torch.mul(value, alpha, out=target)
        return
    if beta != 1:
        target.mul_(beta)
    target.add_(value, alpha=alpha)


def _through(activation: type[nn.Module] | None, grad: Tensor, output: Tensor) -> Tensor:
    """Gradient before an activation, from the one behind it and the activation's output."""
    return grad if activation is None else ACTIVATIONS[activation][1](grad, output)


def find_chain(module: nn.Module, loss: Loss) -> Chain | None:
    """The chain a network is, or None: nn.Sequential of (Flatten,) Linear and simple activations.

    A layer is trained as a whole or frozen as a whole.
    """
    if not isinstance(module, nn.Sequential) or not isinstance(loss, (CrossEntropy, SquaredError)):
        return None
    parts = list(module)
    if parts and isinstance(parts[0], nn.Flatten):
        parts = parts[1:]
    layers: list[Layer] = []
    offset = 0
    for part in parts:
        if isinstance(part, nn.Linear):
            parameters = list(part.parameters())
            trained = sum(p.requires_grad for p in parameters)
            if 0 < trained < len(parameters):
                return None
            frozen = () if trained else tuple(p.detach() for p in parameters)
            bias = part.bias is not None
            layers.append(Layer(part.in_features, part.out_features, bias, None, offset, frozen))
            offset += sum(p.numel() for p in parameters if trained)
        elif type(part) in ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1] = replace(layers[-1], activation=type(part))
        else:
            return None
    if not layers or layers[-1].activation:
        return None
    return Chain(layers, loss)
