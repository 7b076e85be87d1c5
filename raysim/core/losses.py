"""Losses: cross-entropy over classes (or tokens) and half the squared error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from raysim.core.interfaces import Loss


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """Cross-entropy of integer labels: -log softmax(out)[y], averaged over a sequence's positions.

    Paper: none; the logistic loss of the textbooks.
    """

    def per_example(self, out: Tensor, y: Tensor) -> Tensor:
        """``out`` [B, classes] or [B, length, classes], ``y`` [B] or [B, length] -> [B]."""
        log_p = F.log_softmax(out, -1)
        loss = -log_p.gather(-1, y.unsqueeze(-1)).squeeze(-1)
        return loss if loss.dim() == 1 else loss.mean(-1)

    def with_gradient(self, out_COB: Tensor, y_CB: Tensor) -> tuple[Tensor, Tensor]:
        """-log softmax(out)[y] and softmax(out) - onehot(y)."""
        index_C1B = y_CB.unsqueeze(1)
        log_p = F.log_softmax(out_COB, 1)
        loss_CB = -log_p.gather(1, index_C1B).squeeze(1)
        return loss_CB, log_p.exp_().scatter_(1, index_C1B, -1.0, reduce="add")

    def hits(self, out: Tensor, y: Tensor) -> Tensor:
        """1 where the largest output is the label; the share of right positions for a sequence."""
        right = (out.argmax(-1) == y).to(torch.float32)
        return right if right.dim() == 1 else right.mean(-1)


@dataclass(frozen=True)
class SquaredError(Loss):
    """Half the squared distance, ½||out - y||².

    Paper: none; least squares.
    """

    outputs_per_class = False

    def per_example(self, out: Tensor, y: Tensor) -> Tensor:
        """``out`` and ``y`` [B, outputs] -> [B]."""
        return 0.5 * (out - y).square().flatten(1).sum(-1)

    def with_gradient(self, out_COB: Tensor, y_CB: Tensor) -> tuple[Tensor, Tensor]:
        """½||out - y||² and out - y."""
        grad_COB = out_COB - y_CB.mT
        return 0.5 * grad_COB.square().sum(1), grad_COB
