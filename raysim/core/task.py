"""Model and loss as functions of a flat vector: the only place that knows about one client's network.

``x_P`` holds the trainable parameters in ``named_parameters()`` order. Named tensors are made by ONE ``torch.split``:
slicing layer by layer would write a full-length zero vector per layer in the backward pass.
"""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, grad_and_value, vmap

from raysim.core import streams
from raysim.core.batches import Batch
from raysim.core.chain import find_chain
from raysim.core.interfaces import Loss
from raysim.core.plugin import ConfigError


class StreamDropout(nn.Module):
    """Dropout whose mask is a hash of (client's key, layer, position): the same in any stack, on any actor.

    Args:
        p: probability of dropping.
        layer: number of the layer, so that layers drop independently.
    """

    key: Tensor

    def __init__(self, p: float, layer: int) -> None:
        super().__init__()
        self.p, self.layer = p, layer
        self.register_buffer("key", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Inverted dropout while training, nothing otherwise."""
        if not self.training or self.p == 0:
            return x
        keep = streams.uniform(streams.key(self.key, self.layer), x.numel()).view(x.shape) >= self.p
        return x * keep / (1 - self.p)


class Task:
    """Loss and gradient of one network on rows of parameters.

    Args:
        module: the network; copied; the copy's dropout layers are replaced by deterministic ones.
        loss: what its output is measured with.
        device: where it computes.
    """

    def __init__(self, module: nn.Module, loss: Loss, device: torch.device | str = "cpu") -> None:
        refuse_batch_norm(module)
        self.module = copy.deepcopy(module).to(device)
        self.dropouts = _replace_dropout(self.module)
        self._alone = False
        if torch.device(device).type == "cpu":
            for layer in self.module.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.register_forward_hook(self._channels_last)
        self.loss = loss
        named = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        if not named:
            raise ConfigError(
                "The model has no trainable parameters. Give it at least one with requires_grad=True."
            )
        self.names = list(named)
        self.shapes = [p.shape for p in named.values()]
        self.sizes = [p.numel() for p in named.values()]
        self.P = sum(self.sizes)
        self.chain = find_chain(self.module, loss)
        self.module.requires_grad_(False)

    def initial(self) -> Tensor:
        """The module's own parameters as one vector [P]."""
        named = dict(self.module.named_parameters())
        return torch.cat([named[n].detach().reshape(-1) for n in self.names]).clone()

    def named(self, x_P: Tensor) -> dict[str, Tensor]:
        """Views of the vector under the parameters' names."""
        parts = torch.split(x_P, self.sizes)
        return {n: part.view(s) for n, part, s in zip(self.names, parts, self.shapes, strict=True)}

    def _loss(
        self, x_P: Tensor, x_B: Tensor, y_B: Tensor, weight_B: Tensor | None, key: Tensor | None
    ) -> Tensor:
        return self._loss_at(self.named(x_P), x_B, y_B, weight_B, key)

    def _loss_at(
        self,
        state: dict[str, Tensor],
        x_B: Tensor,
        y_B: Tensor,
        weight_B: Tensor | None,
        key: Tensor | None,
    ) -> Tensor:
        if key is not None:
            state |= {f"{name}.key": key for name in self.dropouts}
        loss_B = self.loss.per_example(functional_call(self.module, state, (x_B,)), y_B)
        return loss_B.mean() if weight_B is None else (loss_B * weight_B).sum()

    def _channels_last(self, layer: nn.Module, inputs: Any, out: Tensor) -> Tensor:
        """Channels side by side, one client at a time on a CPU: pooling is vectorised there (a step takes 0.8)."""
        return out.contiguous(memory_format=torch.channels_last) if self._alone and out.dim() == 4 else out

    def _mode(self, batch: Batch, alone: bool) -> Tensor | None:
        """Dropout runs where the batch carries keys for it; ``alone``: clients go through the network one by one."""
        self._alone = alone
        key_C = batch.key_C if self.dropouts else None
        self.module.train(key_C is not None)
        return key_C

    def stacked(self, x_CP: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss [C] and gradient [C, P] of every row on its own batch, all rows at once."""
        key_C = self._mode(batch, alone=False)
        gradient = vmap(grad_and_value(self._loss), in_dims=_rowwise(batch, key_C))
        grad_CP, loss_C = gradient(x_CP, batch.x_CB, batch.y_CB, batch.weight_CB, key_C)
        return loss_C, grad_CP

    @torch.no_grad()
    def stacked_value(self, x_CP: Tensor, batch: Batch) -> Tensor:
        """Loss [C] of every row on its own batch, all rows at once."""
        key_C = self._mode(batch, alone=False)
        value = vmap(self._loss, in_dims=_rowwise(batch, key_C))
        return value(x_CP, batch.x_CB, batch.y_CB, batch.weight_CB, key_C)

    def chained(self, x_CP: Tensor, batch: Batch, grad_CP: Tensor) -> tuple[Tensor, Tensor]:
        """The same for a chain of linear layers, written into ``grad_CP``."""
        assert self.chain is not None
        loss_C = self.chain.accumulate(self.chain.views(x_CP), self.chain.views(grad_CP), 0, 1, batch)
        return loss_C, grad_CP

    def looped(self, x_CP: Tensor, batch: Batch, grad_CP: Tensor) -> tuple[Tensor, Tensor]:
        """The same, one row after the other, written into ``grad_CP``."""
        key_C = self._mode(batch, alone=True)
        losses = []
        for c, x_P in enumerate(x_CP):
            parts = [part.requires_grad_() for part in self.named(x_P.detach()).values()]
            weight = None if batch.weight_CB is None else batch.weight_CB[c]
            with torch.enable_grad():
                loss = self._loss_at(
                    dict(zip(self.names, parts, strict=True)),
                    batch.x_CB[c],
                    batch.y_CB[c],
                    weight,
                    None if key_C is None else key_C[c],
                )
            grads = torch.autograd.grad(loss, parts, materialize_grads=True)
            torch.cat([g.reshape(-1) for g in grads], out=grad_CP[c])
            losses.append(loss.detach())
        return torch.stack(losses), grad_CP

    def input_gradient(self, x_CP: Tensor, batch: Batch) -> Tensor:
        """Gradient of each example's loss by its input, [C, B, ...], all rows at once."""
        key_C = self._mode(batch, alone=False)
        gradient = vmap(grad(self._sum_at), in_dims=(0, 0, 0, None if key_C is None else 0))
        return gradient(batch.x_CB, x_CP, batch.y_CB, key_C)

    def input_gradient_looped(self, x_CP: Tensor, batch: Batch) -> Tensor:
        """The same, one row after the other."""
        key_C = self._mode(batch, alone=True)
        rows = []
        for c, x_P in enumerate(x_CP):
            x_B = batch.x_CB[c].detach().requires_grad_()
            with torch.enable_grad():
                total = self._sum_at(x_B, x_P, batch.y_CB[c], None if key_C is None else key_C[c])
            rows += torch.autograd.grad(total, x_B, materialize_grads=True)
        return torch.stack(rows)

    def _sum_at(self, x_B: Tensor, x_P: Tensor, y_B: Tensor, key: Tensor | None) -> Tensor:
        """Sum of the examples' losses: an example's loss knows nothing of the others, so its gradient is its own."""
        return self._loss(x_P, x_B, y_B, torch.ones(len(x_B), device=x_B.device), key)

    @torch.no_grad()
    def value(self, x_CP: Tensor, batch: Batch) -> Tensor:
        """Loss [C] of every row on its batch, one row after the other."""
        key_C = self._mode(batch, alone=True)
        cut = lambda t, c: None if t is None else t[c]
        return torch.stack(
            [
                self._loss(x_P, batch.x_CB[c], batch.y_CB[c], cut(batch.weight_CB, c), cut(key_C, c))
                for c, x_P in enumerate(x_CP)
            ]
        )

    @torch.no_grad()
    def evaluate(self, x_P: Tensor, x_n: Tensor, y_n: Tensor) -> tuple[float, float | None, int]:
        """Sum of losses, sum of hits (None where accuracy has no meaning) and number of examples."""
        self.module.eval()
        self._alone = True
        out = functional_call(self.module, self.named(x_P), (x_n,))
        hits = self.loss.hits(out, y_n)
        total = self.loss.per_example(out, y_n).sum(dtype=torch.float64).item()
        return total, None if hits is None else hits.sum(dtype=torch.float64).item(), len(y_n)

    def vmap_refusal(self, batch: Batch) -> str | None:
        """Why this network cannot train as a stack, or None if it can (tried on the batch)."""
        x_CP = self.initial().expand(len(batch.y_CB), -1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                self.stacked(x_CP, batch)
            except (RuntimeError, NotImplementedError, ValueError, TypeError) as error:
                return str(error).strip().splitlines()[0]
        slow = [str(w.message) for w in caught if "performance drop" in str(w.message)]
        return slow[0].splitlines()[0] if slow else None  # vmap works, by a loop slower than ours


def _rowwise(batch: Batch, key_C: Tensor | None) -> tuple[int | None, ...]:
    """The axes of ``Task._loss``'s arguments along which clients lie."""
    return 0, 0, 0, None if batch.weight_CB is None else 0, None if key_C is None else 0


def refuse_batch_norm(module: nn.Module) -> None:
    """Batch statistics mix examples (padding would move numbers) and running ones have no meaning over clients."""
    for name, layer in module.named_modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            raise ConfigError(
                f"The model's layer '{name or type(layer).__name__}' is batch normalisation, whose statistics are not "
                f"defined over many clients. Use group normalisation in its place: nn.GroupNorm({_groups(layer)}, "
                f"{layer.num_features})."
            )


def _groups(layer: nn.modules.batchnorm._BatchNorm) -> int:
    return math.gcd(layer.num_features, 32)


def _replace_dropout(module: nn.Module) -> list[str]:
    """Swap every nn.Dropout for StreamDropout; returns their names."""
    names = [n for n, layer in module.named_modules() if isinstance(layer, nn.Dropout)]
    for number, name in enumerate(names):
        parent_name, _, child = name.rpartition(".")
        parent, old = module.get_submodule(parent_name), module.get_submodule(name)
        assert isinstance(old, nn.Dropout)
        setattr(parent, child, StreamDropout(old.p, number))
    other = [n for n, m in module.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
    other += [n for n, m in module.named_modules() if isinstance(m, nn.RNNBase) and m.dropout > 0]
    if other:
        raise ConfigError(
            f"The model's layer '{other[0]}' drops out by torch's global generator, which differs between actors. "
            "Use nn.Dropout, which raysim makes deterministic."
        )
    return names
