"""Which examples a stack of clients sees at each local step, gathered for all of them at once.

Clients come ordered by their number of steps, so those that still train at a step are a prefix of the stack: a padded
step does not exist. A batch shorter than the others' is padded with examples of weight zero.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.cohorts import Shards
from raysim.core.local import Local


@dataclass
class Batch:
    """One local step's examples of C clients.

    Args:
        x_CB: inputs, [C, B, ...].
        y_CB: labels or targets, [C, B, ...].
        weight_CB: weight of each example in its client's loss, rows sum to 1; None means all 1/B.
        key_C: key of the step's own randomness (the network's dropout, the objective's), None for none: the network
            then runs without dropout and the objective leaves the inputs alone.
    """

    x_CB: Tensor
    y_CB: Tensor
    weight_CB: Tensor | None = None
    key_C: Tensor | None = None

    def rows(self, a: int, b: int) -> Batch:
        """Clients a..b-1 of the batch."""
        cut = lambda t: None if t is None else t[a:b]
        return Batch(self.x_CB[a:b], self.y_CB[a:b], cut(self.weight_CB), cut(self.key_C))


@dataclass
class Examples:
    """The training set on a device, stored client after client.

    Args:
        x: inputs of all clients, [n, ...].
        y: their labels or targets, [n, ...].
        shards: where each client's examples are.
        augment: random change of a stack of inputs (x_CB, key_C) -> x_CB, or None.
    """

    x: Tensor
    y: Tensor
    shards: Shards
    augment: Callable[[Tensor, Tensor], Tensor] | None = None
    _x: Tensor | None = None
    _y: Tensor | None = None

    def take(self, index: Tensor, keep: bool = False) -> tuple[Tensor, Tensor]:
        """Inputs and labels at ``index`` (one axis), in memory that the next call overwrites unless asked to keep it.

        The same memory for every batch stays in the cache.
        """
        if keep:
            return self.x.index_select(0, index), self.y.index_select(0, index)
        if self._x is None or self._y is None or len(self._x) < len(index):
            self._x, self._y = (t.new_empty(len(index), *t.shape[1:]) for t in (self.x, self.y))
        x, y = self._x[: len(index)], self._y[: len(index)]
        return torch.index_select(self.x, 0, index, out=x), torch.index_select(self.y, 0, index, out=y)


class Batches:
    """Batches of the clients ``ids_C`` for one round of ``local`` training, step by step.

    Args:
        local: steps, batch size and order.
        examples: the training set.
        ids_C: clients, ordered by decreasing number of steps.
        key_C: their keys for this round.
        width: pad every batch to this many examples (None: the largest batch here).
        keys: give each step a key for the randomness of network and objective.
    """

    def __init__(
        self,
        local: Local,
        examples: Examples,
        ids_C: np.ndarray,
        key_C: Tensor,
        width: int | None = None,
        keys: bool = False,
    ) -> None:
        self.examples, self.key_C, self.size_C = examples, key_C, examples.shards.sizes_N[ids_C]
        self.keys, self.augment = keys, None if local.batch_size is None else examples.augment
        start, sizes = examples.shards.start_N[ids_C], self.size_C
        self.steps_C = local.steps_of(sizes)
        self.steps = int(self.steps_C.max(initial=0))
        self.full = local.batch_size is None
        batch = int(sizes.max()) if local.batch_size is None else min(local.batch_size, int(sizes.max()))
        self.width = width or batch
        self._fixed: Batch | None = None
        self.weight_CKB: Tensor | None = None
        if self.full:
            place_CKB = torch.arange(self.width, device=key_C.device).expand(len(ids_C), 1, -1)
            chosen_CKB = place_CKB
        else:
            place_CKB, chosen_CKB = self._positions(local, sizes)
        if self._padded() or self.width != batch:
            size = torch.from_numpy(sizes).to(key_C.device)[:, None, None]
            valid_CKB = place_CKB < size
            self.weight_CKB = (valid_CKB / valid_CKB.sum(-1, keepdim=True)).to(torch.float32)
            chosen_CKB = torch.where(valid_CKB, chosen_CKB, 0)
        index_CKB = chosen_CKB + torch.from_numpy(start).to(key_C.device)[:, None, None]
        self.index_KCB = index_CKB.transpose(0, 1).contiguous()  # a step's indices side by side

    def _padded(self) -> bool:
        """Whether some batch is smaller than the width."""
        return bool((self.size_C != self.width).any() if self.full else (self.size_C % self.width).any())

    def part(self, a: int, b: int, width: int | None = None) -> Batches:
        """The batches of clients a..b-1, no longer and no wider than they need (or as wide as asked)."""
        part = copy.copy(self)
        part.size_C, part.steps_C, part.key_C = self.size_C[a:b], self.steps_C[a:b], self.key_C[a:b]
        part.steps, part.width = (
            int(part.steps_C.max(initial=0)),
            width or min(self.width, int(part.size_C.max())),
        )
        steps = slice(None) if self.full else slice(part.steps)
        part.index_KCB = self.index_KCB[steps, a:b, : part.width]
        if self.weight_CKB is not None:
            part.weight_CKB = self.weight_CKB[a:b, steps, : part.width] if part._padded() else None
        return part

    def _positions(self, local: Local, sizes_C: np.ndarray) -> tuple[Tensor, Tensor]:
        """Places in the epoch's order, and in the client's data, of every example of every step: [C, K, B] each."""
        assert local.batch_size is not None
        device, longest = self.key_C.device, int(sizes_C.max())
        per_epoch_C1 = torch.from_numpy(-(-sizes_C // local.batch_size)).to(device)[:, None]
        step_K = torch.arange(self.steps, device=device)
        epoch_CK = step_K // per_epoch_C1
        place_CKB = (step_K % per_epoch_C1)[..., None] * local.batch_size + torch.arange(
            self.width, device=device
        )
        if self.width > local.batch_size:  # beyond the batch there is only padding
            place_CKB[..., local.batch_size :] = longest
        if not local.shuffle or self.steps == 0:
            return place_CKB, place_CKB
        epochs = int(epoch_CK.max()) + 1
        key_CE = streams.key(self.key_C[:, None], "order", torch.arange(epochs, device=device))
        draw = streams.bits(key_CE, longest)  # a client's draws know nothing of the stack it is in
        if (sizes_C != longest).any():
            beyond = (
                torch.arange(longest, device=device) >= torch.from_numpy(sizes_C).to(device)[:, None, None]
            )
            draw.masked_fill_(beyond, torch.iinfo(torch.int64).max)
        order_CEM = torch.argsort(draw, dim=-1, stable=True)
        flat = order_CEM.view(len(sizes_C), -1)
        at = epoch_CK[..., None] * longest + place_CKB.clamp(max=longest - 1)
        return place_CKB, flat.gather(1, at.view(len(sizes_C), -1)).view_as(at)

    def active(self, step: int) -> int:
        """How many clients, from the first, train at ``step``."""
        if len(self.steps_C) and self.steps_C[-1] > step:
            return len(self.steps_C)
        return int(np.searchsorted(-self.steps_C, -step, side="left"))

    def segments(self, first: int = 0) -> Iterator[tuple[int, range]]:
        """(clients, steps): stretches of steps, from step ``first``, through which the same first clients train."""
        while first < self.steps:
            clients = self.active(first)
            last = int(self.steps_C[clients - 1])
            yield clients, range(first, last)
            first = last

    def at(self, step: int, keep: bool = False) -> Batch:
        """The batch of the clients that train at ``step``; unless asked to ``keep`` it, the next one overwrites it."""
        rows = self.active(step)
        if self.full and self._fixed is not None:
            batch = self._fixed.rows(0, rows)
        else:
            batch = self._gather(
                self.index_KCB[0 if self.full else step, :rows], rows, 0 if self.full else step, keep
            )
            self._fixed = batch if self.full and rows == len(self.steps_C) else None
        if self.keys or self.augment:
            key_C = streams.key(self.key_C[:rows], "step", step)
            batch.key_C = key_C if self.keys else None
            if self.augment:
                batch.x_CB = self.augment(batch.x_CB, streams.key(key_C, "augment"))
        return batch

    def _gather(self, index_CB: Tensor, rows: int, step: int, keep: bool) -> Batch:
        flat, shape = index_CB.reshape(-1), index_CB.shape
        x, y = self.examples.take(flat, keep)
        x, y = x.view(*shape, *x.shape[1:]), y.view(*shape, *y.shape[1:])
        weight = None if self.weight_CKB is None else self.weight_CKB[:rows, step]
        return Batch(x, y, weight)


def whole(examples: Examples, ids_C: np.ndarray) -> Batch:
    """Every example of each client, padded to the largest: the batch of a full local gradient."""
    start = torch.from_numpy(examples.shards.start_N[ids_C])[:, None]
    size = torch.from_numpy(examples.shards.sizes_N[ids_C])[:, None]
    place = torch.arange(int(size.max()))
    valid_CB = place < size
    index_CB = (start + torch.where(valid_CB, place, 0)).to(examples.x.device)
    x, y = examples.x[index_CB], examples.y[index_CB]
    if bool(valid_CB.all()):
        return Batch(x, y)
    return Batch(x, y, (valid_CB / valid_CB.sum(-1, keepdim=True)).to(x.device, torch.float32))
