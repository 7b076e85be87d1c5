"""The honest reference: the loop one would write by hand in PyTorch, one client after the other, no framework."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from raysim.bench.workloads import Workload, arrays
from raysim.core import streams


class Loop:
    """One process, one model object.

    Args:
        w: the workload.
    """

    def __init__(self, w: Workload) -> None:
        self.w = w
        x, y = arrays(w)
        shape = (w.clients, w.per_client)
        self.x, self.y = torch.from_numpy(x).view(*shape, *w.shape), torch.from_numpy(y).view(shape)
        with streams.torch_default(streams.key(0, "model")):
            self.model = w.network()
        self.params: list[Tensor] = list(self.model.parameters())
        self.velocity = [self._zeros() for _ in range(w.clients)] if w.momentum else []

    def _zeros(self) -> list[Tensor]:
        return [torch.zeros_like(p) for p in self.params]

    def train(self, client: int) -> None:
        """One local epoch."""
        w = self.w
        for a, b in zip(self.x[client].split(w.batch), self.y[client].split(w.batch), strict=True):
            step = list(torch.autograd.grad(F.cross_entropy(self.model(a), b), self.params))
            with torch.no_grad():
                if self.velocity:
                    torch._foreach_mul_(self.velocity[client], w.momentum)
                    torch._foreach_add_(self.velocity[client], step)
                    step = self.velocity[client]
                torch._foreach_add_(self.params, step, alpha=-0.05)

    def round(self, cohort: list[int]) -> None:
        """Train a cohort and average it."""
        server = [p.detach().clone() for p in self.params]
        total = self._zeros()
        for client in cohort:
            with torch.no_grad():
                torch._foreach_copy_(self.params, server)
            if self.w.steps != 0:
                self.train(client)
            with torch.no_grad():
                torch._foreach_add_(total, self.params, alpha=1 / len(cohort))
        with torch.no_grad():
            torch._foreach_copy_(self.params, total)


def rate(w: Workload, rounds: int, warm: int = 1) -> float:
    """Client updates per second of the loop."""
    loop, begin = Loop(w), 0.0
    for r in range(warm + rounds):
        if r == warm:
            begin = time.perf_counter()
        size = (w.clients, w.cohort)
        loop.round(
            np.arange(w.clients).tolist()
            if size[0] == size[1]
            else streams.choice(streams.key(0, r, "cohort"), *size).tolist()
        )
    return rounds * w.cohort / (time.perf_counter() - begin)
