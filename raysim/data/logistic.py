"""The logistic regression that decentralised methods are compared on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import CrossEntropy
from raysim.core.plugin import Count, NonNegative, Positive


@dataclass(frozen=True)
class Logistic(Data):
    """Binary classification whose labels follow a logistic model of each client's own.

    x ~ N(0, scale I), P(y = 1 | x) = 1 / (1 + exp(-x·w_i)), w_i = w + heterogeneity z_i with w, z_i ~ N(0, I)
    for client i. ``groups`` is the client; the test set is drawn from all clients in turn. Learnt with
    cross-entropy over two outputs, whose difference is the logit.

    Args:
        clients: number of clients; partition them with ``ByGroup()``.
        dimension: length of an input.
        examples: training examples per client.
        test: test examples in all.
        scale: variance of each feature, above 0.
        heterogeneity: how far the clients' models lie apart; 0 for one model and IID data.
        seed: which problem.

    Paper: Chen, Yuan, Zhang, Pan, Xu, Yin, Accelerating Gossip SGD with Periodic Global Averaging, 2021,
    https://arxiv.org/abs/2105.09080
    """

    clients: Count = 20
    dimension: Count = 10
    examples: Count = 8000
    test: Count = 2000
    scale: Positive = 10.0
    heterogeneity: NonNegative = 0.0
    seed: int = 0

    def load(self) -> Dataset:
        """The examples, client after client."""
        ids = torch.arange(self.clients)
        w = self._normal("model", torch.tensor(0), self.dimension)
        w_i = w + self.heterogeneity * self._normal("offset", ids, self.dimension)
        x_train, y_train = self._examples("train", w_i, self.examples)
        rounds = -(-self.test // self.clients)
        x_test, y_test = (
            part.transpose(0, 1).flatten(0, 1)[: self.test] for part in self._examples("test", w_i, rounds)
        )
        return Dataset(
            x_train=x_train.flatten(0, 1).numpy(),
            y_train=y_train.flatten().numpy(),
            x_test=x_test.numpy(),
            y_test=y_test.numpy(),
            loss=CrossEntropy(),
            outputs=2,
            groups=ids.repeat_interleave(self.examples).numpy(),
        )

    def _normal(self, purpose: str, ids: Tensor, *shape: int) -> Tensor:
        """Standard normal; a client's numbers do not depend on how many clients there are."""
        return streams.normal(streams.key(self.seed, "logistic", purpose, ids), *shape)

    def _examples(self, part: str, w_i: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Inputs [clients, number, dimension] and labels [clients, number]."""
        ids = torch.arange(self.clients)
        x = self.scale**0.5 * self._normal(part, ids, number, self.dimension)
        chance = torch.sigmoid(x.double() @ w_i.double()[:, :, None]).squeeze(-1)
        coin = streams.uniform(streams.key(self.seed, "logistic", part, "coin", ids), number)
        return x, (coin < chance).to(torch.int64)
