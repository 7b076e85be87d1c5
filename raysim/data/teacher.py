"""A network that teaches another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raysim.core import streams
from raysim.core.interfaces import Data, Dataset
from raysim.core.losses import SquaredError
from raysim.core.plugin import Count, NonNegative


@dataclass(frozen=True)
class Teacher(Data):
    """Teacher-student regression: a random two-layer ReLU network answers, and students must imitate it.

    y = (1/√width) Σ_j a_j max(0, w_j·x) + noise, with unit vectors w_j of uniform direction and a_j = ±1.

    Args:
        dimension: length of an input.
        width: hidden neurons of the teacher.
        examples: training examples.
        test: test examples; their targets have no noise.
        noise: standard deviation of the Gaussian noise on the training targets.
        sphere: inputs uniform on the unit sphere instead of N(0, I).
        positive: all a_j = 1, as for students whose output weights cannot be negative.
        seed: which teacher and which examples.

    Paper: Zhou, Ge, Jin, A Local Convergence Theory for Mildly Over-Parameterized Two-Layer Neural Network,
    2021, https://arxiv.org/abs/2102.02410
    """

    dimension: Count = 20
    width: Count = 5
    examples: Count = 2000
    test: Count = 1000
    noise: NonNegative = 0.0
    sphere: bool = False
    positive: bool = False
    seed: int = 0

    def network(self) -> tuple[Tensor, Tensor]:
        """The teacher's weights: w [width, dimension] and a [width] without the 1/√width, both float64."""
        w = streams.normal(streams.key(self.seed, "teacher", "neurons"), self.width, self.dimension).double()
        sign = 2.0 * streams.integers(streams.key(self.seed, "teacher", "signs"), 2, self.width).double() - 1
        return w / w.norm(dim=-1, keepdim=True), torch.ones_like(sign) if self.positive else sign

    def load(self) -> Dataset:
        """The examples and the teacher's answers, [n, 1]."""
        x_train, y_train = self._examples("train", self.examples)
        x_test, y_test = self._examples("test", self.test)
        y_train += self.noise * streams.normal(streams.key(self.seed, "teacher", "noise"), self.examples, 1)
        arrays = (part.numpy() for part in (x_train, y_train, x_test, y_test))
        return Dataset(*arrays, loss=SquaredError(), outputs=1)

    def _examples(self, part: str, number: int) -> tuple[Tensor, Tensor]:
        x = streams.normal(streams.key(self.seed, "teacher", part), number, self.dimension)
        if self.sphere:
            x = x / x.norm(dim=-1, keepdim=True)
        w, a = self.network()
        y = (x.double() @ w.T).relu() @ a / self.width**0.5
        return x, y.float().unsqueeze(-1)
